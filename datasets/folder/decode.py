"""Image files of any common type, decoded to arrays of bytes and checked."""

from __future__ import annotations

import io
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from cfbench.errors import UserError, one_line

from .graph_file import SMALLEST
from .modes import Mode, RefusedImage, Used, check_readable, in_eight_bits, white_of, with_clear_level
from .parents_table import raise_first

__all__ = ["LARGEST", "TYPES", "Decoded", "decode", "read_images", "warn_of_range"]

TYPES = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF",
    ".webp": "WEBP", ".ppm": "PPM", ".pgm": "PPM",
}  # fmt: skip
LARGEST = 256
"""Pixels of a side beyond which ``graph.toml`` has to give a size."""
NARROW = 1 / 16
"""Share of the range of 16-bit images below which a warning says that they become nearly black or flat."""
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Decoded:
    """Images uint8 [N, C, H, W], and the range that those of more than 8 bits use together, as shares of white."""

    images: Tensor
    used: Used


def read_images(
    names: Sequence[str], read: Callable[[str], bytes], mode: Mode, size: tuple[int, int] | None, where: str
) -> Decoded:
    """Return the images of the files ``names``, which have one size or are resized to one (H, W).

    They are in colour (C = 3) where ``mode`` says so, or says nothing and one of them is.

    Args:
        read: a file's contents.
        where: the folder, as errors name it.

    Raises:
        UserError: a file cannot be read as an image, is transparent or has several pages, or sizes differ.
    """
    images, ranges, mistakes = [], [], []
    for name in names:
        try:
            pixels, used = decode(read(name), mode, size)
            images.append(pixels)
            ranges += [used] if used else []
        except RefusedImage as error:
            mistakes.append(f"{where}/{name} {error}")
        except OSError as error:
            mistakes.append(f"{where}/{name} cannot be read ({error.strerror})")
    raise_first(mistakes)
    _check_sizes(names, images, where)
    channels = max(len(x) for x in images)
    out = np.empty((len(images), channels, *images[0].shape[1:]), dtype=np.uint8)
    for k, x in enumerate(images):
        out[k] = x
    used = (min(low for low, _ in ranges), max(high for _, high in ranges)) if ranges else None
    return Decoded(torch.from_numpy(out), used)


def warn_of_range(used: Used, where: str) -> None:
    """Print a warning where images of more than 8 bits use so little of their range that 8 bits keep few greys."""
    if used and used[1] - used[0] < NARROW:
        greys = round(255 * used[1]) - round(255 * used[0]) + 1
        print(
            f"cfbench: {where}: images of more than 8 bits use {100 * (used[1] - used[0]):.1f} % of their range, of "
            f"which 8 bits keep {greys} grey levels; scale them to the whole range, all by the same factor",
            file=sys.stderr,
        )


def decode(data: bytes, mode: Mode = None, size: tuple[int, int] | None = None) -> tuple[Pixels, Used]:
    """Return a file's image upright, [1, H, W] if it is grey and [3, H, W] otherwise, or as ``mode`` says.

    It is resized to ``size`` (H, W) if given. Pillow's limit against decompression bombs stays. The second value is
    the range that an image of more than 8 bits uses.

    Raises:
        RefusedImage: it cannot be read, or not as it is meant; the message says why.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(data), formats=_formats()) as image:
                check_readable(image)
                _check_large(image, size)
                with_clear_level(image)
                white = white_of(image)
                ImageOps.exif_transpose(image, in_place=True)
                image.load()
                converted, used = in_eight_bits(image, white, mode)
        except RefusedImage:
            raise
        except UnidentifiedImageError:
            raise RefusedImage(_why_unidentified(data)) from None
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise RefusedImage(
                f"has more than {Image.MAX_IMAGE_PIXELS or 0:,} pixels, too many to be safe; make it smaller"
            ) from None
        except Exception as error:  # damaged files make Pillow raise exceptions of every kind
            raise RefusedImage(f"cannot be read: {_text(error)}; save it again") from None
    if size is not None and (converted.height, converted.width) != size:
        converted = converted.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    pixels = np.asarray(converted)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1)), used


def _formats() -> list[str]:
    return sorted(set(TYPES.values()))


def _check_large(image: Image.Image, size: tuple[int, int] | None) -> None:
    """Raise unless an image is small or will be, before its pixels are decoded."""
    if size is None and max(image.size) > LARGEST:
        raise RefusedImage(
            f"has {image.height} x {image.width} pixels, too many to train on in a benchmark; write size = [64, 64]"
            " in graph.toml to resize all (or any size that you mean)"
        )


def _why_unidentified(data: bytes) -> str:
    """Why no decoder takes a file: that of its type says so, or there is none."""
    for name in _formats():
        factory, accepts = Image.OPEN[name]
        if accepts is not None and accepts(data[:16]) is True:
            try:
                factory(io.BytesIO(data), "")
            except Exception as error:
                return f"cannot be read: {name}: {_text(error)}; save it with 8 bits a channel, grey or RGB"
    return f"cannot be read: it is no {', '.join(dict.fromkeys(TYPES.values()))} image"


def _text(error: Exception) -> str:
    return one_line(error, 160) or type(error).__name__


def _check_sizes(names: Sequence[str], images: Sequence[Pixels], where: str) -> None:
    sizes = [x.shape[1:] for x in images]
    (height, width), _ = Counter(sizes).most_common(1)[0]
    raise_first(
        [
            f"{where}/{name} has {h} x {w} pixels, most have {height} x {width}; crop it, or write"
            f" size = [{height}, {width}] in graph.toml to resize all"
            for name, (h, w) in zip(names, sizes, strict=True)
            if (h, w) != (height, width)
        ]
    )
    if min(height, width) < SMALLEST:
        raise UserError(f"{where}: images have {height} x {width} pixels, at least {SMALLEST} are needed on each side")

"""Image files of any common type, decoded to arrays of bytes and checked."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from cfbench.errors import UserError

from .graph_file import SMALLEST
from .parents_table import raise_first

__all__ = ["LARGEST", "TYPES", "decode", "read_images"]

TYPES = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF",
    ".webp": "WEBP", ".ppm": "PPM", ".pgm": "PPM",
}  # fmt: skip
LARGEST = 256
"""Pixels of a side beyond which ``graph.toml`` has to give a size."""
GREY = ("1", "L", "LA")
"""Pillow's modes without colour."""
Mode = Literal["grey", "rgb"] | None
Pixels = NDArray[np.uint8]


def read_images(
    names: Sequence[str], read: Callable[[str], bytes], mode: Mode, size: tuple[int, int] | None, where: str
) -> Tensor:
    """Return the images of the files ``names``, uint8 [N, C, H, W], which have one size or are resized to one (H, W).

    They are in colour (C = 3) where ``mode`` says so, or says nothing and one of them is.

    Args:
        read: a file's contents.
        where: the folder, as errors name it.

    Raises:
        UserError: a file cannot be read as an image, is transparent or has several pages, or sizes differ.
    """
    images, mistakes = [], []
    for name in names:
        try:
            images.append(decode(read(name), mode, size))
        except ValueError as error:
            mistakes.append(f"{where}/{name} {error}")
    raise_first(mistakes)
    _check_sizes(names, images, where)
    channels = max(len(x) for x in images)
    out = np.empty((len(images), channels, *images[0].shape[1:]), dtype=np.uint8)
    for k, x in enumerate(images):
        out[k] = x
    return torch.from_numpy(out)


def decode(data: bytes, mode: Mode = None, size: tuple[int, int] | None = None) -> Pixels:
    """Return a file's image upright, [1, H, W] if it is grey and [3, H, W] otherwise, or as ``mode`` says.

    It is resized to ``size`` (H, W) if given. Pillow's limit against decompression bombs stays.

    Raises:
        ValueError: it cannot be read; the message says why.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(data), formats=sorted(set(TYPES.values()))) as image:
                if getattr(image, "n_frames", 1) > 1:
                    raise ValueError("has several frames or pages; save one of them")
                upright = ImageOps.exif_transpose(image)
                upright.load()
                converted = _convert(upright, mode)
        except UnidentifiedImageError:
            raise ValueError(f"cannot be read: it is no {', '.join(dict.fromkeys(TYPES.values()))} image") from None
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise ValueError(
                f"has more than {Image.MAX_IMAGE_PIXELS or 0:,} pixels, too many to be safe; make it smaller"
            ) from None
        except (OSError, SyntaxError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error) as error:
            raise ValueError(f"cannot be read: {' '.join(str(error).split())}; save it again") from None
    if size is not None and (converted.height, converted.width) != size:
        converted = converted.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    pixels = np.asarray(converted)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _convert(image: Image.Image, mode: Mode) -> Image.Image:
    """Return the image in 8-bit grey or RGB."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray(np.rint(np.asarray(image).astype(np.float64) / 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("has 32 bits a pixel; save it with 8 or 16")
    if image.has_transparency_data:
        alpha = image.convert("RGBA").getchannel("A").getextrema()
        if alpha != (255, 255):
            raise ValueError("is transparent in places; save it on a background")
    colourless = image.mode in GREY or (image.mode == "P" and _grey_palette(image))
    wanted = mode or ("grey" if colourless else "rgb")
    converted = image if image.mode in GREY else image.convert("RGB")
    return converted.convert("L" if wanted == "grey" else "RGB")


def _grey_palette(image: Image.Image) -> bool:
    red, green, blue = (np.asarray(band) for band in image.convert("RGB").split())
    return bool((red == green).all() and (green == blue).all())


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

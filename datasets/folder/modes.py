"""Images of every mode that Pillow opens in 8-bit grey or RGB, or the reason why they cannot be read as meant."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, TiffImagePlugin
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, SAMPLEFORMAT, YCBCRSUBSAMPLING

__all__ = ["Mode", "RefusedImage", "Used", "check_readable", "in_eight_bits", "white_of", "with_clear_level"]

Mode = Literal["grey", "rgb"] | None
Used = tuple[float, float] | None
"""The least and the largest value of an image of more than 8 bits, as shares of white; None of others."""
GREY = ("1", "L", "LA")
"""Pillow's modes without colour."""
SIGNED = 2
"""Of TIFF's sample formats."""
ROWS = 256
"""Rows that are scaled at once."""
STEPS = {"1": 255, "L;2": 85, "L;4": 17}
"""Grey levels between two values of PNG's pixels of 1, 2 and 4 bits."""


class RefusedImage(ValueError):
    """An image that is not read; the message says why and what to do."""


def check_readable(image: ImageFile.ImageFile) -> None:
    """Raise unless Pillow reads the pixels of an opened image as its file means them.

    Raises:
        RefusedImage: it does not, or the image has several frames.
    """
    if _has_frames(image):
        raise RefusedImage("has several frames or pages; save one of them")
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_tiff(image)
    elif not image.mode.startswith("I") and any(str(tile[3]).endswith(";16B") for tile in image.tile):
        raise RefusedImage("has 16 bits for each of its channels; save it with 8")
    if image.mode == "F":
        raise RefusedImage("has floating-point pixels; save it with 8 or 16 bits a pixel")
    if image.mode == "LAB":
        raise RefusedImage("is in the colours L*a*b*; save it as RGB or grey")


def _has_frames(image: Image.Image) -> bool:
    try:
        image.seek(1)  # not n_frames, for which Pillow would look at every page
    except EOFError:
        return False
    return True


def _check_tiff(image: TiffImagePlugin.TiffImageFile) -> None:
    bits = image.tag_v2.get(BITSPERSAMPLE, (1,))
    if SIGNED in image.tag_v2.get(SAMPLEFORMAT, (1,)):
        raise RefusedImage(
            f"has signed pixels (int{bits[0]}), which name no black; save it unsigned, with 8 or 16 bits"
        )
    if image.mode == "I" and bits[0] > 16:
        raise RefusedImage(f"has {bits[0]} bits a pixel; save it with 8 or 16")
    if len(bits) > 1 and max(bits) > 8:
        raise RefusedImage(f"has {max(bits)} bits for each of its channels; save it with 8")
    if image.mode == "YCbCr" and image.tag_v2.get(YCBCRSUBSAMPLING) != (1, 1):
        raise RefusedImage("is a TIFF in YCbCr with fewer colours than pixels; save it as RGB")


def with_clear_level(image: ImageFile.ImageFile) -> None:
    """Give the transparent grey of an opened PNG as one of the levels that its pixels are scaled to.

    Pillow leaves it unscaled in 2 and 4 bits (13.0.0), and before 13.0 in 1 bit.
    """
    clear = image.info.get("transparency")
    step = STEPS.get(str(image.tile[0][3])) if image.tile else None
    if image.format == "PNG" and isinstance(clear, int) and step:
        image.info["transparency"] = min(clear * step, 255)


def white_of(image: ImageFile.ImageFile) -> int | None:
    """White in an opened image of more than 8 bits a pixel, negative where 0 is white and this is black; else None."""
    if not image.mode.startswith("I"):
        return None
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return 2**16 - 1
    white = 2 ** image.tag_v2.get(BITSPERSAMPLE, (1,))[0] - 1
    # Pillow turns inverted greys round in 8 bits only.
    return -white if image.tag_v2.get(PHOTOMETRIC_INTERPRETATION, 0) == 0 else white


def in_eight_bits(image: Image.Image, white: int | None, wanted: Mode) -> tuple[Image.Image, Used]:
    """Return a loaded image in mode L or RGB, and the range that it uses if it has more than 8 bits.

    It is grey if ``wanted`` says so, or says nothing and the image has no colour.

    Raises:
        RefusedImage: it is transparent in places.
    """
    used: Used = None
    if white is not None:
        image, used = _scaled(image, white)
    if image.mode == "La":
        image = image.convert("LA")
    _check_opaque(image)
    colourless = image.mode in GREY or (image.mode in ("P", "PA") and _grey_palette(image))
    mode = "L" if (wanted or ("grey" if colourless else "rgb")) == "grey" else "RGB"
    if image.mode not in (*GREY, "RGB"):
        image = image.convert("RGB")
    return image if image.mode == mode else image.convert(mode), used


def _scaled(image: Image.Image, white: int) -> tuple[Image.Image, Used]:
    """An image of more than 8 bits with 8, and the range that it uses, as shares of white."""
    values, full = np.asarray(image), abs(white)
    clear = image.info.get("transparency")
    if clear is not None and bool((values == clear).any()):
        raise _transparent()
    greys = np.rint(np.arange(full + 1) * (255 / full)).astype(np.uint8)
    greys = greys[::-1] if white < 0 else greys
    out: NDArray[np.uint8] = np.empty(values.shape, dtype=np.uint8)
    for first in range(0, len(values), ROWS):
        out[first : first + ROWS] = greys[values[first : first + ROWS]]
    return Image.fromarray(out), (float(values.min()) / full, float(values.max()) / full)


def _check_opaque(image: Image.Image) -> None:
    if image.has_transparency_data:
        alpha = image if image.mode in ("RGBA", "LA") else image.convert("RGBA")
        if alpha.getchannel("A").getextrema() != (255, 255):
            raise _transparent()


def _transparent() -> RefusedImage:
    return RefusedImage("is transparent in places; save it on a background")


def _grey_palette(image: Image.Image) -> bool:
    red, green, blue = (np.asarray(band) for band in image.convert("RGB").split())
    return bool((red == green).all() and (green == blue).all())

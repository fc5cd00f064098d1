"""A contact sheet: the same questions answered by every method, one below the other."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..plugins.spec import fold
from ..storage.temporary import atomic_write

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

__all__ = ["contact_sheet"]


INK, GREY, PALE, RED = (20, 20, 20), (110, 110, 110), (240, 240, 240), (200, 30, 30)
GAP, PAD, FONT = 4, 12, 15


def _bytes(images: Any) -> tuple[np.ndarray, np.ndarray]:
    """Images as uint8 [K, H, W, 3], and which of them are finite [K]."""
    x = np.asarray(images)
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ValueError(f"a row of a contact sheet holds images [K, 1 or 3, H, W], found {list(x.shape)}")
    ok = np.isfinite(x).reshape(len(x), -1).all(1)
    if x.dtype != np.uint8:
        x = np.round(255 * np.clip(np.nan_to_num(x.astype(np.float64)), 0, 1)).astype(np.uint8)
    return np.broadcast_to(x, (len(x), 3, *x.shape[2:])).transpose(0, 2, 3, 1), ok


def _tile(pixels: np.ndarray, ok: bool, size: tuple[int, int]) -> Image.Image:
    from PIL import Image, ImageDraw

    if ok:
        return Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.NEAREST)
    tile = Image.new("RGB", size, (250, 235, 235))
    pen, (w, h) = ImageDraw.Draw(tile), size
    pen.rectangle((0, 0, w - 1, h - 1), outline=RED)
    pen.line((0, 0, w, h), fill=RED, width=2)
    pen.line((0, h, w, 0), fill=RED, width=2)
    return tile


def _font() -> Any:
    from matplotlib import get_data_path
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), FONT)


def _left_edges(groups: Sequence[str], width: int) -> list[int]:
    """The left edge of each column, with a wider gap where the group changes."""
    edges, at = [], 0
    for i, group in enumerate(groups):
        at += 0 if not i else width + GAP + (3 * PAD if group != groups[i - 1] else 0)
        edges.append(at)
    return edges


def _shortened(text: str, width: float, pen: ImageDraw.ImageDraw, font: Any) -> str:
    if pen.textlength(text, font=font) <= width:
        return text
    while text and pen.textlength(text + "…", font=font) > width:
        text = text[:-1]
    return text + "…"


def _headings(
    pen: ImageDraw.ImageDraw, font: Any, columns: Sequence[str], groups: Sequence[str], xs: list[int], tile: int
) -> None:
    """Each group's name over its columns, and each column's label below it."""
    for i, (label, x) in enumerate(zip(columns, xs, strict=True)):
        if i == 0 or groups[i] != groups[i - 1]:
            last = max(j for j in range(i, len(xs)) if set(groups[i : j + 1]) == {groups[i]})
            right = xs[last] + tile
            pen.text((x, PAD), _shortened(groups[i], right - x, pen, font), fill=GREY, font=font)
            pen.line((x, PAD + 22, right, PAD + 22), fill=GREY)
        pen.text((x + tile / 2, PAD + 28), _shortened(label, tile, pen, font), fill=INK, font=font, anchor="ma")


def _layout(columns: Sequence[str], groups: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Group names and the labels under them: ``do(digit=3)`` is ``= 3`` in the group ``do(digit)``."""
    if groups is not None:
        return list(groups), list(columns)
    split = [c.partition("=") for c in columns]
    plain = all(c.startswith("do(") and e for c, (_, e, _) in zip(columns, split, strict=True))
    if not plain:
        return [""] * len(columns), list(columns)
    return [f"{variable})" for variable, _, _ in split], [f"= {value.removesuffix(')')}" for _, _, value in split]


def contact_sheet(
    path: Path,
    columns: Sequence[str],
    rows: Mapping[str, Any],
    *,
    groups: Sequence[str] | None = None,
    title: str = "",
    tile: int = 84,
    unknown: Collection[str] = (),
) -> Path:
    """Write a PNG with a row of images for each name in ``rows`` and a column for each question, atomically.

    Args:
        path: the file to write.
        columns: a label for each question, as ``do(digit=3)``.
        rows: images [K, C, H, W], uint8 or floats in [0, 1]; grey or RGB; what is not finite becomes a red cross.
        groups: the intervened variable of each column; read from the labels if not given.
        title: a line below the images.
        tile: the least width of an image in pixels; images grow by whole factors, so that pixels stay square.
        unknown: rows whose missing images are of no one's making: a pale tile says so, no cross.

    Raises:
        ValueError: a row's images do not match the columns, or have no image shape.
    """
    from PIL import Image, ImageDraw

    pictures = {name: _bytes(images) for name, images in rows.items()}
    if not pictures or any(len(x) != len(columns) for x, _ in pictures.values()):
        raise ValueError(
            f"each row needs {len(columns)} images, found { {n: len(x) for n, (x, _) in pictures.items()} }"
        )
    height, width = next(iter(pictures.values()))[0].shape[1:3]
    factor = max(1, -(-tile // width))
    size = (factor * width, factor * height)
    names, labels = _layout(columns, groups)
    font, probe = _font(), ImageDraw.Draw(Image.new("RGB", (1, 1)))
    left = PAD + int(max(probe.multiline_textbbox((0, 0), fold(name), font=font)[2] for name in rows)) + PAD
    xs = [left + x for x in _left_edges(names, size[0])]
    top = PAD + 28 + FONT + 8
    bottom = top + len(rows) * (size[1] + GAP) + (FONT + PAD if title else 0) + PAD
    sheet = Image.new("RGB", (xs[-1] + size[0] + PAD, bottom), "white")
    pen = ImageDraw.Draw(sheet)
    _headings(pen, font, labels, names, xs, size[0])
    for i, (name, (images, ok)) in enumerate(pictures.items()):
        y = top + i * (size[1] + GAP)
        pen.text((left - PAD, y + size[1] / 2), fold(name), fill=INK, font=font, anchor="rm", align="right")
        for x, pixels, fine in zip(xs, images, ok, strict=True):
            if fine or name not in unknown:
                sheet.paste(_tile(pixels, bool(fine), size), (x, y))
                continue
            pen.rectangle((x, y, x + size[0] - 1, y + size[1] - 1), fill=PALE)
            pen.text((x + size[0] / 2, y + size[1] / 2), "unknown", fill=GREY, font=font, anchor="mm")
    pen.text((PAD, bottom - PAD - FONT), title, fill=GREY, font=font)
    with atomic_write(path) as draft:
        sheet.save(draft, format="PNG")
    return path

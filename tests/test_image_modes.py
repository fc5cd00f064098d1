"""Every kind of pixel that Pillow opens: read as its file means it, or refused with the reason."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import PIL
import pytest
from cfbench_datasets.folder import decode
from cfbench_datasets.folder.modes import RefusedImage
from PIL import Image, ImageCms

GREY = np.arange(12 * 16, dtype=np.uint8).reshape(12, 16) + 40
"""Grey levels 40 to 231."""
DEEP = (GREY.astype(np.uint32) * 65535 // 255).astype(np.uint16)
"""The same in 16 bits."""
COLOUR = np.stack([GREY, GREY[::-1], 255 - GREY], axis=-1)
BITS = GREY > 100
OPAQUE = np.full(GREY.shape, 255, dtype=np.uint8)


def tiff(pixels: bytes, bits: tuple[int, ...], photometric: int, order: str = "<", **more: tuple[int, ...]) -> bytes:
    """An uncompressed TIFF of 12 x 16 pixels, written by the specification (TIFF 6.0) and not by Pillow."""
    numbers = {"format": 339, "extra": 338, "colormap": 320, "orientation": 274, "subsampling": 530}
    tags: dict[int, tuple[int, ...]] = {256: (16,), 257: (12,), 258: bits, 259: (1,), 262: (photometric,)}
    tags |= {273: (8,), 277: (len(bits),), 278: (12,), 279: (len(pixels),)}
    tags |= {numbers[name]: value for name, value in more.items()}
    start = 8 + len(pixels) + len(pixels) % 2
    entries, extra = b"", b""
    for tag, values in sorted(tags.items()):
        raw = struct.pack(f"{order}{len(values)}H", *values)
        if len(raw) > 4:
            at = start + 2 + 12 * len(tags) + 4 + len(extra)
            extra, raw = extra + raw, struct.pack(f"{order}I", at)
        entries += struct.pack(f"{order}HHI", tag, 3, len(values)) + raw.ljust(4, b"\0")
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, start)
    return head + pixels + b"\0" * (len(pixels) % 2) + struct.pack(f"{order}H", len(tags)) + entries + b"\0" * 4 + extra


def png(rows: np.ndarray, depth: int, colour: int, **chunks: bytes) -> bytes:
    """A PNG of rows of bytes [12, ...], written by the specification and not by Pillow."""

    def chunk(kind: str, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind.encode() + data + struct.pack(">I", zlib.crc32(kind.encode() + data))

    head = chunk("IHDR", struct.pack(">IIBBBBB", 16, 12, depth, colour, 0, 0, 0))
    body = chunk("IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunk(*c) for c in chunks.items()) + body + chunk("IEND", b"")


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def nibbles(values: np.ndarray) -> np.ndarray:
    """Values below 16, two in a byte."""
    return (values[:, ::2] << 4 | values[:, 1::2]).astype(np.uint8)


def twelve_bits(values: np.ndarray) -> bytes:
    """Values below 4096, two in three bytes, the first bits first."""
    a, b = values[:, ::2].astype(np.uint16), values[:, 1::2].astype(np.uint16)
    return np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], axis=-1).astype(np.uint8).tobytes()


def palette(colours: np.ndarray) -> tuple[int, ...]:
    """TIFF's table of 256 colours: all reds, then greens, then blues, in 16 bits."""
    return tuple((colours.astype(int) * 257).T.ravel().tolist())


RAMP = np.stack([np.arange(256), 255 - np.arange(256), np.arange(256) // 2], axis=-1).astype(np.uint8)
GREYS = np.repeat(255 - np.arange(256)[:, None], 3, axis=1).astype(np.uint8)
FOUR = GREY // 16
C, M, Y, K = (GREY, GREY[::-1], 255 - GREY, GREY // 4)
INKS = np.stack([C, M, Y, K], axis=-1)


def of_inks(ink: np.ndarray) -> np.ndarray:
    return (255.0 - ink) * (255.0 - K) / 255


def of_ycbcr(y: np.ndarray, cb: np.ndarray, cr: np.ndarray) -> np.ndarray:
    """JFIF's equations."""
    y, cb, cr = (x.astype(float) for x in (y, cb, cr))
    red, blue = y + 1.402 * (cr - 128), y + 1.772 * (cb - 128)
    green = y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128)
    return np.clip(np.stack([red, green, blue], axis=-1), 0, 255)


YCC = np.stack([GREY, GREY // 4 + 96, 160 - GREY // 4], axis=-1)


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


TURNED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda x: x, 2: lambda x: x[:, ::-1], 3: lambda x: x[::-1, ::-1], 4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1), 6: lambda x: np.rot90(x, -1), 7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}  # fmt: skip
"""What the eight orientations of EXIF mean."""

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()

READ: dict[str, tuple[bytes, np.ndarray]] = {
    "1 PNG": (png(np.packbits(BITS, axis=1), 1, 0), BITS * 255),
    "1 TIFF": (tiff(np.packbits(BITS, axis=1).tobytes(), (1,), 1), BITS * 255),
    "1 TIFF inverted": (tiff(np.packbits(BITS, axis=1).tobytes(), (1,), 0), ~BITS * 255),
    "1 PBM": (b"P4 16 12\n" + np.packbits(BITS, axis=1).tobytes(), ~BITS * 255),
    "L PNG": (png(GREY, 8, 0), GREY),
    "L PNG 4 bits": (png(nibbles(FOUR), 4, 0), FOUR * 17),
    "L TIFF": (tiff(GREY.tobytes(), (8,), 1), GREY),
    "L TIFF inverted": (tiff(GREY.tobytes(), (8,), 0), 255 - GREY),
    "L TIFF 4 bits": (tiff(nibbles(FOUR).tobytes(), (4,), 1), FOUR * 17),
    "L PGM": (b"P5 16 12 255\n" + GREY.tobytes(), GREY),
    "L PGM up to 15": (b"P5 16 12 15\n" + FOUR.tobytes(), FOUR * 17),
    "L PGM as text": (b"P2 16 12 255\n" + " ".join(map(str, GREY.ravel())).encode(), GREY),
    "L BMP": (saved(Image.fromarray(GREY), "BMP"), GREY),
    "L WebP": (saved(Image.fromarray(COLOUR), "WEBP", lossless=True), COLOUR),
    "I;16 PNG": (png(DEEP.astype(">u2"), 16, 0), GREY),
    "I;16 PNG, another grey clear": (png(DEEP.astype(">u2"), 16, 0, tRNS=struct.pack(">H", 7)), GREY),
    "I;16 TIFF little-endian": (tiff(DEEP.astype("<u2").tobytes(), (16,), 1), GREY),
    "I;16 TIFF big-endian": (tiff(DEEP.astype(">u2").tobytes(), (16,), 1, ">"), GREY),
    "I;16 TIFF inverted": (tiff(DEEP.astype("<u2").tobytes(), (16,), 0), 255 - GREY),
    "I;16 TIFF compressed": (saved(Image.fromarray(DEEP), "TIFF", compression="tiff_lzw"), GREY),
    "I;16 TIFF turned": (tiff(DEEP.astype("<u2").tobytes(), (16,), 1, orientation=(6,)), np.rot90(GREY, -1)),
    "I;12 TIFF": (tiff(twelve_bits(DEEP >> 4), (12,), 1), np.rint((DEEP >> 4) / 4095 * 255)),
    "I PGM 16 bits": (b"P5 16 12 65535\n" + DEEP.astype(">u2").tobytes(), GREY),
    "I PGM 12 bits": (b"P5 16 12 4095\n" + (DEEP >> 4).astype(">u2").tobytes(), np.rint((DEEP >> 4) / 4095 * 255)),
    "LA PNG": (png(np.stack([GREY, OPAQUE], axis=-1), 8, 4), GREY),
    "LA TIFF": (tiff(np.stack([GREY, OPAQUE], axis=-1).tobytes(), (8, 8), 1, extra=(2,)), GREY),
    "La TIFF": (tiff(np.stack([GREY, OPAQUE], axis=-1).tobytes(), (8, 8), 1, extra=(1,)), GREY),
    "L PNG 4 bits, another grey clear": (png(nibbles(FOUR), 4, 0, tRNS=b"\0\x00"), FOUR * 17),
    "L PNG, another grey clear": (png(GREY, 8, 0, tRNS=b"\0\x07"), GREY),
    "P PNG": (png(GREY, 8, 3, PLTE=RAMP.tobytes()), RAMP[GREY]),
    "P PNG grey": (png(GREY, 8, 3, PLTE=GREYS.tobytes()), 255 - GREY),
    "P PNG, an unused colour clear": (png(GREY, 8, 3, PLTE=RAMP.tobytes(), tRNS=b"\0"), RAMP[GREY]),
    "P TIFF": (tiff(GREY.tobytes(), (8,), 3, colormap=palette(RAMP)), RAMP[GREY]),
    "P TIFF grey": (tiff(GREY.tobytes(), (8,), 3, colormap=palette(GREYS)), 255 - GREY),
    "P BMP": (saved(Image.fromarray(GREY).convert("P"), "BMP"), GREY),
    "RGB PNG": (png(COLOUR, 8, 2), COLOUR),
    "RGB TIFF": (tiff(COLOUR.tobytes(), (8, 8, 8), 2), COLOUR),
    "RGB BMP": (saved(Image.fromarray(COLOUR), "BMP"), COLOUR),
    "RGB PPM": (b"P6 16 12 255\n" + COLOUR.tobytes(), COLOUR),
    "RGB PPM 16 bits": (b"P6 16 12 65535\n" + (COLOUR.astype(">u2") * 257).astype(">u2").tobytes(), COLOUR),
    "RGBA PNG": (png(np.dstack([COLOUR, OPAQUE]), 8, 6), COLOUR),
    "RGBA TIFF": (tiff(np.dstack([COLOUR, OPAQUE]).tobytes(), (8,) * 4, 2, extra=(2,)), COLOUR),
    "RGBX TIFF": (tiff(np.dstack([COLOUR, GREY]).tobytes(), (8,) * 4, 2, extra=(0,)), COLOUR),
    "RGB PNG, another colour clear": (png(COLOUR, 8, 2, tRNS=b"\0\x01\0\x01\0\x01"), COLOUR),
    "CMYK TIFF": (tiff(INKS.tobytes(), (8,) * 4, 5), np.stack([of_inks(ink) for ink in (C, M, Y)], axis=-1)),
    "YCbCr TIFF": (tiff(YCC.tobytes(), (8,) * 3, 6, subsampling=(1, 1)), of_ycbcr(*YCC.transpose(2, 0, 1))),
    **{f"EXIF {k} PNG": (saved(Image.fromarray(GREY), "PNG", exif=exif(k)), f(GREY)) for k, f in TURNED.items()},
    **{f"EXIF {k} TIFF": (tiff(GREY.tobytes(), (8,), 1, orientation=(k,)), f(GREY)) for k, f in TURNED.items()},
    "ICC PNG": (saved(Image.fromarray(COLOUR), "PNG", icc_profile=PROFILE), COLOUR),
}  # fmt: skip
"""What is read: the file, and its pixels [12, 16] or [12, 16, 3], computed without Pillow."""
BY_A_LEVEL = ("CMYK", "YCbCr")
"""Of conversions that Pillow rounds in whole numbers."""


NEWER = pytest.mark.skipif(
    tuple(map(int, PIL.__version__.split(".")[:2])) < (13, 0),
    reason="an older Pillow does not open these, or says less",
)


def kinds(table: dict[str, tuple]) -> list:
    """The kinds of a table, those marked that only a new Pillow opens."""
    return [pytest.param(k, marks=NEWER) if k in ("La TIFF", "YCbCr TIFF", "F PFM") else k for k in table]


@pytest.mark.parametrize("kind", kinds(READ))
def test_pixels_are_those_of_the_file(kind):
    data, expected = READ[kind]
    found, _ = decode.decode(data)
    assert found.dtype == np.uint8
    expected = expected[None] if expected.ndim == 2 else expected.transpose(2, 0, 1)
    assert found.shape == expected.shape
    assert np.abs(found - expected.astype(float)).max() <= (1 if kind.startswith(BY_A_LEVEL) else 0)


def test_jpeg_is_read_within_its_compression():
    """Flat images, which JPEG keeps but for rounding: grey, YCbCr, and inks, which Adobe stores inverted."""
    flat = np.full((16, 16), 100, dtype=np.uint8)
    assert np.abs(decode.decode(saved(Image.fromarray(flat), "JPEG"))[0] - 100.0).max() <= 1
    colour = np.stack([flat, flat + 60, flat // 2], axis=-1)
    found, _ = decode.decode(saved(Image.fromarray(colour), "JPEG", quality=95))
    assert np.abs(found.transpose(1, 2, 0) - colour.astype(float)).max() <= 3
    inks = np.stack([flat, flat // 2, flat * 2, flat // 4], axis=-1)
    found, _ = decode.decode(saved(Image.fromarray(inks, "CMYK"), "JPEG", quality=95))
    expected = [(255 - ink) * (255 - 25) / 255 for ink in (100, 50, 200)]
    assert np.abs(found - np.array(expected)[:, None, None]).max() <= 3


def test_colour_becomes_grey_by_the_luma_of_bt_601():
    found, _ = decode.decode(png(COLOUR, 8, 2), "grey")
    assert np.abs(found[0] - COLOUR @ [0.299, 0.587, 0.114]).max() <= 0.51
    assert np.array_equal(decode.decode(png(DEEP.astype(">u2"), 16, 0), "rgb")[0], np.repeat(GREY[None], 3, axis=0))


CLEAR = OPAQUE - (GREY == 77)
FRAMES = {"save_all": True, "append_images": [Image.fromarray(255 - GREY)]}
REFUSED: dict[str, tuple[bytes, str]] = {
    "LA PNG": (png(np.stack([GREY, CLEAR], axis=-1), 8, 4), "is transparent in places"),
    "La TIFF": (tiff(np.stack([GREY, CLEAR], axis=-1).tobytes(), (8, 8), 1, extra=(1,)), "is transparent in places"),
    "RGBA PNG": (png(np.dstack([COLOUR, CLEAR]), 8, 6), "is transparent in places"),
    "P PNG": (png(GREY, 8, 3, PLTE=RAMP.tobytes(), tRNS=b"\xff" * 77 + b"\0"), "is transparent in places"),
    "L PNG": (png(GREY, 8, 0, tRNS=b"\0\x4d"), "is transparent in places"),
    "1 PNG": (png(np.packbits(BITS, axis=1), 1, 0, tRNS=b"\0\x01"), "is transparent in places"),
    "L PNG 4 bits": (png(nibbles(FOUR), 4, 0, tRNS=b"\0\x05"), "is transparent in places"),
    "RGB PNG": (png(COLOUR, 8, 2, tRNS=bytes([0, 40, 0, COLOUR[0, 0, 1], 0, 215])), "is transparent in places"),
    "I;16 PNG": (png(DEEP.astype(">u2"), 16, 0, tRNS=struct.pack(">H", DEEP[3, 4])), "is transparent in places"),
    "RGB PNG 16 bits": (png(COLOUR.astype(">u2"), 16, 2), "has 16 bits for each of its channels"),
    "LA PNG 16 bits": (png(np.stack([DEEP, DEEP], -1).astype(">u2"), 16, 4), "has 16 bits for each of its channels"),
    "RGB TIFF 16 bits": (tiff(COLOUR.astype("<u2").tobytes(), (16,) * 3, 2), "has 16 bits for each of its channels"),
    "int16 TIFF": (tiff(DEEP.astype("<u2").tobytes(), (16,), 1, format=(2,)), "has signed pixels (int16)"),
    "int8 TIFF": (tiff(GREY.tobytes(), (8,), 1, format=(2,)), "has signed pixels (int8)"),
    "I TIFF": (tiff(DEEP.astype("<u4").tobytes(), (32,), 1), "has 32 bits a pixel"),
    "F TIFF": (tiff(GREY.astype("<f4").tobytes(), (32,), 1, format=(3,)), "has floating-point pixels"),
    "F PFM": (b"Pf 16 12 -1.0\n" + GREY.astype("<f4").tobytes(), "has floating-point pixels"),
    "LAB TIFF": (tiff(COLOUR.tobytes(), (8,) * 3, 8), "is in the colours L*a*b*"),
    "YCbCr TIFF": (tiff(YCC.tobytes(), (8,) * 3, 6, subsampling=(2, 2)), "in YCbCr with fewer colours than pixels"),
    "I;16 TIFF big-endian inverted": (tiff(DEEP.astype(">u2").tobytes(), (16,), 0, ">"), "TIFF: "),
    "float16 TIFF": (tiff(GREY.astype("<f2").tobytes(), (16,), 1, format=(3,)), "TIFF: "),
    "APNG": (saved(Image.fromarray(GREY), "PNG", **FRAMES), "has several frames or pages"),
    "WebP": (saved(Image.fromarray(GREY), "WEBP", **FRAMES), "has several frames or pages"),
    "TIFF pages": (saved(Image.fromarray(GREY), "TIFF", **FRAMES), "has several frames or pages"),
    "GIF": (saved(Image.fromarray(GREY), "GIF"), "it is no PNG, JPEG"),
    "empty": (b"", "it is no PNG, JPEG"),
}  # fmt: skip


@pytest.mark.parametrize("kind", kinds(REFUSED))
def test_what_cannot_be_read_as_meant_is_refused_with_the_reason(kind):
    data, reason = REFUSED[kind]
    with pytest.raises(RefusedImage) as error:
        decode.decode(data)
    assert reason in str(error.value)


def test_large_images_are_refused_before_they_are_decoded(monkeypatch):
    large = Image.fromarray(np.zeros((300, 20), dtype=np.uint8))
    monkeypatch.setattr(decode, "in_eight_bits", lambda *args: pytest.fail("decoded"))
    with pytest.raises(RefusedImage, match="has 300 x 20 pixels, too many"):
        decode.decode(saved(large, "PNG"))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.linspace(0, 4095, 192), "use 6.2 % of their range, of which 8 bits keep 17 grey levels"),
        (np.linspace(30_000, 30_100, 192), "use 0.2 % of their range, of which 8 bits keep 1 grey levels"),
        (np.linspace(0, 4097, 192), ""),
        (np.linspace(61_000, 65_535, 192), ""),
    ],
)
def test_a_narrow_range_of_16_bits_is_reported_for_all_images_together(values, says, capsys):
    files = {"a": values[:96], "b": values[96:]}
    read = {k: b"P5 12 8 65535\n" + np.rint(v).astype(">u2").tobytes() for k, v in files.items()}
    decode.warn_of_range(decode.read_images(list(read), read.__getitem__, None, None, "pets").used, "pets")
    assert (says in capsys.readouterr().err) if says else not capsys.readouterr().err


def test_no_range_is_reported_for_8_bits(capsys):
    dark = b"P5 12 8 255\n" + bytes(96)
    decode.warn_of_range(decode.read_images(["a"], lambda name: dark, None, None, "pets").used, "pets")
    assert not capsys.readouterr().err

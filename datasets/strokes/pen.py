"""A pen that writes digits: smooth stroke templates, a style that deforms them, and an anti-aliased renderer."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from ..common.threads import one_torch_thread

__all__ = ["EDGE", "SEGMENTS", "SIZE", "STYLE", "line_width", "render", "segments", "templates", "thickness"]

SIZE = 28
SEGMENTS = 44
EDGE = 0.7
"""Pixels over which the grey level falls from full to none at the border of a stroke."""
HALF_HEIGHT = 8.8
"""Pixels from the middle of a digit to its top, along the centre line of the stroke."""
WAVES = (0.03, 0.05, 0.025, 0.025)
"""Amplitudes of the wobble along the stroke by rising frequency; the odd ones open and close loops."""
STYLE = 8 + 2 * len(WAVES)
"""How many standard normal numbers describe a handwriting style."""
CHUNK = 32

# Smooth pieces through points (x right, y down; a digit is 2 high). Pieces that share an end meet in a corner.
_PIECES: dict[int, list[list[tuple[float, float]]]] = {
    0: [
        [(0.16, -0.98), (-0.24, -0.9), (-0.53, -0.42), (-0.56, 0.18), (-0.34, 0.82), (0.02, 1.0), (0.36, 0.82),
         (0.57, 0.25), (0.54, -0.38), (0.33, -0.86), (0.1, -0.99)],
    ],
    1: [
        [(-0.26, -0.58), (-0.08, -0.76), (0.06, -1.0)],
        [(0.06, -1.0), (0.04, 0.0), (0.04, 1.0)],
    ],
    2: [
        [(-0.52, -0.56), (-0.36, -0.87), (0.02, -1.0), (0.4, -0.82), (0.5, -0.45), (0.28, 0.05), (-0.14, 0.54),
         (-0.58, 0.96)],
        [(-0.58, 0.96), (0.0, 0.9), (0.62, 0.94)],
    ],
    3: [
        [(-0.5, -0.74), (-0.22, -0.96), (0.16, -0.98), (0.42, -0.7), (0.36, -0.3), (0.1, -0.1), (-0.14, -0.06)],
        [(-0.14, -0.06), (0.22, -0.02), (0.5, 0.24), (0.52, 0.62), (0.26, 0.94), (-0.14, 1.0), (-0.56, 0.76)],
    ],
    4: [
        [(-0.48, -0.96), (-0.55, -0.45), (-0.62, 0.1)],
        [(-0.62, 0.1), (0.0, 0.14), (0.66, 0.06)],
        [(0.36, -0.86), (0.31, 0.1), (0.26, 1.0)],
    ],
    5: [
        [(0.54, -0.96), (0.1, -0.93), (-0.36, -0.96)],
        [(-0.36, -0.96), (-0.41, -0.55), (-0.46, -0.12)],
        [(-0.46, -0.12), (-0.1, -0.3), (0.3, -0.22), (0.54, 0.16), (0.48, 0.64), (0.16, 0.96), (-0.2, 0.99),
         (-0.56, 0.78)],
    ],
    6: [
        [(0.4, -0.98), (0.0, -0.78), (-0.36, -0.3), (-0.52, 0.28), (-0.4, 0.78), (-0.02, 1.0), (0.38, 0.86),
         (0.54, 0.48), (0.38, 0.12), (0.02, 0.0), (-0.32, 0.18), (-0.5, 0.48)],
    ],
    7: [
        [(-0.58, -0.86), (-0.05, -0.92), (0.56, -0.94)],
        [(0.56, -0.94), (0.3, -0.4), (0.06, 0.2), (-0.12, 1.0)],
    ],
    8: [
        [(0.02, -0.08), (0.34, -0.34), (0.4, -0.7), (0.02, -1.0), (-0.38, -0.72), (-0.32, -0.34), (0.02, -0.08),
         (0.42, 0.22), (0.52, 0.62), (0.0, 1.0), (-0.5, 0.62), (-0.4, 0.22), (0.02, -0.08)],
    ],
    9: [
        [(0.48, -0.56), (0.28, -0.92), (-0.08, -1.0), (-0.42, -0.78), (-0.48, -0.4), (-0.22, -0.08), (0.16, -0.1),
         (0.42, -0.34), (0.48, -0.56)],
        [(0.48, -0.56), (0.46, 0.0), (0.36, 0.5), (0.16, 1.0)],
    ],
}  # fmt: skip


def _smooth(points: list[tuple[float, float]], count: int) -> np.ndarray:
    """Return ``count + 1`` points [count + 1, 2], equally spaced along the spline through ``points``."""
    p = np.asarray(points)
    knots = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(p, axis=0), axis=1))])
    closed = np.allclose(p[0], p[-1]) and len(p) > 10
    spline = CubicSpline(knots, p, bc_type="periodic" if closed else "natural")
    fine = spline(np.linspace(0, knots[-1], 400))
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(fine, axis=0), axis=1))])
    position = np.linspace(0, length[-1], count + 1)
    return np.stack([np.interp(position, length, fine[:, k]) for k in (0, 1)], axis=1)


def _shares(pieces: list[list[tuple[float, float]]]) -> list[int]:
    """Return how many of the segments each piece receives, by the length of its chords."""
    length = np.array([np.linalg.norm(np.diff(np.asarray(p), axis=0), axis=1).sum() for p in pieces])
    share = np.maximum(1, np.floor(SEGMENTS * length / length.sum())).astype(int)
    share[int(length.argmax())] += SEGMENTS - share.sum()
    return share.tolist()


@lru_cache(maxsize=1)
def templates() -> tuple[Tensor, Tensor]:
    """Return segment ends [10, SEGMENTS, 2, 2] (start or end, x or y), and how far along the stroke each lies."""
    ends, positions = [], []
    for digit in range(10):
        lines = [_smooth(piece, n) for piece, n in zip(_PIECES[digit], _shares(_PIECES[digit]), strict=True)]
        ends.append(np.concatenate([np.stack([p[:-1], p[1:]], axis=1) for p in lines]))
        along = np.arange(SEGMENTS + 1) / SEGMENTS
        positions.append(np.stack([along[:-1], along[1:]], axis=1))
    return torch.tensor(np.stack(ends)), torch.tensor(np.stack(positions))


def line_width(thickness: Tensor) -> Tensor:
    """Return the full width in pixels of a stroke of the given thickness."""
    return 0.7 + 0.8 * thickness


def thickness(line_width: Tensor) -> Tensor:
    """Return the thickness whose strokes have this full width in pixels."""
    return (line_width - 0.7) / 0.8


def segments(digit: Tensor, slant: Tensor, style: Tensor) -> Tensor:
    """Return the centre line of each digit as segments [B, SEGMENTS, 2, 2] in pixels from the middle of the frame.

    Args:
        digit: classes 0 to 9 [B].
        slant: degrees by which the vertical leans to the right [B].
        style: of the handwriting, standard normal [B, STYLE].
    """
    ends, positions = (t[digit.long()] for t in templates())
    factors = style.double()[:, :, None, None].unbind(1)
    aspect, scale, bend, tilt, waist, taper, right, down = factors[:8]
    x, y = ends.unbind(-1)
    for k, wobble in enumerate(WAVES):
        wave = wobble * torch.cos(torch.pi * (k + 1) * positions)
        x = x + wave * factors[8 + 2 * k]
        y = y + wave * factors[9 + 2 * k]
    x = x * torch.exp(0.13 * aspect) * (1 + 0.09 * taper * y) + 0.06 * bend * (2 * y * y - 1)
    y = y + 0.07 * waist * (1 - y * y) + 0.07 * tilt * x
    x = x - torch.tan(torch.deg2rad(slant.double()))[:, None, None] * y
    size = HALF_HEIGHT * torch.exp(0.05 * scale)
    return torch.stack([size * x + 0.5 * right, size * y + 0.5 * down], dim=-1)


def _inside(lines: Tensor, width: Tensor) -> Tensor:
    """Return ``lines``, contracted where the stroke would leave the frame."""
    limit = (SIZE - 1 - width) / 2
    return lines * (limit / lines.abs().amax((1, 2, 3))).clamp(max=1)[:, None, None, None]


def _distance(lines: Tensor) -> Tensor:
    """Return the distance in pixels [B, SIZE, SIZE] of each pixel's centre to the nearest segment of ``lines``."""
    centre = torch.arange(SIZE, dtype=torch.float64) - (SIZE - 1) / 2
    start, end = lines.unbind(2)
    half = (end - start).norm(dim=-1, keepdim=True) / 2
    ux, uy = ((end - start) / (2 * half).clamp(min=1e-12)).unsqueeze(-1).unbind(2)
    mx, my = ((start + end) / 2).unsqueeze(-1).unbind(2)
    along_x, along_y = (centre - mx) * ux, (centre - my) * uy  # [B, SEGMENTS, SIZE]
    across_x, across_y = (centre - mx) * -uy, (centre - my) * ux
    best = torch.full((len(lines), SIZE, SIZE), torch.inf, dtype=torch.float64)
    for s in range(lines.shape[1]):
        past = along_y[:, s, :, None] + along_x[:, s, None, :]
        past = past.abs_().sub_(half[:, s, :, None]).clamp_(min=0)
        across = across_y[:, s, :, None] + across_x[:, s, None, :]
        torch.minimum(best, past.mul_(past).addcmul_(across, across), out=best)
    return best.sqrt_()


@one_torch_thread()
def render(pa: Tensor, style: Tensor) -> Tensor:
    """Return images uint8 [B, 1, 28, 28] of parents pa [B, 4] (digit, thickness, intensity, slant) in a ``style``.

    The grey level is the intensity inside a stroke and falls to 0 over ``EDGE`` pixels. Computed in double
    precision, so that neither the batch nor the machine changes a rounded grey level.
    """
    images = [_render(p, s) for p, s in zip(pa.split(CHUNK), style.split(CHUNK), strict=True)]
    return torch.cat(images) if images else torch.empty(0, 1, SIZE, SIZE, dtype=torch.uint8)


def _render(pa: Tensor, style: Tensor) -> Tensor:
    digit, thick, intensity, slant = pa.detach().cpu().double().unbind(1)
    width = line_width(thick)
    distance = _distance(_inside(segments(digit, slant, style.cpu()), width))
    cover = ((width[:, None, None] / 2 - distance) / EDGE + 0.5).clamp_(0, 1)
    return (intensity[:, None, None] * cover).round_().clamp_(0, 255).to(torch.uint8)[:, None]

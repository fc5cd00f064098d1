"""Redraws many digits at once, in processes on as many cores as there are.

Run as a module, it is a worker: arrays come in and go out as the bytes of an NPZ file.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from . import morphology

__all__ = ["redraw"]

MIN_IMAGES = 100
"""Images from which on a process of their own pays."""
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
Array = NDArray[np.float64]
Bytes = NDArray[np.uint8]


def redraw(digits: Bytes, measured: Array, shapes: Array, workers: int | None = None) -> tuple[Array, Bytes]:
    """Return thicknesses of source digits and their images in other shapes, as `morphology.redraw` does.

    Args:
        digits: source images uint8 [B, 28, 28].
        measured: their own thicknesses [B], NaN where unknown.
        shapes: thickness, and slant where given, of the images wanted [B, K].
        workers: at most so many processes; by default one a core.
    """
    count = min(workers or _cores(), len(digits) // MIN_IMAGES)
    if count < 2:
        return _redraw(digits, measured, shapes)
    parts = zip(*(np.array_split(a, count) for a in (digits, measured, shapes)), strict=True)
    with ThreadPoolExecutor(count) as pool:
        done = list(pool.map(lambda part: _redraw_in_process(*part), parts))
    return np.concatenate([d[0] for d in done]), np.concatenate([d[1] for d in done])


def _cores() -> int:
    from cfbench.runs.environment import available_cores  # not above: workers need no torch

    return available_cores()


def _redraw(digits: Bytes, measured: Array, shapes: Array) -> tuple[Array, Bytes]:
    made = [morphology.redraw(*row) for row in zip(digits, measured.tolist(), shapes.tolist(), strict=True)]
    return np.array([m for m, _ in made]), np.stack([image for _, image in made])


def _redraw_in_process(digits: Bytes, measured: Array, shapes: Array) -> tuple[Array, Bytes]:
    """Do the same in a process of its own, or in this one where none can be started."""
    sent = io.BytesIO()
    np.savez(sent, digits=digits, measured=measured, shapes=shapes)
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | dict.fromkeys(THREADS, "1")
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", __name__], input=sent.getvalue(), capture_output=True, env=env, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return _redraw(digits, measured, shapes)
    with np.load(io.BytesIO(done.stdout)) as found:
        return found["measured"], found["images"]


def main() -> None:
    """Redraw the digits that come in through standard input."""
    with np.load(io.BytesIO(sys.stdin.buffer.read())) as sent:
        measured, images = _redraw(sent["digits"], sent["measured"], sent["shapes"])
    made = io.BytesIO()
    np.savez(made, measured=measured, images=images)
    sys.stdout.buffer.write(made.getvalue())


if __name__ == "__main__":
    main()

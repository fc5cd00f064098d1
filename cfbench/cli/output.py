"""Output whose reader may leave before the end: what is printed then goes nowhere, and the work goes on."""

from __future__ import annotations

import io
import sys
from typing import Any, TextIO

from ..runs.terminal import lead_nowhere

__all__ = ["outlive_readers"]


class _Lasting(io.FileIO):
    """A file descriptor that leads nowhere once the reader of its pipe has left, as in ``cfbench run | head``."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except BrokenPipeError:
            lead_nowhere(self.fileno())
            return len(memoryview(data).cast("B"))


def outlive_readers() -> None:
    """Let this process finish its work where the reader of its output leaves before the end."""
    sys.stdout, sys.stderr = _lasting(sys.stdout), _lasting(sys.stderr)


def _lasting(stream: TextIO) -> TextIO:
    """A stream of the same file, encoding and buffering; the stream itself where it has no file."""
    try:
        stream.flush()
        raw = _Lasting(stream.fileno(), "w", closefd=False)
    except (OSError, AttributeError, ValueError):
        return stream
    binary = io.BufferedWriter(raw, 1 if stream is sys.stderr else io.DEFAULT_BUFFER_SIZE)
    return io.TextIOWrapper(
        binary, stream.encoding, stream.errors, line_buffering=stream is sys.stderr or stream.isatty()
    )

"""Where text leaves for a terminal: what could control it, or what it cannot show, is replaced."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "discard_output",
    "filtered",
    "filtered_output",
    "flush_output",
    "lead_nowhere",
    "open_console",
    "replace_unencodable",
    "without_controls",
]


_STYLES = re.compile(r"(\x1b\[(?:[0-3]|3[1-7])m)")
"""The sequences that `click.style` writes: bold, dim, italic, a colour, and the end of them."""


def without_controls(text: str) -> str:
    """The text with characters that control a terminal or cannot be printed replaced; line ends and tabs stay."""
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(letter: str) -> str:
    if letter.isprintable() or letter in "\n\t":
        return letter
    return " " if unicodedata.category(letter) == "Zs" else "\N{REPLACEMENT CHARACTER}"


class FilteredStream:
    """A text stream that passes on what is written without controls; the styles of `click.style`, to a terminal only.

    Args:
        stream: the stream that is written to.
    """

    def __init__(self, stream: Any) -> None:
        self.unfiltered = stream

    def write(self, text: str) -> int:
        """Write text, and return the number of its characters."""
        parts = [text] if text.isprintable() else _STYLES.split(text)
        parts[::2] = map(without_controls, parts[::2])
        with self._named():
            self.unfiltered.write("".join(parts if self.unfiltered.isatty() else parts[::2]))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each line."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush the stream."""
        with self._named():
            self.unfiltered.flush()

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Context manager under which an error of writing names the stream."""
        try:
            yield
        except OSError as error:
            error.filename = getattr(self.unfiltered, "name", None)
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unfiltered, name)


def filtered(stream: Any) -> Any:
    """The stream filtered, once; None where there is none."""
    return stream if stream is None or isinstance(stream, FilteredStream) else FilteredStream(stream)


@contextmanager
def filtered_output() -> Iterator[None]:
    """Context manager under which all that this process prints is filtered."""
    with contextlib.redirect_stdout(filtered(sys.stdout)), contextlib.redirect_stderr(filtered(sys.stderr)):
        yield


def replace_unencodable() -> None:
    """Let standard output and error write ``?`` for what their encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # of another type, or None
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]


def flush_output() -> None:
    """Flush standard output.

    Raises:
        OSError: it cannot be written.
    """
    if sys.stdout is not None:
        sys.stdout.flush()


def discard_output() -> None:
    """Discard what standard output cannot take: the interpreter would try to write it again at its end."""
    try:
        flush_output()
    except OSError:
        lead_nowhere(sys.stdout.fileno())


def lead_nowhere(descriptor: int) -> None:
    """Let a file descriptor discard what is written to it from now on."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def open_console(*, stderr: bool = False, width: int | None = None) -> Console:
    """A console of rich on standard output or error, whose own control sequences pass and no others."""
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class FilteredConsole(Console):
        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
            for text, style, control in super().render(renderable, options):
                yield Segment(text if control else without_controls(text), style, control)

    stream = sys.stderr if stderr else sys.stdout
    # In a notebook, too, text goes to the stream: rich would display it beside what the cell displays.
    return FilteredConsole(
        file=getattr(stream, "unfiltered", stream), width=width, highlight=False, force_jupyter=False
    )

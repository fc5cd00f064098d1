"""Weights that were made elsewhere, in place of a fit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import UserError, did_you_mean
from .spec import Spec
from .store import sha256

__all__ = ["Given", "parse_weights"]


@dataclass(frozen=True)
class Given:
    """A file of weights for the rows of a method: those of that name, or of that spec."""

    row: str
    file: Path
    digest: str

    def fits(self, spec: Spec) -> bool:
        """Whether a row is given these weights."""
        return self.row in (spec.name, spec.label)


def parse_weights(given: Sequence[str], rows: Iterable[Spec]) -> tuple[Given, ...]:
    """The files in ``METHOD=FILE``; the method may be left out where only one is asked for.

    Raises:
        UserError: a method is not asked for, or a file is missing or holds no safetensors.
    """
    known = dict.fromkeys(name for row in rows for name in (row.name, row.label))
    found = []
    for text in given:
        row, equals, file = text.rpartition("=")
        if not equals:
            names = list(dict.fromkeys(r.name for r in rows))
            if len(names) != 1:
                raise UserError(f"--weights {text!r} does not say whose they are; write METHOD={text}")
            row = names[0]
        if row not in known:
            raise UserError(f"--weights {text!r}: {row!r} is not asked for; {did_you_mean(row, known)}")
        found.append(Given(row, Path(file).resolve(), _digest(Path(file))))
    return tuple(found)


def _digest(file: Path) -> str:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np"):
            pass
        return sha256(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"--weights {file}: no safetensors file ({error}); give one that save_file wrote") from error

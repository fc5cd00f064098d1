"""The run's budget, the same for all methods, and what a run asks for by default."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

from ..errors import UserError, did_you_mean

__all__ = ["DATASETS", "METHODS", "Budget", "presets"]


METHODS, DATASETS = "diffscm,deepscm", "strokes"
"""The rows and the data set of a run that names none."""


@dataclass(frozen=True)
class Budget:
    """Training images a method may see, factuals asked about, those that go through rounds, seeds, judges' scale."""

    name: str
    text: str
    images: int
    factuals: int
    rounds: int
    seeds: tuple[int, ...]
    judge: float

    @classmethod
    def named(cls, name: str) -> Budget:
        """A preset by name.

        Raises:
            UserError: there is none of that name.
        """
        known = presets()
        if name not in known:
            raise UserError(f"unknown preset {name!r}; {did_you_mean(name, known)}")
        return cls(name=name, **{**known[name], "seeds": tuple(known[name]["seeds"])})

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def presets() -> dict[str, dict[str, Any]]:
    """All presets as they stand in the package's TOML file."""
    return tomllib.loads((files(__package__) / "presets.toml").read_text())

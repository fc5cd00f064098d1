"""The budget of a run, the same for all methods, its presets, and the default rows and data set."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

from ..errors import UserError, did_you_mean

__all__ = ["DATASETS", "METHODS", "Budget", "presets"]


METHODS, DATASETS = "diffscm,deepscm", "strokes"
"""The default rows and data set of a run."""


@dataclass(frozen=True)
class Budget:
    """What each method of a run may use, and how much is asked.

    Attributes:
        name, text: of the preset.
        images: training images that a method may see, counting repeats.
        factuals: factuals that questions are about.
        rounds: factuals, the first ones, that go through further rounds.
        seeds: training seeds.
        judge: scale of the judges' training.
    """

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
            UserError: there is no preset of that name.
        """
        known = presets()
        if name not in known:
            raise UserError(f"unknown preset {name!r}; {did_you_mean(name, known)}")
        return cls(name=name, **{**known[name], "seeds": tuple(known[name]["seeds"])})

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def presets() -> dict[str, dict[str, Any]]:
    """All presets, from the package's TOML file."""
    return tomllib.loads((files(__package__) / "presets.toml").read_text())

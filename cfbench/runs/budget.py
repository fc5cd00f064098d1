"""The budget of a run, the same for all methods, its presets, and the default rows and data set."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

from ..errors import UserError, did_you_mean

__all__ = ["DATASETS", "METHODS", "Budget", "describe_presets", "presets"]


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

    def images_of(self, own: int | None) -> int:
        """The training images that a fit may see: those of a row's own budget, or else of this one."""
        return self.images if own is None else own

    @property
    def numbers(self) -> str:
        """What it allows, in one line."""
        return (
            f"{self.images:,} training images a method, {self.factuals:,} factuals ({self.rounds:,} in further rounds),"
            f" seed{'s' * (len(self.seeds) > 1)} {','.join(map(str, self.seeds))}, judges × {self.judge:g}"
        )

    def lines(self) -> list[str]:
        """What each of its numbers is, in a line each."""
        seeds = ",".join(map(str, self.seeds))
        return [
            self.text,
            "",
            f"  images    {self.images:>12,}  training images that may pass through a method's training steps",
            f"  factuals  {self.factuals:>12,}  factual images that are asked about",
            f"  rounds    {self.rounds:>12,}  of them go through ten null interventions and through reversal",
            f"  seeds     {seeds:>12}  of the training; --seeds gives others",
            f"  judge     {self.judge:>12g}  times the usual training of the judges",
        ]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def presets() -> dict[str, dict[str, Any]]:
    """All presets, from the package's TOML file."""
    return tomllib.loads((files(__package__) / "presets.toml").read_text())


def describe_presets() -> dict[str, list[str]]:
    """What each preset is for, and its numbers, by name."""
    return {name: [(budget := Budget.named(name)).text, budget.numbers] for name in presets()}

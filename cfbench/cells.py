"""A run's cells: which data set, method and seed, under which keys, in which folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from .budget import Budget
from .bundles import Bundle
from .spec import Spec
from .weights import Given

__all__ = ["Cell", "Job"]


@dataclass(frozen=True)
class Job:
    """What every cell of a run shares, plain enough to be sent to another process."""

    folder: Path
    data_root: Path
    budget: Budget
    split: Literal["test", "valid"] = "test"
    plan: str = "marginal"
    action: Literal["exact", "learned"] | None = None
    device: str = "cpu"
    threads: int = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    plugins: tuple[Path, ...] = ()
    weights: tuple[Given, ...] = ()
    timeout: float | None = None
    bundles: tuple[Bundle, ...] = ()


@dataclass(frozen=True)
class Cell:
    """One (data set, method, seed) with the keys of its stages; ``fit`` is the method's spec without answer parameters.

    Cells whose methods differ only in how they answer share the folder of one fit. ``of`` is the method that a
    derived one answers through, whose fit and tuning are its own. The answers of an ``external`` cell were made
    elsewhere.
    """

    dataset: Spec
    method: Spec
    seed: int
    fit: Spec
    keys: Mapping[str, str] = field(default_factory=dict)
    scores: Mapping[str, str] = field(default_factory=dict)
    of: Spec | None = None
    external: bool = False

    @property
    def label(self) -> str:
        return f"{self.dataset.label} {self.method.label} seed {self.seed}"

    @property
    def path(self) -> Path:
        """The cell's folder inside the run."""
        return Path("cells") / self.dataset.folder / self.method.folder / f"seed-{self.seed}"

    def stage(self, name: str) -> Path:
        """A stage's folder inside the run: train, tune, images, or score-METRIC."""
        key = self.scores[name.removeprefix("score-")] if name.startswith("score-") else self.keys[name]
        owner = {"train": self.fitted, "tune": self.base}.get(name, self)
        return owner.path / f"{name}-{key}"

    @property
    def base(self) -> Cell:
        """The cell that is tuned: the one that a derived one answers through, or this one."""
        return replace(self, method=self.of, of=None) if self.of else self

    @property
    def fitted(self) -> Cell:
        """The cell that the fit is done for."""
        return replace(self.base, method=self.fit)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Cell:
        of = Spec(**d["of"]) if d.get("of") else None
        specs = {name: Spec(**d[name]) for name in ("dataset", "method", "fit")}
        return cls(
            **specs, seed=d["seed"], keys=d["keys"], scores=d["scores"], of=of, external=d.get("external", False)
        )

"""A run's job, which its cells share, and its cells with their keys and folders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from ..errors import UserError, did_you_mean, one_line
from ..plugins.spec import Spec
from ..storage.stage import sha256
from ..storage.weights import TORCH, read_weights
from .budget import Budget
from .bundle import Bundle
from .chain import STAGES, Stage

__all__ = ["Cell", "Job", "PretrainedWeights", "parse_weights", "without_base"]


@dataclass(frozen=True)
class PretrainedWeights:
    """A file of weights that takes the place of a fit, for the rows of one method: all of its name, or one spec."""

    row: str
    file: Path
    digest: str

    def fits(self, spec: Spec) -> bool:
        """Whether a row takes these weights."""
        return self.row in (spec.name, spec.label)


def parse_weights(given: Sequence[str], rows: Iterable[Spec]) -> tuple[PretrainedWeights, ...]:
    """Parse ``METHOD=FILE``: a method, or a row by its label or its alias, or neither where the run has one method.

    Raises:
        UserError: the run has no such method, or a file is missing or holds no weights.
    """
    rows = list(rows)
    known = {name: name for row in rows for name in (row.name, row.label)}
    known |= {row.alias: row.label for row in rows if row.alias}
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
        found.append(PretrainedWeights(known[row], Path(file).resolve(), _weights_digest(Path(file))))
    return tuple(found)


def _weights_digest(file: Path) -> str:
    from safetensors import SafetensorError, safe_open

    try:
        digest = sha256(file)  # first, as it opens no pipe or device
        if file.suffix.lower() in TORCH:
            read_weights(file)
            return digest
        with safe_open(file, framework="np"):
            pass
        return digest
    except UserError as error:
        raise UserError(f"--weights {error}") from error
    except (OSError, SafetensorError) as error:
        what = (error.strerror if isinstance(error, OSError) else None) or one_line(error, 160)
        raise UserError(
            f"--weights {file}: no safetensors file ({what}); give one that save_file wrote, or a .pt of a state dict"
        ) from error


@dataclass(frozen=True)
class Job:
    """What every cell of a run shares; it can be pickled."""

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
    weights: tuple[PretrainedWeights, ...] = ()
    timeout: float | None = None
    bundles: tuple[Bundle, ...] = ()

    def images(self, spec: Spec) -> int:
        """The training images that the fit of a row may see: its own budget, or that of the run."""
        return self.budget.images_of(spec.images)


@dataclass(frozen=True)
class Cell:
    """One (data set, method, seed) with the keys of its stages.

    Attributes:
        fit: the method's spec without answer parameters; cells of equal ``fit`` share the folder of one fit.
        keys: of its stages and of its data set's, by name.
        scores: the keys of its scores, by metric.
        of: the method that a derived one answers through, and whose fit and tuning it shares.
        external: whether its answers were computed by another program.
        kept: the key that its fit would have, where a fit by other code is kept; its key of ``train`` is that one's.
        inputs: what keys of its own stages are made of, by key, where they were computed here; ``run.json`` has none.
    """

    dataset: Spec
    method: Spec
    seed: int
    fit: Spec
    keys: Mapping[str, str] = field(default_factory=dict)
    scores: Mapping[str, str] = field(default_factory=dict)
    of: Spec | None = None
    external: bool = False
    kept: str = ""
    inputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def label(self) -> str:
        return f"{self.dataset.label} {self.method.label} seed {self.seed}"

    @property
    def title(self) -> str:
        """The label, with the alias of its method."""
        return f"{self.dataset.label} {self.method.title} seed {self.seed}"

    @cached_property
    def path(self) -> Path:
        """The cell's folder inside the run."""
        return Path("cells") / self.dataset.folder / self.method.folder / f"seed-{self.seed}"

    def stage(self, name: str) -> Path:
        """The folder inside the run of a stage: train, tune, images, or score-METRIC."""
        if name.startswith("score-"):
            return self.path / f"{name}-{self.scores[name.removeprefix('score-')]}"
        return self.owner(STAGES[name]).path / f"{name}-{self.keys[name]}"

    def owner(self, stage: Stage) -> Cell:
        """The cell that a stage's folder belongs to."""
        return {"fit": self.fitted, "tune": self.base}.get(stage.owner, self)

    @cached_property
    def base(self) -> Cell:
        """The cell that is tuned: the one that a derived one answers through, or this one."""
        return replace(self, method=self.of, of=None) if self.of else self

    @cached_property
    def fitted(self) -> Cell:
        """The cell that is fitted."""
        return self.base if self.base.method == self.fit else replace(self.base, method=self.fit)

    def as_dict(self) -> dict[str, Any]:
        """As ``run.json`` holds it, with the alias and the budget of its method where that has them."""
        about = asdict(replace(self, inputs={}))
        del about["inputs"]
        if not self.kept:
            del about["kept"]
        for spec in filter(None, (about[name] for name in ("dataset", "method", "fit", "of"))):
            for name in ("alias", "images"):
                if not spec[name]:
                    del spec[name]
        return about

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Cell:
        of = Spec(**d["of"]) if d.get("of") else None
        specs = {name: Spec(**d[name]) for name in ("dataset", "method", "fit")}
        return cls(
            specs["dataset"], specs["method"], d["seed"], specs["fit"], d["keys"], d["scores"], of,
            d.get("external", False), d.get("kept", ""),
        )  # fmt: skip


def without_base(spec: Spec) -> Spec:
    """A derived row's spec without the row that it answers through."""
    return replace(spec, params={k: v for k, v in spec.params.items() if k != "of"})

"""The plan of a data set: the questions (factual, variable, value) that every method is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..contract import Dataset, Split
from ..errors import UserError, did_you_mean
from ..graph import CausalGraph, Variable
from ..rng import derive
from ..storage.stage import read_json, read_tensors, write_json, write_tensors

__all__ = ["PLANS", "Act", "Asked", "Plan", "check_parents", "check_plan", "make_plan"]


Act = Callable[[Tensor, Mapping[str, Tensor], torch.Generator], Tensor | None]
"""The response of parents [B, D] to do(variable = values [B])."""

PLANS = ("marginal", "force-change")


@dataclass(frozen=True)
class Asked:
    """The questions about one variable: factual [Q], value of the intervention [Q], counterfactual parents [Q, D].

    ``supported`` [Q] says whether the counterfactual parents are within the support of the training data.
    """

    factual: Tensor
    value: Tensor
    cf_pa: Tensor
    supported: Tensor

    def __len__(self) -> int:
        return len(self.factual)


@dataclass(frozen=True)
class Plan:
    """Factuals (rows [N] of a split, with row numbers in the data set and parents) and the questions about them."""

    name: str
    split: Literal["valid", "test"]
    rows: Tensor
    index: Tensor
    pa: Tensor
    asked: Mapping[str, Asked]

    def __len__(self) -> int:
        return len(self.rows)

    def save(self, folder: Path) -> None:
        """Write the plan into a folder."""
        tensors = {"rows": self.rows, "index": self.index, "pa": self.pa}
        for v, asked in self.asked.items():
            tensors |= {f"{part}/{v}": getattr(asked, part) for part in Asked.__annotations__}
        write_tensors(folder / "plan.safetensors", tensors)
        about: dict[str, Any] = {"name": self.name, "split": self.split, "factuals": len(self)}
        write_json(folder / "plan.json", about | {"variables": {v: len(a) for v, a in self.asked.items()}})

    @classmethod
    def load(cls, folder: Path) -> Plan:
        """Read a plan that `save` wrote."""
        about, tensors = read_json(folder / "plan.json"), read_tensors(folder / "plan.safetensors")
        asked = {v: Asked(**{p: tensors[f"{p}/{v}"] for p in Asked.__annotations__}) for v in about["variables"]}
        return cls(about["name"], about["split"], tensors["rows"], tensors["index"], tensors["pa"], asked)


def check_plan(dataset: Dataset, label: str, name: str) -> None:
    """Raise unless the data set has a plan of that name.

    Raises:
        UserError: it has none.
    """
    known = dict.fromkeys([*PLANS, *dataset.plans])
    if name not in known:
        raise UserError(f"{label} has no plan {name!r}; {did_you_mean(name, known)}")


def check_parents(pa: Tensor, rows: int, names: Sequence[str], what: str) -> None:
    """Raise unless parents are finite numbers [rows, D].

    Args:
        pa: the parents.
        rows: the expected number of rows.
        names: names of the D columns.
        what: the beginning of the message.

    Raises:
        UserError: they have another shape, or some are not finite: how many, in which column.
    """
    if tuple(pa.shape) != (rows, len(names)):
        raise UserError(f"{what} parents {list(pa.shape)}; give {[rows, len(names)]} ({', '.join(names)})")
    missing = (~pa.isfinite()).sum(0).tolist()
    if any(missing):
        found = ", ".join(f"{n} of {len(pa)} of {name}" for n, name in zip(missing, names, strict=True) if n)
        raise UserError(f"{what} parents that are not finite: {found}; give numbers, or leave such rows out")


def make_plan(
    dataset: Dataset,
    root: Path,
    *,
    name: str,
    split: Literal["valid", "test"],
    factuals: int,
    seed: int = 0,
    act: Act | None = None,
) -> Plan:
    """One question for each factual and variable; at most half of the split is asked about.

    ``marginal`` draws values from the training marginal (a class always another than the factual's);
    ``force-change`` draws continuous values from another decile than the factual's; a data set may name more.
    Parents respond by ``act``, by default that of the data set.

    Raises:
        UserError: the data set has no plan of that name, does not know how its parents respond, or has parents that
            are not finite.
    """
    check_plan(dataset, type(dataset).__name__, name)
    train, pool = dataset.split(root, "train"), dataset.split(root, split)
    shuffled = np.random.default_rng(derive("factuals", seed)).permutation(len(pool))
    rows = torch.from_numpy(shuffled[: min(factuals, len(pool) // 2)].copy())
    pa, names = pool.parents[rows], dataset.graph.names
    check_parents(train.parents, len(train), names, "the train split has")
    check_parents(pool.parents, len(pool), names, f"the {split} split has")
    support = Support(dataset.graph, train.parents)
    asked = {}
    for v in dataset.graph.variables:
        factual, value = _values(dataset, v, train, pa, name, derive("values", name, v.name, seed))
        if len(factual):
            rng = torch.Generator().manual_seed(derive("action", name, v.name, seed))
            cf_pa = (act or dataset.act)(pa[factual], {v.name: value}, rng)
            if cf_pa is None:
                raise UserError("this data set gives no response of the parents to do(); define `act` for its graph")
            check_parents(cf_pa, len(factual), names, f"the action gives under do({v.name})")
            asked[v.name] = Asked(factual, value, cf_pa.float(), support(cf_pa))
    return Plan(name, split, rows, pool.index[rows], pa, asked)


def _values(dataset: Dataset, v: Variable, train: Split, pa: Tensor, name: str, seed: int) -> tuple[Tensor, Tensor]:
    """The factuals [Q] of the questions about a variable, and the values [Q] of the intervention."""
    if name not in PLANS:
        given = (dataset.targets(name, pa) or {}).get(v.name, [])
        pairs = [(i, value) for i, values in enumerate(given) for value in values]
        return torch.tensor([i for i, _ in pairs], dtype=torch.long), torch.tensor([float(x) for _, x in pairs])
    column = dataset.graph.index(v.name)
    rng = np.random.default_rng(seed)
    marginal, own = train.parents[:, column].numpy(), pa[:, column].numpy()
    edges = np.quantile(marginal, np.linspace(0.1, 0.9, 9))
    values = rng.choice(marginal, len(own))
    for _ in range(1000):
        same = values == own if v.categorical else np.searchsorted(edges, values) == np.searchsorted(edges, own)
        if not (v.categorical or name == "force-change") or not same.any():
            break
        values = np.where(same, rng.choice(marginal, len(own)), values)
    return torch.arange(len(own)), torch.from_numpy(values.astype(np.float32))


class Support:
    """Whether parents are within the support of the training data.

    That is: among training rows of the same classes, the fifth nearest in standardised continuous parents is
    no farther than it is for 99 % of the training rows themselves.
    """

    def __init__(self, graph: CausalGraph, pa: Tensor, *, neighbours: int = 5, quantile: float = 0.99) -> None:
        self.classes = [i for i, v in enumerate(graph.variables) if v.categorical]
        self.values = [i for i, v in enumerate(graph.variables) if not v.categorical]
        self.neighbours = neighbours
        self.groups = {g: rows for g, rows in self._grouped(pa).items() if len(rows) > neighbours}
        self.trees: dict[tuple[float, ...], Any] = {}
        if self.values:
            from sklearn.neighbors import NearestNeighbors  # slow to import

            self.scale = pa[:, self.values].std(0).clamp_min(1e-12)
            points = (pa[:, self.values] / self.scale).numpy()
            self.trees = {
                g: NearestNeighbors(algorithm="kd_tree" if self._by_tree(g) else "brute").fit(points[rows])
                for g, rows in self.groups.items()
            }
            own = [tree.kneighbors(None, neighbours)[0][:, -1] for tree in self.trees.values()]
            self.radius = float(np.quantile(np.concatenate(own), quantile)) if own else 0.0

    def __call__(self, pa: Tensor) -> Tensor:
        """Whether each row of pa [B, D] is inside [B]."""
        inside = torch.zeros(len(pa), dtype=torch.bool)
        for group, rows in self._grouped(pa).items():
            if group in self.groups:
                inside[rows] = self._near(group, pa[rows][:, self.values]) if self.values else True
        return inside

    def _grouped(self, pa: Tensor) -> dict[tuple[float, ...], list[int]]:
        """The rows that have the same classes."""
        groups: dict[tuple[float, ...], list[int]] = {}
        for row, group in enumerate(pa[:, self.classes].tolist()):
            groups.setdefault(tuple(group), []).append(row)
        return groups

    def _by_tree(self, group: tuple[float, ...]) -> bool:
        """Whether a k-d tree is faster for a group's training rows."""
        return len(self.groups[group]) > 2 * self.neighbours + 1 and len(self.values) < 16

    def _near(self, group: tuple[float, ...], values: Tensor) -> Tensor:
        """Whether continuous parents [B, V] are within the radius of a group's training rows: [B]."""
        points = (values / self.scale).numpy()
        # without a tree, distances come from products of matrices, which may round by their number of rows
        parts = [points] if self._by_tree(group) else np.split(points, len(points))
        far = [self.trees[group].kneighbors(part, self.neighbours)[0][:, -1] for part in parts]
        return torch.from_numpy(np.concatenate(far) <= self.radius)

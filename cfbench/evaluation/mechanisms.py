"""Learned action: mechanisms of the parents, fitted to the training data, that respond to interventions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
import zuko
from torch import Tensor, nn

from ..contract import Dataset
from ..graph import CausalGraph, Variable
from ..rng import derive

__all__ = ["ParentMechanisms", "gumbels", "mechanism_card"]


MARGIN = 1e-3
"""Share of the range that is added at both ends, so that the logit stays finite."""
HIDDEN = (64, 64)
STEPS, BATCH, LR = 1500, 512, 3e-3


class ParentMechanism(nn.Module):
    """The conditional distribution of one variable, with abduction and prediction of its value."""

    def observe(self, v: Tensor) -> None:
        """Set the parameters that are computed from training values [N] without gradient descent."""

    def log_prob(self, v: Tensor, context: Tensor | None) -> Tensor:
        """log p(v | context) [B] in nats, float64."""
        raise NotImplementedError

    def respond(self, v: Tensor, context: Tensor | None, new: Tensor | None, rng: torch.Generator) -> Tensor:
        """The value [B] that the noise abducted from v and ``context`` gives under the context ``new``."""
        raise NotImplementedError


class ContinuousMechanism(ParentMechanism):
    """p(v | context) of a continuous variable: a monotone rational-quadratic spline flow on the logit of v.

    Durkan et al. 2019, https://arxiv.org/abs/1906.04032, as `zuko.flows.NSF`. The logit maps the variable's range,
    widened to hold the training data, to the real line, so that a response never leaves it. The flow increases in
    v: the noise is the factual's quantile given its parents, which identifies the response (monotone, Markovian).
    """

    low: Tensor
    high: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, variable: Variable, context: int) -> None:
        super().__init__()
        self.flow = zuko.flows.NSF(1, context, transforms=2, hidden_features=HIDDEN)
        for name, start in (("low", variable.low), ("high", variable.high), ("mean", 0.0), ("std", 1.0)):
            self.register_buffer(name, torch.tensor(start, dtype=torch.float64))

    def observe(self, v: Tensor) -> None:
        """Set the range and the scale from training values [N]."""
        self.low.copy_(torch.minimum(self.low, v.double().amin()))
        self.high.copy_(torch.maximum(self.high, v.double().amax()))
        y, _ = self._logit(v)
        self.mean.copy_(y.mean())
        self.std.copy_(y.std().clamp_min(1e-6))

    def _logit(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """y = logit of v within its range, and log |dy/dv| [B], float64."""
        width = (self.high - self.low).clamp_min(1e-12)
        share = ((v.double() - self.low) / width * (1 - 2 * MARGIN) + MARGIN).clamp(MARGIN, 1 - MARGIN)
        slope = torch.log((1 - 2 * MARGIN) / width) - torch.log(share) - torch.log1p(-share)
        return torch.logit(share), slope

    def log_prob(self, v: Tensor, context: Tensor | None) -> Tensor:
        y, slope = self._logit(v)
        z = ((y - self.mean) / self.std).float()[:, None]
        return self.flow(context).log_prob(z).double() + slope - torch.log(self.std)

    def respond(self, v: Tensor, context: Tensor | None, new: Tensor | None, rng: torch.Generator) -> Tensor:
        y, _ = self._logit(v)
        u = self.flow(context).transform(((y - self.mean) / self.std).float()[:, None])
        y = self.flow(new).transform.inv(u)[:, 0].double() * self.std + self.mean
        share = (torch.sigmoid(y) - MARGIN) / (1 - 2 * MARGIN)
        return (self.low + (self.high - self.low) * share.clamp(0, 1)).to(v.dtype)


class TableMechanism(ParentMechanism):
    """p(v) of a class without parents: its frequencies, with one case added to each class."""

    logits: Tensor

    def __init__(self, variable: Variable) -> None:
        super().__init__()
        self.register_buffer("logits", torch.zeros(variable.size))

    def observe(self, v: Tensor) -> None:
        count = torch.bincount(v.long(), minlength=len(self.logits)).float() + 1
        self.logits.copy_((count / count.sum()).log())

    def log_prob(self, v: Tensor, context: Tensor | None) -> Tensor:
        return F.log_softmax(self.logits, 0)[v.long()].double()


class ClassMechanism(ParentMechanism):
    """p(v | context) of a class with parents: the softmax of a network, whose noise is that of Gumbel's maximum.

    The coupling of classes under two contexts is not identified by data: a response is one draw of the noise given v.
    """

    def __init__(self, variable: Variable, context: int) -> None:
        super().__init__()
        sizes = (context, *HIDDEN)
        layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.SiLU())]
        self.net = nn.Sequential(*layers, nn.Linear(HIDDEN[-1], variable.size))

    def log_prob(self, v: Tensor, context: Tensor | None) -> Tensor:
        return -F.cross_entropy(self.net(context), v.long(), reduction="none").double()

    def respond(self, v: Tensor, context: Tensor | None, new: Tensor | None, rng: torch.Generator) -> Tensor:
        noise = gumbels(F.log_softmax(self.net(context), 1).double(), v.long(), rng)
        return (F.log_softmax(self.net(new), 1) + noise).argmax(1).to(v.dtype)


def gumbels(logits: Tensor, k: Tensor, rng: torch.Generator) -> Tensor:
    """Gumbel noise g [B, K] drawn from its posterior, given that logits + g is largest at class k [B].

    The maximum is Gumbel and independent of its class; the others are truncated below it (Oberst & Sontag 2019,
    https://arxiv.org/abs/1905.05824; Maddison et al. 2014, https://arxiv.org/abs/1411.0030).
    """
    draws = -torch.log(-torch.log(torch.rand(logits.shape, generator=rng, dtype=logits.dtype).clamp(1e-12, 1 - 1e-12)))
    top = draws.gather(1, k[:, None]) + torch.logsumexp(logits, 1, keepdim=True)
    below = -torch.logaddexp(-(logits + draws), -top)
    return below.scatter(1, k[:, None], top) - logits


class ParentMechanisms(nn.Module):
    """The learned mechanism of every parent given its own parents in the graph, and interventions on them.

    Args:
        graph: the causal graph of the data set.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, graph: CausalGraph) -> None:
        super().__init__()
        self.graph = graph
        self.causes = {v.name: [graph.index(p) for p in v.parents] for v in graph.variables}
        self.register_buffer("mean", torch.zeros(len(graph.variables)))
        self.register_buffer("std", torch.ones(len(graph.variables)))
        self.each = nn.ModuleList(self._mechanism(v) for v in graph.variables)

    @property
    def of(self) -> Sequence[ParentMechanism]:
        """The mechanisms in the order of the graph's variables."""
        return cast(Sequence[ParentMechanism], self.each)

    def _mechanism(self, v: Variable) -> ParentMechanism:
        context = sum(self.graph[p].size if self.graph[p].categorical else 1 for p in v.parents)
        if not v.categorical:
            return ContinuousMechanism(v, context)
        return ClassMechanism(v, context) if context else TableMechanism(v)

    def _context(self, name: str, pa: Tensor) -> Tensor | None:
        """The context of the mechanism of ``name`` from pa [B, D]: classes one-hot, values standardised."""
        parts = [self._encode(k, pa[:, k]) for k in self.causes[name]]
        return torch.cat(parts, 1) if parts else None

    def _encode(self, k: int, v: Tensor) -> Tensor:
        variable = self.graph.variables[k]
        if variable.categorical:
            return F.one_hot(v.round().long(), variable.size).float()
        return ((v - self.mean[k]) / self.std[k])[:, None]

    def fit(self, pa: Tensor, progress: Callable[[int, int], None] = lambda done, total: None, seed: int = 0) -> None:
        """Maximise the likelihood of training parents pa [N, D], one mechanism after the other."""
        self.mean.copy_(pa.mean(0))
        self.std.copy_(pa.std(0).clamp_min(1e-6))
        total = len(self.of)
        for k, (v, mechanism) in enumerate(zip(self.graph.variables, self.of, strict=True)):
            progress(k, total)
            mechanism.observe(pa[:, k])
            if parameters := list(mechanism.parameters()):
                rng = torch.Generator().manual_seed(derive("mechanism", v.name, seed))
                self._descend(mechanism, parameters, pa[:, k], self._context(v.name, pa), rng)
        progress(total, total)

    @staticmethod
    def _descend(
        mechanism: ParentMechanism,
        parameters: Sequence[Tensor],
        v: Tensor,
        context: Tensor | None,
        rng: torch.Generator,
    ) -> None:
        optimiser = torch.optim.Adam(parameters, lr=LR)
        for step in range(STEPS):
            optimiser.param_groups[0]["lr"] = LR * 0.5 * (1 + math.cos(math.pi * step / STEPS))
            rows = torch.randint(len(v), (BATCH,), generator=rng)
            loss = -mechanism.log_prob(v[rows], None if context is None else context[rows]).mean()
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()

    @torch.no_grad()
    def log_prob(self, pa: Tensor) -> Tensor:
        """log p(pa_k | its parents) [B, D] in nats, float64; of values in their unit."""
        columns = [
            mechanism.log_prob(pa[:, k], self._context(v.name, pa))
            for k, (v, mechanism) in enumerate(zip(self.graph.variables, self.of, strict=True))
        ]
        return torch.stack(columns, 1)

    @torch.no_grad()
    def act(self, pa: Tensor, do: Mapping[str, Tensor], rng: torch.Generator) -> Tensor:
        """The response of pa [B, D] to ``do``: noise abducted from pa, then each mechanism under its new parents.

        Variables that are no descendants, or whose parents do not change, keep their values exactly.
        """
        new = self.graph.set(pa, do)
        for name in self.graph.order:
            causes, k = self.causes[name], self.graph.index(name)
            moved = (new[:, causes] != pa[:, causes]).any(1)
            if name in do or not moved.any():
                continue
            old, now = self._context(name, pa[moved]), self._context(name, new[moved])
            new[moved, k] = self.of[k].respond(pa[moved, k], old, now, rng)
        return new


def mechanism_card(
    mechanisms: ParentMechanisms, dataset: Dataset, train: Tensor, valid: Tensor
) -> list[dict[str, Any]]:
    """Rows {judge, variable, data, error, unit, n, good} on validation parents [N, D]: what the mechanisms are worth.

    ``real``: negative log-likelihood in nats. ``do(V)``, for each variable that V causes and where the data set knows
    the exact response: the mean absolute error of the learned one (classes: the share that differ), with V drawn
    from its training marginal.
    """
    graph, rows = mechanisms.graph, []
    loss = -mechanisms.log_prob(valid).mean(0)
    for k, v in enumerate(graph.variables):
        rows.append(_row(v.name, "real", float(loss[k]), "nat", len(valid)))
    for k, v in enumerate(graph.variables):
        rng = torch.Generator().manual_seed(derive("mechanism card", v.name))
        do = {v.name: train[torch.randint(len(train), (len(valid),), generator=rng), k]}
        exact = dataset.act(valid, do, rng) if graph.descendants(v.name) else None
        if exact is None:
            continue
        learned = mechanisms.act(valid, do, rng)
        for name in graph.descendants(v.name):
            j, classes = graph.index(name), graph[name].categorical
            miss = (learned[:, j] != exact[:, j]).double() if classes else (learned - exact)[:, j].abs().double()
            unit = "share wrong" if classes else graph[name].unit
            rows.append(_row(name, f"do({v.name})", float(miss.mean()), unit, len(valid)))
    return rows


def _row(variable: str, data: str, error: float, unit: str, n: int) -> dict[str, Any]:
    return {
        "judge": "learned mechanism", "variable": variable, "data": data, "error": error, "unit": unit, "n": n,
        "good": None,
    }  # fmt: skip

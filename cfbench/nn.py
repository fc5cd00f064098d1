"""What most methods need: parents as a network reads them, images padded to a multiple, an average of weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .graph import CausalGraph

__all__ = ["ParentEncoder", "WeightAverage", "crop", "pad_to_multiple"]


class ParentEncoder(nn.Module):
    """Parents pa [B, D] in raw units as one vector [B, dim]: one-hot classes, standardised continuous values.

    Each variable keeps its place in the graph's order; one of K classes becomes K indicators. Mean and standard
    deviation [D] are buffers that `fit` sets; until then continuous values pass unchanged.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, graph: CausalGraph) -> None:
        super().__init__()
        self.variables = graph.variables
        self.register_buffer("mean", torch.zeros(len(self.variables)))
        self.register_buffer("std", torch.ones(len(self.variables)))

    @property
    def dim(self) -> int:
        """Length of the encoding."""
        return sum(v.size if v.categorical else 1 for v in self.variables)

    @torch.no_grad()
    def fit(self, pa: Tensor) -> ParentEncoder:
        """Take mean and standard deviation of the continuous columns from pa [N, D]; a constant column gets 1."""
        for column, v in enumerate(self.variables):
            if not v.categorical:
                values = pa[:, column].double()
                std = float(values.std(correction=0))
                self.mean[column] = float(values.mean())
                self.std[column] = std if std > 1e-8 else 1.0
        return self

    def standardise(self, pa: Tensor) -> Tensor:
        """pa [B, D] with its continuous columns at mean 0 and standard deviation 1, class numbers unchanged."""
        return (pa - self.mean) / self.std

    def forward(self, pa: Tensor) -> Tensor:
        scaled = self.standardise(pa)
        parts = [
            F.one_hot(pa[:, column].round().long(), v.size).to(scaled.dtype)
            if v.categorical
            else scaled[:, column : column + 1]
            for column, v in enumerate(self.variables)
        ]
        return torch.cat(parts, dim=1)

    def token(self, pa: Tensor, keep: Tensor | None = None) -> Tensor:
        """`forward` with a 1 appended [B, dim + 1]; the null token, all 0, in the rows where ``keep`` [B] is false."""
        known = torch.cat([self(pa), torch.ones(len(pa), 1, dtype=self.mean.dtype, device=pa.device)], dim=1)
        return known if keep is None else known * keep[:, None].to(known.dtype)

    def swap(self, pa: Tensor, classes: Tensor) -> Tensor:
        """pa [B, D] with its classes replaced by those of the parents ``classes`` [B, D]."""
        return torch.stack(
            [(classes if v.categorical else pa)[:, column] for column, v in enumerate(self.variables)], dim=1
        )


def pad_to_multiple(x: Tensor, multiple: int, mode: Literal["constant", "replicate"] = "constant") -> Tensor:
    """Images x [B, C, H, W] with pixels added to the right and below, so that both sides are multiples.

    Args:
        mode: ``constant`` adds black, ``replicate`` repeats the last row and column. `crop` takes them off again.
    """
    return F.pad(x, (0, -x.shape[3] % multiple, 0, -x.shape[2] % multiple), mode=mode)


def crop(y: Tensor, like: Tensor | Sequence[int]) -> Tensor:
    """The upper left part of images y [B, C, H', W'] that is as high and wide as other images, or as a shape says."""
    height, width = (like.shape if isinstance(like, Tensor) else like)[-2:]
    return y[:, :, :height, :width]


class WeightAverage:
    """An exponential moving average of a network's weights, whose decay begins at a tenth.

    At the n-th update (from 0) the decay is min(decay, (1 + n) / (10 + n)), so that initial weights are forgotten soon.
    It has a state dict: ``run.batches(..., keep={"average": average})`` continues it with the fit.

    Args:
        net: whose parameters are averaged.
        decay: of the average, in [0, 1); 0 keeps the last weights.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.parameters: list[Tensor] = list(net.parameters())
        self.mean = copy.deepcopy(self.parameters)
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self) -> None:
        """Take the present weights into the average, after a step of the optimiser."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.mean, self.parameters, 1 - decay)
        self.updates += 1

    @torch.no_grad()
    def apply(self) -> None:
        """Give the network the average as its weights."""
        torch._foreach_copy_(self.parameters, self.mean)

    def state_dict(self) -> dict[str, Any]:
        """The average and the number of updates."""
        return {"mean": self.mean, "updates": self.updates}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        torch._foreach_copy_(self.mean, list(state["mean"]))
        self.updates = int(state["updates"])

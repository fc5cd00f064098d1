"""Parents of an image as numbers that a network can read."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfbench.graph import CausalGraph

__all__ = ["ParentEncoder"]


class ParentEncoder(nn.Module):
    """Parents pa [B, D] in raw units as one vector [B, dim]: one-hot classes, standardised continuous values.

    Each variable keeps its place in the graph's order. Mean and standard deviation [D] are buffers that `fit`
    sets; until then continuous values pass unchanged.
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

"""One random stream for each image, so that answers do not depend on the batch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["Streams", "derive"]


def derive(*parts: object) -> int:
    """A 63-bit seed from parts that have the same text on every machine."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


class Streams:
    """Independent generators, one per image: row ``i`` of every draw comes from stream ``i``.

    Args:
        seeds: one seed per image [B].
        device: device of the draws; they are generated on the CPU, so that they are the same on every device.
    """

    def __init__(self, seeds: Iterable[int], device: torch.device | str = "cpu") -> None:
        self.generators = [torch.Generator().manual_seed(int(s)) for s in seeds]
        self.device = torch.device(device)

    def __len__(self) -> int:
        return len(self.generators)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal draws [B, *shape], float32."""
        return torch.stack([torch.randn(shape, generator=g) for g in self.generators]).to(self.device)

    def uniform(self, *shape: int) -> Tensor:
        """Draws from [0, 1) [B, *shape], float32."""
        return torch.stack([torch.rand(shape, generator=g) for g in self.generators]).to(self.device)

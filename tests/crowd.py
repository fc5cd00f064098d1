"""A toy data set of as many 28x28 images as are asked for, and a method that knows it; a plugin file."""

from __future__ import annotations

import torch

from cfbench.contract import Dataset, Method, Split
from cfbench.graph import CausalGraph, Variable
from cfbench.rng import derive


def draw(pa, hand):
    """Two bars [B, 1, 28, 28], upright (kind 0) or lying, of a level, at the hand's place on its background."""
    row, column = torch.arange(28)[:, None], torch.arange(28)[None]
    place = hand[:, 0, None, None]
    bars = ((column - place).abs() < 1.5) | ((column - place - 8).abs() < 1.5)
    image = torch.where(bars & (row > 3) & (row < 24), pa[:, 1, None, None], hand[:, 1, None, None])
    image = torch.where(pa[:, 0, None, None] == 1, image.mT, image)
    return ((image.clamp(0, 1) * 255).round() / 255)[:, None]


class Crowd(Dataset):
    """Bars with exact truth, of which ``n`` are test images."""

    graph = CausalGraph(
        (
            Variable("kind", "categorical", size=2, truth="exact"),
            Variable("level", "continuous", low=0.2, high=1.0, parents=("kind",), truth="exact"),
        ),
        (1, 28, 28),
    )

    def __init__(self, n: int = 2000):
        self.sizes = {"train": 512, "valid": 128, "test": n}
        rng, total = torch.Generator().manual_seed(derive("crowd")), 640 + n
        kind = torch.randint(2, (total,), generator=rng).float()
        level = 0.4 + 0.2 * kind + 0.2 * torch.rand(total, generator=rng)
        self.pa = torch.stack([kind, level], 1)
        place = 3 + torch.randint(12, (total,), generator=rng)
        self.hand = torch.stack([place.float(), 0.15 * torch.rand(total, generator=rng)], 1)
        self.known: dict[str, Split] = {}

    def split(self, root, name):
        if name not in self.known:
            first = sum(list(self.sizes.values())[: list(self.sizes).index(name)])
            rows = torch.arange(first, first + self.sizes[name])
            images = [(draw(self.pa[r], self.hand[r]) * 255).round().byte() for r in rows.split(1000)]
            self.known[name] = Split(torch.cat(images), self.pa[rows], rows)
        return self.known[name]

    def act(self, pa, do, rng):
        new = self.graph.set(pa, do)
        if "level" not in do:
            new[:, 1] += 0.2 * (new[:, 0] - pa[:, 0])
        return new

    def oracle(self, root, split, index, cf_pa):
        return draw(cf_pa, self.hand[index])

    def measure(self, images):
        return {"level": images.amax((1, 2, 3))}


class Nearly(Method):
    """Reads the hand off the image and draws anew, a little darker."""

    def abduct(self, x, pa, rng):
        upright = torch.where(pa[:, 0].bool()[:, None, None], x[:, 0].mT, x[:, 0])
        ground = x.amin((1, 2, 3))
        place = (upright.mean(1) > ground[:, None] + 0.05).float().argmax(1) + 1
        return torch.stack([place.float(), ground], 1)

    def predict(self, u, pa, rng):
        return draw(pa, u) * 0.98

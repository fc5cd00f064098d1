"""Small data for tests of methods, and the sessions in which they are fitted."""

from __future__ import annotations

import torch

from cfbench.contract import Fit, Split
from cfbench.graph import CausalGraph, Variable
from cfbench.rng import Streams

DIGIT = Variable("digit", "categorical", size=3)
WIDTH = Variable("width", "continuous", low=1, high=5)
STRIPES = CausalGraph((DIGIT, WIDTH), (1, 8, 8))


def random_split(graph, count=120, seed=0):
    """Images and parents that have nothing to do with each other."""
    g = torch.Generator().manual_seed(seed)
    columns = [
        torch.randint(v.size, (count,), generator=g).float() if v.categorical else 2 + torch.randn(count, generator=g)
        for v in graph.variables
    ]
    images = torch.randint(0, 256, (count, *graph.shape), dtype=torch.uint8, generator=g)
    return Split(images, torch.stack(columns, dim=1), torch.arange(count))


def draw_stripes(pa, ground):
    """Images uint8 [B, 1, 8, 8]: a stripe where the digit says, as bright as the width, on a ground [B] in [0, 1]."""
    image = ground[:, None, None, None].expand(-1, 1, 8, 8).clone()
    for i, (digit, width) in enumerate(pa.tolist()):
        image[i, 0, :, 2 * int(digit) : 2 * int(digit) + 3] = 0.2 * width
    return (255 * image).round().byte()


def stripes(count=400, seed=0):
    """A split of stripes, and the grounds [N], which are the images' exogenous noise."""
    g = torch.Generator().manual_seed(seed)
    pa = torch.stack([torch.randint(3, (count,), generator=g).float(), 2 + 2 * torch.rand(count, generator=g)], 1)
    ground = 0.3 * torch.rand(count, generator=g)
    return Split(draw_stripes(pa, ground), pa, torch.arange(count)), ground


def session(train, images, valid=None, seed=0, **more):
    """What a method is given to fit: so many training images, and the training data again for validation by default."""
    g = torch.Generator().manual_seed(seed)
    return Fit(train, valid or train, images, torch.device("cpu"), g, **more)


def random_session(graph, images=600, seed=0, **more):
    """A session with random data."""
    return session(random_split(graph), images, random_split(graph, seed=1), seed, **more)


def streams(count, first=0):
    """A stream of random numbers for each of so many images."""
    return Streams(range(first, first + count))

"""Every registered plugin against the suite that other people's plugins are checked by."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import pytest
import torch
from PIL import Image

from cfbench.conformance import Subject, checks, subject
from cfbench.conformance.subjects.toy import Bars
from cfbench.contract import Dataset, Split
from cfbench.graph import CausalGraph, Variable
from cfbench.plugins.registry import Registry
from cfbench.rng import derive

pytestmark = pytest.mark.portable

REGISTRY = Registry()
SHAPES = {
    "classes": CausalGraph((Variable("kind", "categorical", size=3),), (1, 8, 8)),
    "values": CausalGraph((Variable("grey", "continuous", low=0, high=1),), (3, 7, 9)),
}
"""Graphs without a value, and without a class: with colours, on sides that no network halves twice."""
SMALL = {
    "deepscm": {"width": 8, "hidden": 32, "particles": 2},
    "diffscm": {
        "width": 8,
        "mult": (1, 2),
        "predictor_width": 8,
        "predictor_mult": (1, 2),
        "steps": 4,
        "sampler": "direct",
    },
    "diffscm-cfg": {"width": 8, "mult": (1, 2), "steps": 4, "sampler": "ddim"},
    "flowmatching": {"width": 8, "mult": (1, 2), "steps": 4, "guidance": 2.0, "fixed_point": 1},
    "flowscm": {"width": (16, 16, 8), "depth": (1, 1, 1), "couplings": (2, 1, 1), "kind": "wavelet"},
    "hvae": {"widths": (8, 8, 8), "latents": (2, 2, 4), "blocks": (1, 1, 1), "layers": (0, 1, 1), "prior": "mediator"},
}
"""Small networks and settings other than the defaults, of samplers those that do not let rounding grow."""
SETTINGS = {"strokes": {"train": 1000, "valid": 200, "test": 200}, "folder": {"path": "bars"}}
"""Smaller data, which are drawn anew here, and data of one's own."""
GRAPH = """
[variables.kind]
kind = "categorical"
[variables.level]
kind = "continuous"
parents = ["kind"]
"""


@cache
def examined(kind: str, name: str, root: Path | None) -> Subject:
    return subject(REGISTRY.load(kind, name), data_root=root, **SETTINGS.get(name, {}))


@cache
def folder() -> tempfile.TemporaryDirectory:
    """A data root where a user's own images are."""
    root = tempfile.TemporaryDirectory()
    own = Path(root.name) / "bars"
    own.mkdir()
    split, rows = Bars().split(own, "train"), ["image,kind,level"]
    for k, (image, (kind, level)) in enumerate(zip(split.images, split.parents.tolist(), strict=True)):
        Image.fromarray(image[0].numpy()).save(own / f"{k}.png")
        rows.append(f"{k}.png,{kind:.0f},{level}")
    (own / "parents.csv").write_text("\n".join(rows))
    (own / "graph.toml").write_text(GRAPH)
    return root


def cases(*kinds: str):
    loaded = [(kind, name, REGISTRY.load(kind, name)) for kind in kinds for name in REGISTRY.names(kind)]
    return [pytest.param(k, name, check, id=f"{name}-{check}") for k, name, cls in loaded for check in checks(cls)]


@pytest.mark.parametrize(("kind", "name", "check"), cases("method", "metric"))
def test_plugin_conforms(kind, name, check):
    check(examined(kind, name, None))


class Stripes(Dataset):
    """Images on which the parents are seen in a class of their own: rows as bright as each variable says."""

    def __init__(self, graph):
        self.graph = graph

    def split(self, root, name):
        g = torch.Generator().manual_seed(derive("stripes", name))
        n = {"train": 256, "valid": 64, "test": 32}[name]
        columns = [
            torch.randint(v.size, (n,), generator=g).float() if v.categorical else torch.rand(n, generator=g)
            for v in self.graph.variables
        ]
        images = 60 * torch.rand(n, *self.graph.shape, generator=g)
        for k, (v, column) in enumerate(zip(self.graph.variables, columns, strict=True)):
            images[:, :, k :: len(columns)] += 190 * (column / v.size if v.categorical else column)[:, None, None, None]
        return Split(images.byte(), torch.stack(columns, 1), torch.arange(n))


@cache
def shaped(name: str, graph: str) -> Subject:
    found = subject(REGISTRY.load("method", name), **SMALL[name])
    found.data = Stripes(SHAPES[graph])
    return found


@pytest.mark.parametrize("graph", SHAPES)
@pytest.mark.parametrize(
    ("name", "check"),
    [
        pytest.param(name, check, id=f"{name}-{check}")
        for name in SMALL
        for check in checks(REGISTRY.load("method", name))
    ],
)
def test_methods_conform_on_other_graphs_and_settings(name, graph, check):
    check(shaped(name, graph))


@pytest.mark.parametrize(("kind", "name", "check"), cases("dataset"))
def test_data_set_conforms(kind, name, check, request):
    real = REGISTRY.load(kind, name).network
    root = request.getfixturevalue("data_root") if real else Path(folder().name)
    check(examined(kind, name, root))

"""Every registered plugin against the suite that other people's plugins are checked by."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import pytest
from PIL import Image

from cfbench.conformance import Subject, checks, subject
from cfbench.conformance.subjects.toy import Bars
from cfbench.plugins.registry import Registry

pytestmark = pytest.mark.portable

REGISTRY = Registry()
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


@pytest.mark.parametrize(("kind", "name", "check"), cases("dataset"))
def test_data_set_conforms(kind, name, check, request):
    real = REGISTRY.load(kind, name).network
    root = request.getfixturevalue("data_root") if real else Path(folder().name)
    check(examined(kind, name, root))

"""Every registered plugin against the suite that other people's plugins are checked by."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import pytest

from cfbench.conformance import Subject, checks, subject
from cfbench.registry import Registry

REGISTRY = Registry()
SETTINGS = {"strokes": {"train": 1000, "valid": 200, "test": 200}}
"""Smaller data, which are drawn anew here."""


@cache
def examined(kind: str, name: str, root: Path | None) -> Subject:
    return subject(REGISTRY.load(kind, name), data_root=root, **SETTINGS.get(name, {}))


@cache
def folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory()


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

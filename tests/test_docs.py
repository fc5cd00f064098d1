"""What the documentation promises about plugins is what is registered."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cfbench.contract import Control, Derived
from cfbench.plugins.registry import Registry
from cfbench.plugins.spec import parse_specs

ROOT = Path(__file__).parents[1]
REGISTRY = Registry()
METHODS = (ROOT / "docs" / "methods.md").read_text()
README = (ROOT / "README.md").read_text()


def section(name: str) -> str:
    found = re.search(rf"^## {re.escape(name)}$(.*?)(?=^## |\Z)", METHODS, re.M | re.S)
    assert found, f"docs/methods.md has no section {name}"
    return found[1]


LEARNED = [
    name
    for name in REGISTRY.names("method")
    if not issubclass(REGISTRY.load("method", name), (Control, Derived)) and name not in ("identity", "untrained")
]


@pytest.mark.parametrize("name", LEARNED)
def test_every_method_has_a_section_with_equations_paper_policy_and_presets(name):
    text, cls = section(name), REGISTRY.load("method", name)
    assert "$$" in text
    assert "esidual" in text
    (number,) = re.findall(r"\d{4}\.\d{5}", cls.paper)
    assert number in text, f"{name}: the paper {cls.paper} is not named"
    for preset in cls.presets:
        assert re.search(rf"\b{preset}\b", text), f"{name}: the preset {preset} is not named"


def test_every_control_and_data_set_is_named():
    controls = set(REGISTRY.names("method")) - set(LEARNED)
    assert all(f"`{name}" in section("Controls") for name in controls)
    for kind in ("method", "dataset", "metric"):
        for name in REGISTRY.names(kind):
            assert f"`{name}" in README, f"README.md does not name the {kind} {name}"


def test_rows_that_the_documentation_asks_for_exist():
    for text in (README, METHODS):
        for asked in re.findall(r"--methods '?([^'\s]+?)'?(?=[\s`])", text):
            for spec in parse_specs(asked):
                if "of" in spec.params:
                    (spec,) = parse_specs(spec.params["of"])
                if spec.name != "mine":
                    REGISTRY.resolve("method", spec)

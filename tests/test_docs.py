"""What the documentation promises about plugins is what is registered."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cfbench.contract import Control, Derived
from cfbench.errors import UserError
from cfbench.judges.report import ENOUGH
from cfbench.plugins.registry import Registry
from cfbench.plugins.spec import Spec, parse_specs

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


def test_the_thresholds_of_judges_are_those_of_the_card():
    page = (ROOT / "docs" / "metrics.md").read_text()
    found = re.search(r"^## Judges that are not good enough$(.*?)(?=^## )", page, re.M | re.S)
    rows = dict(re.findall(r"^\| a (class|value) \| ([\d.]+) % of", found[1], re.M))
    assert {"class": 100 * ENOUGH["categorical"], "value": 100 * ENOUGH["continuous"]} == {
        name: pytest.approx(float(percent)) for name, percent in rows.items()
    }


DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ROWS = re.compile(r"""--methods (?:'([^']+)'|([^\s'`]+))|\bmethods=["']([^"']+)["']""")


def rows_asked_for(text: str) -> list[Spec]:
    """The rows that commands and Python in a document ask for, but for those of plugin files that it names."""
    own = set(re.findall(r"\b(\w+)\.py\b", text))
    specs = [spec for found in ROWS.findall(text) for spec in parse_specs("".join(found), rows=True)]
    return [spec for spec in specs if spec.name not in own]


def unknown_rows(text: str) -> list[str]:
    """What is wrong with the rows that a document asks for, one line each."""
    wrong = []
    for spec in rows_asked_for(text):
        try:
            REGISTRY.resolve("method", spec)
            for base in parse_specs(str(spec.params["of"])) if "of" in spec.params else ():
                REGISTRY.resolve("method", base)
        except UserError as error:
            wrong.append(str(error))
    return wrong


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.stem)
def test_rows_that_a_document_asks_for_exist(path):
    assert unknown_rows(path.read_text()) == []


def test_rows_are_found_in_the_documents():
    found = {spec.label for path in DOCUMENTS for spec in rows_asked_for(path.read_text())}
    assert {"diffscm[contrast=0]", "flowmatching:carried", "resample[of=hvae]", "deepscm", "identity"} <= found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("`cfbench run --methods difscm`", "unknown method 'difscm'; did you mean 'diffscm'?"),
        ("cfbench run --methods 'diffscm,\ndiffscm[contrst=0]' --jobs 1", "has no setting 'contrst'"),
        ("cfbench run --methods flowmatching:carred\n", "has no preset 'carred'"),
        ("cfbench run --methods 'deepscm,resample[of=hvea]'", "unknown method 'hvea'"),
        ('cfbench.run(methods="deepscm,identiti")', "unknown method 'identiti'"),
    ],
)
def test_a_row_that_does_not_exist_is_found(text, says):
    (wrong,) = unknown_rows(text)
    assert says in wrong


def test_rows_of_a_plugin_file_that_a_document_names_are_its_own():
    assert unknown_rows("cfbench run --methods mine,deepscm --plugin mine.py") == []
    assert len(unknown_rows("cfbench run --methods mine,deepscm")) == 1

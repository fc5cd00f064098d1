"""A bundle: questions and judges of a data set in one folder, versioned and checksummed, for any laboratory to load.

It is untrusted: ``bundle.json`` is checked before it is used, and no file outside the folder is read.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from .. import storage
from ..errors import UserError, one_line
from ..plugins.digest import key_of
from ..plugins.spec import Spec
from ..storage.schema import SchemaError, each, mapping, matching, number, one_of, scalar, text, whole_number
from .budget import Budget

__all__ = [
    "ABOUT",
    "FORMAT",
    "PARTS",
    "Bundle",
    "assign_bundles",
    "budget_of",
    "digest_of",
    "plain_name",
    "read_bundle",
]


FORMAT = 1
ABOUT = "bundle.json"
PARTS = ("plan", "mechanisms", "judges")
NEEDED = ("plan/plan.json", "plan/plan.safetensors", "judges/judges.json", "judges/judges.safetensors")

plain_name = matching(re.compile(r"\w[\w.+-]{0,59}"), "plain name of up to 60 letters")
_file = matching(
    re.compile(rf"(?:{'|'.join(PARTS)})/(?!stage\.json)\w[\w.-]*\.(?:json|safetensors)"), "file of a bundle"
)
_digest = matching(re.compile(r"[0-9a-f]{64}"), "SHA-256")


@dataclass(frozen=True)
class Bundle:
    """The bundle that a run uses for one of its data sets.

    ``folder`` is None in a run that is reopened: what it needs of the bundle was copied into its own folder.
    """

    dataset: str
    name: str
    version: str
    digest: str
    action: Literal["exact", "learned"]
    folder: Path | None = None

    @property
    def identity(self) -> dict[str, str]:
        """Name, version and digest, as in ``run.json``."""
        return {"name": self.name, "version": self.version, "digest": self.digest}

    def key(self, part: str) -> str:
        """The key of the plan, mechanisms or judges of the bundle, the same on every machine."""
        return key_of("bundle", self.digest, part)


def read_bundle(folder: Path) -> dict[str, Any]:
    """Read ``bundle.json``, after checking it and the digests of all files that it lists.

    Raises:
        UserError: there is no bundle, it is damaged or holds links, or it has another format.
    """
    if not (folder / ABOUT).exists():
        raise UserError(f"{folder} holds no bundle (no {ABOUT}); give a folder that `cfbench bundle` wrote")
    try:
        _check_plain_file(folder, ABOUT)
        described = mapping(storage.read_json(folder / ABOUT))
        _check_format(described)
        about = _checked(described)
        for name, digest in about["files"].items():
            _check_plain_file(folder, name)
            if storage.sha256(folder / name) != digest:
                raise SchemaError(f"{name} is not the file that {ABOUT} describes")
    except (KeyError, TypeError, ValueError, OSError, RecursionError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else one_line(error, 200)
        raise UserError(f"the bundle {folder} is damaged, or cfbench did not write it ({what}); get it again") from None
    return about


def _check_plain_file(folder: Path, name: str) -> None:
    """Raise unless a file, and each folder between it and the bundle's, is there and no link."""
    parts = [folder / part for part in (*Path(name).parents, Path(name)) if part != Path()]
    for path in parts:
        if not path.exists() and not path.is_symlink():
            raise SchemaError(f"{name} is missing")
        mode = path.lstat().st_mode
        if not (stat.S_ISREG(mode) if path == folder / name else stat.S_ISDIR(mode)):
            raise SchemaError(f"{path.relative_to(folder)} is a link or no plain file")


def _check_format(described: Mapping[str, Any]) -> None:
    found = whole_number(0, 10**6)(described["format"])
    if found != FORMAT:
        raise SchemaError(f"it has format {found}, this cfbench reads format {FORMAT}")


def _checked(described: Mapping[str, Any]) -> dict[str, Any]:
    files = mapping(described["files"], _digest, _file)
    if missing := [name for name in NEEDED if name not in files]:
        raise SchemaError(f"{missing[0]} is missing")
    if described["digest"] != digest_of(described):
        raise SchemaError(f"{ABOUT} was changed: its digest is not that of its contents")
    spec, graph = mapping(described["dataset"]), mapping(described["graph"])
    plan, budget = mapping(described["plan"]), mapping(described["budget"])
    return {
        **described,
        "name": plain_name(described["name"]),
        "version": plain_name(described["version"]),
        "cfbench": text(described["cfbench"]),
        "dataset": Spec(plain_name(spec["name"]), text(spec["preset"]), mapping(spec["params"], scalar)),
        "graph": {
            "shape": each(whole_number(1, 2**16))(graph["shape"]),
            "variables": each(mapping)(graph["variables"]),
        },
        "plan": {
            "name": text(plan["name"]),
            "split": one_of("test", "valid")(plan["split"]),
            "action": one_of("exact", "learned")(plan["action"]),
        },
        "budget": {
            "factuals": whole_number(1, 2**53)(budget["factuals"]),
            "judge": number(budget["judge"]),
        },
        "environment": mapping(described["environment"]),
        "files": files,
    }


def digest_of(about: Mapping[str, Any]) -> str:
    """The SHA-256 of ``bundle.json`` without this digest; it covers the digests of all files."""
    rest = {name: value for name, value in about.items() if name != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def assign_bundles(folders: Sequence[Path], datasets: Sequence[Spec]) -> tuple[Bundle, ...]:
    """Read bundles and assign each to the data set of its label, or else of its name.

    Raises:
        UserError: a bundle is damaged, or is for none of the data sets or for one that has another.
    """
    found: dict[str, Bundle] = {}
    for folder in folders:
        about = read_bundle(folder)
        label = _match(folder, about["dataset"], datasets)
        if label in found:
            raise UserError(
                f"--bundle {folder}: {label} has the bundle {found[label].folder} already; give one of them"
            )
        found[label] = Bundle(
            label, about["name"], about["version"], about["digest"], about["plan"]["action"], folder.resolve()
        )
    return tuple(found.values())


def _match(folder: Path, spec: Spec, datasets: Sequence[Spec]) -> str:
    same = [d.label for d in datasets if d.label == spec.label] or [d.label for d in datasets if d.name == spec.name]
    if len(same) == 1:
        return same[0]
    known = ", ".join(d.label for d in datasets)
    raise UserError(
        f"--bundle {folder} is for {spec.label}, the run asks about {known}; give --datasets {spec.label!r}"
    )


def budget_of(budget: Budget, bundles: Sequence[Bundle]) -> Budget:
    """The budget with the numbers of factuals and the judges' scale that bundles were made with.

    Raises:
        UserError: they were made with different ones.
    """
    budgets = [read_bundle(b.folder)["budget"] for b in bundles if b.folder]
    if any(b != budgets[0] for b in budgets):
        listed = "; ".join(
            f"{bundle.name}: {b['factuals']} factuals, judges x {b['judge']:g}"
            for bundle, b in zip(bundles, budgets, strict=True)
        )
        raise UserError(f"bundles of one run were made with one budget ({listed}); run them apart")
    return replace(budget, **budgets[0]) if budgets else budget

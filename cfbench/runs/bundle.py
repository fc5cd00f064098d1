"""A bundle: questions and judges of a data set in one folder, versioned and checksummed, for any laboratory to load.

It may come from a stranger: ``bundle.json`` is checked before it is used, and no file outside the folder is read.
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
    """What a run knows of the bundle that it uses for one of its data sets.

    ``folder`` is None where a run is taken up again: what it took from the bundle lies in its own folder.
    """

    dataset: str
    name: str
    version: str
    digest: str
    action: Literal["exact", "learned"]
    folder: Path | None = None

    @property
    def identity(self) -> dict[str, str]:
        """As ``run.json`` names it."""
        return {"name": self.name, "version": self.version, "digest": self.digest}

    def key(self, part: str) -> str:
        """The key of the plan, mechanisms or judges that come from it, the same on every machine."""
        return key_of("bundle", self.digest, part)


def read_bundle(folder: Path) -> dict[str, Any]:
    """What ``bundle.json`` says, all files being there as it says.

    Raises:
        UserError: there is no bundle, it is spoilt or holds links, or it has another format.
    """
    if not (folder / ABOUT).exists():
        raise UserError(f"{folder} holds no bundle (no {ABOUT}); give a folder that `cfbench bundle` wrote")
    try:
        _refuse_odd(folder, ABOUT)
        said = mapping(storage.read_json(folder / ABOUT))
        _check_format(said)
        about = _checked(said)
        for name, digest in about["files"].items():
            _refuse_odd(folder, name)
            if storage.sha256(folder / name) != digest:
                raise SchemaError(f"{name} is not what {ABOUT} says")
    except (SchemaError, KeyError, OSError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else one_line(error, 200)
        raise UserError(f"the bundle {folder} is damaged, or cfbench did not write it ({what}); get it again") from None
    return about


def _refuse_odd(folder: Path, name: str) -> None:
    """Nothing, where a file is a plain one in a folder of its own, both in the bundle itself."""
    parts = [folder / part for part in (*Path(name).parents, Path(name)) if part != Path()]
    for path in parts:
        if not path.exists() and not path.is_symlink():
            raise SchemaError(f"{name} is missing")
        mode = path.lstat().st_mode
        if not (stat.S_ISREG(mode) if path == folder / name else stat.S_ISDIR(mode)):
            raise SchemaError(f"{path.relative_to(folder)} is a link or no plain file")


def _check_format(said: Mapping[str, Any]) -> None:
    found = whole_number(0, 10**6)(said["format"])
    if found != FORMAT:
        raise SchemaError(f"it has format {found}, this cfbench reads format {FORMAT}")


def _checked(said: Mapping[str, Any]) -> dict[str, Any]:
    files = mapping(said["files"], _digest, _file)
    if missing := [name for name in NEEDED if name not in files]:
        raise SchemaError(f"{missing[0]} is missing")
    if said["digest"] != digest_of(said):
        raise SchemaError(f"{ABOUT} was changed: its digest is not that of what it says")
    spec, graph = mapping(said["dataset"]), mapping(said["graph"])
    plan = mapping(said["plan"])
    return {
        **said,
        "name": plain_name(said["name"]),
        "version": plain_name(said["version"]),
        "cfbench": text(said["cfbench"]),
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
            "factuals": whole_number(1, 2**53)(said["budget"]["factuals"]),
            "judge": number(said["budget"]["judge"]),
        },
        "environment": mapping(said["environment"]),
        "files": files,
    }


def digest_of(about: Mapping[str, Any]) -> str:
    """The SHA-256 of all that ``bundle.json`` says but for this digest, which covers the digests of all files."""
    rest = {name: value for name, value in about.items() if name != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def assign_bundles(folders: Sequence[Path], datasets: Sequence[Spec]) -> tuple[Bundle, ...]:
    """The bundles in folders, each with the data set that it is for: that of its label, or else of its name.

    Raises:
        UserError: a bundle is spoilt, or is for none of the data sets or for one that has another.
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
    asked = ", ".join(d.label for d in datasets)
    raise UserError(
        f"--bundle {folder} is for {spec.label}, the run asks about {asked}; give --datasets {spec.label!r}"
    )


def budget_of(budget: Budget, bundles: Sequence[Bundle]) -> Budget:
    """The budget with the numbers of factuals and the judges' scale that bundles were made with.

    Raises:
        UserError: they were made with different ones.
    """
    made = [read_bundle(b.folder)["budget"] for b in bundles if b.folder]
    if any(m != made[0] for m in made):
        told = "; ".join(
            f"{b.name}: {m['factuals']} factuals, judges x {m['judge']:g}" for b, m in zip(bundles, made, strict=True)
        )
        raise UserError(f"bundles of one run were made with one budget ({told}); run them apart")
    return replace(budget, **made[0]) if made else budget

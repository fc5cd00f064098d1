"""Why a task is to be done: never done before, done from something that has changed since, failed, or damaged."""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

from .. import storage
from ..errors import UserError, one_line
from ..storage.schema import SchemaError, mapping, printable
from .chain import Task, last_failure, output_folders
from .context import Run
from .keys import STAGE_INPUTS

__all__ = ["FOLLOWS", "changes", "reason", "stored_stages"]


FOLLOWS = "follow"
"""The reason of a task of which nothing has changed but a stage that it reads."""
NEVER = "never done"


def reason(run: Run, task: Task) -> str:
    """Why a task that is not done is to be done, in a few words; nothing is changed."""
    if failure := last_failure(run.job.folder, task):
        return f"failed before, {failure.status}: {one_line(printable(failure.reason), 100)}"
    found: dict[str, list[str]] = {}
    for folder in output_folders(run.loaded, task):
        if not storage.is_intact(folder):
            found.setdefault(_reason(run, task, folder), []).append(_metric(folder))
    if FOLLOWS in found:
        return FOLLOWS
    if len(found) == 1 or task.stage != "scores":
        return next(iter(found), NEVER)
    return "; ".join(f"{_few(metrics)}: {why}" for why, metrics in found.items())


def _metric(folder: Path) -> str:
    return folder.name.removeprefix("score-").rpartition("-")[0]


def _reason(run: Run, task: Task, folder: Path) -> str:
    if (folder / storage.MANIFEST).exists():
        return f"damaged: {_few(storage.damaged_files(folder))}"
    key = _key_in(folder)
    inputs = (task.cell.inputs if task.cell else {}).get(key) or run.loaded.keys.inputs.get(key) or {}
    stored = stored_stages(folder)
    if not stored:
        return NEVER
    found = changes(stored[-1], inputs)
    if found or not inputs:
        return "; ".join(found[:4]) or UNKNOWN
    return FOLLOWS


def stored_stages(folder: Path) -> list[Path]:
    """The stages of the same kind and owner that lie beside one, under other keys, the oldest first."""
    name = folder.name.rpartition("-")[0]
    found = [p for p in folder.parent.glob(f"{name}-*") if p != folder and re.fullmatch(r"[0-9a-f]+", _key_in(p))]
    complete = [p for p in found if (p / storage.MANIFEST).is_file() and not p.is_symlink()]
    return sorted(complete, key=lambda p: (p / storage.MANIFEST).stat().st_mtime)


def _key_in(folder: Path) -> str:
    return folder.name.rpartition("-")[2]


UNKNOWN = "something has changed; what was not recorded"


def changes(stage: Path, now: Mapping[str, Any], but: Container[str] = ()) -> list[str]:
    """What has changed since a stage was written, but for some inputs and the keys of other stages, in words each."""
    try:
        was = mapping(mapping(storage.read_json(stage / storage.MANIFEST)).get("inputs") or {})
    except (UserError, SchemaError):
        was = {}
    if not was or not now:
        return [UNKNOWN]
    names = [n for n in {**was, **now} if was.get(n, "") != now.get(n, "") and n not in STAGE_INPUTS and n not in but]
    return list(dict.fromkeys(text for n in names for text in _change(n, was.get(n), now.get(n))))


def _change(name: str, was: Any, now: Any) -> Iterator[str]:
    """How an input has changed."""
    if name == "kept in place of":
        yield "code of the method changed"
        return
    name = printable(name, 60)
    if name.startswith("code of") and isinstance(was, dict) and isinstance(now, dict):
        files = [printable(f, 60) for f in sorted({**was, **now}) if f and was.get(f) != now.get(f)]
        yield f"{name} changed" + (f" ({_few(files)})" if files else "")
    elif isinstance(was, dict) and isinstance(now, dict):
        for each in sorted({**was, **now}):
            if was.get(each) != now.get(each):
                yield f"{printable(each, 60)} was {_shown(was.get(each))}, now {_shown(now.get(each))}"
    elif name in ("precision", "origin"):
        yield f"{name} was {_shown(was)}, now {_shown(now)}"
    else:
        yield f"{name} changed"


def _shown(value: Any) -> str:
    return (
        "not set" if value is None else one_line(printable(value if isinstance(value, str) else json.dumps(value)), 40)
    )


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

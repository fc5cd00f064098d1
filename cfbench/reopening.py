"""A run taken up again from its folder, with the settings that it was declared with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .budget import Budget
from .bundles import Bundle
from .cells import Job
from .environment import pick_device
from .reading import read_about

__all__ = ["reopen"]


def reopen(
    folder: Path,
    *,
    data_root: Path,
    device: str = "auto",
    threads: int = 1,
    plugins: Iterable[Path] = (),
    timeout: float | None = None,
) -> Job:
    """The job of a run: what its ``run.json`` says, on this machine.

    Args:
        folder: of the run.
        data_root: where the data lie here.
        plugins: files to load. Those that the run names are not: whoever hands over a run decides not what is executed.

    Raises:
        UserError: there is no run, or one of another format; the device is absent.
    """
    about = read_about(folder)
    budget = Budget(**{**about["budget"], "seeds": tuple(about["budget"]["seeds"])})
    files = tuple(dict.fromkeys(p.resolve() for p in plugins))
    return Job(
        folder.resolve(), data_root.resolve(), budget, about["split"], about["plan"], about.get("action"),
        str(pick_device(device)), threads, about.get("precision", "fp32"), files, timeout=timeout,
        bundles=_bundles(about["datasets"]),
    )  # fmt: skip


def _bundles(datasets: Mapping[str, Any]) -> tuple[Bundle, ...]:
    """The bundles of a run, whose plans and judges lie in it."""
    return tuple(
        Bundle(label, **described["bundle"], action=described["action"])
        for label, described in datasets.items()
        if described["bundle"]
    )

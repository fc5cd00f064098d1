"""A plugin under examination: what is expensive is done once and shared by all checks."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from ...errors import reason_of
from ...runs.environment import RANDOM_STATES, ProcessState
from ..outcomes import Skipped, Violation
from .process_state import Peeks, seeded, watched

__all__ = ["Subject"]

PYTHON = "Python's global random state"


class Subject:
    """A plugin's class with the constructor keywords that it is checked with.

    Args:
        plugin: the class.
        data_root: where data sets lie; None for a temporary folder.
        params: keywords of its constructor.
    """

    def __init__(self, plugin: type[Any], data_root: Path | None, params: dict[str, Any]) -> None:
        self.plugin, self.data_root, self.params = plugin, data_root, params
        self.applicable: frozenset[str] = frozenset()
        """Names of the checks that apply."""
        self.outcomes: dict[str, Violation | Skipped | None] = {}
        self.disturbed: dict[str, dict[str, str]] = {}
        """What each kind of call changed in the shared state."""
        self.peeks = Peeks()

    def __repr__(self) -> str:
        return self.name

    @property
    def name(self) -> str:
        return self.plugin.__name__

    @property
    def file(self) -> str | None:
        """The plugin's source file."""
        try:
            return inspect.getsourcefile(self.plugin)
        except TypeError:
            return None

    @contextmanager
    def calling(
        self, what: str, *, grad: bool = False, truth: bool = False, seeds: tuple[int, int] | None = None
    ) -> Iterator[None]:
        """A block that calls the plugin: its exceptions become violations, and what it disturbs is noted and put back.

        Args:
            what: the call, for the message.
            grad: whether gradients are on, as in a fit; else the block runs under ``no_grad``.
            truth: whether it may look at test images and at the truth.
            seeds: of torch's global generator, and of the others.
        """
        with torch.set_grad_enabled(grad), nullcontext() if seeds is None else seeded(*seeds):
            before, modules = ProcessState(), len(sys.modules)
            try:
                with nullcontext() if truth else watched(self.peeks, what):
                    yield
            except (Violation, Skipped):
                raise
            except (Exception, SystemExit) as error:
                raise Violation(f"{what} raised {reason_of(error, self.file)}; mend that line") from error
            finally:
                changes = before.changes()
                if len(sys.modules) > modules:  # an import may draw, as scikit-learn's does
                    changes.pop(PYTHON, None)
                self.disturbed.setdefault(what, {}).update(changes)
                before.restore()

    def left_alone(self, remedy: str, calls: Iterable[str] | None = None, but: str = "") -> None:
        """Nothing, where calls disturbed no shared state.

        Args:
            remedy: what to do instead of drawing from a global generator.
            calls: those that are looked at; None for all.
            but: state that may change.

        Raises:
            Violation: they did.
        """
        for what in self.disturbed if calls is None else calls:
            for name, change in self.disturbed.get(what, {}).items():
                if name != but:
                    how = f" ({change})" if change else ""
                    instead = remedy if name in RANDOM_STATES else "put it back, or leave it alone"
                    raise Violation(f"{what} changes {name}{how}; {instead}")

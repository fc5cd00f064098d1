"""The plugin that checks examine: what is expensive is computed once and shared by all checks."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from ...errors import is_of_harness, reason_of
from ...runs.environment import RANDOM_STATES, ProcessState
from ..outcomes import Skipped, Violation
from .process_state import recording_test_data, seeded

__all__ = ["Subject"]

PYTHON = "Python's global random state"


class Subject:
    """A plugin's class with the constructor keywords that it is checked with.

    Args:
        plugin: the class.
        data_root: folder of the data sets; None for a temporary folder.
        params: keywords of its constructor.
    """

    def __init__(self, plugin: type[Any], data_root: Path | None, params: dict[str, Any]) -> None:
        self.plugin, self.data_root, self.params = plugin, data_root, params
        self.applicable: frozenset[str] = frozenset()
        """Names of the checks that apply."""
        self.outcomes: dict[str, Violation | Skipped | None] = {}
        self.state_changes: dict[str, dict[str, str]] = {}
        """What each kind of call changed in the state of the process."""
        self.test_data_uses: list[str] = []
        """Calls that used test images or the truth without leave, in words."""
        self.progress: Callable[..., None] = lambda stage, done, total, loss=None: None
        """Called with each step of a fit and of a data set's preparation."""

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
        """Context manager around a call: turns its exceptions into violations, records and undoes changes of state.

        Args:
            what: the call, for the message.
            grad: enable gradients, as in a fit.
            truth: allow uses of test images and of the truth.
            seeds: seeds of torch's global generator and of the others.
        """
        with torch.set_grad_enabled(grad), nullcontext() if seeds is None else seeded(*seeds):
            before, modules = ProcessState(), len(sys.modules)
            try:
                with nullcontext() if truth else recording_test_data(self.test_data_uses, what):
                    yield
            except (Violation, Skipped):
                raise
            except BaseException as error:
                if is_of_harness(error):
                    raise
                raise Violation(f"{what} raised {reason_of(error, self.file)}; mend that line") from error
            finally:
                changes = before.changes()
                if len(sys.modules) > modules:  # an import may draw, as scikit-learn's does
                    changes.pop(PYTHON, None)
                self.state_changes.setdefault(what, {}).update(changes)
                before.restore()

    @property
    def recorded(self) -> dict[str, Any]:
        """What calls did besides what they gave, so that checks of it hold for calls of an earlier process too."""
        return {"state_changes": self.state_changes, "test_data_uses": self.test_data_uses}

    def check_state(self, remedy: str, calls: Iterable[str] | None = None, but: str = "") -> None:
        """Raise unless calls left the state of the process as it was.

        Args:
            remedy: what to do instead of drawing from a global generator.
            calls: the kinds of call that are looked at; all by default.
            but: state that may change.

        Raises:
            Violation: a call changed something.
        """
        for what in self.state_changes if calls is None else calls:
            for name, change in self.state_changes.get(what, {}).items():
                if name != but:
                    how = f" ({change})" if change else ""
                    instead = remedy if name in RANDOM_STATES else "put it back, or leave it alone"
                    raise Violation(f"{what} changes {name}{how}; {instead}")

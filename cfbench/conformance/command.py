"""``cfbench check``: the conformance checks in a worker process, so that a hang or crash fails one check only."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import click

from ..errors import UserError
from .process import ProcessFailure, run_worker

__all__ = ["CheckResult", "check_command"]


LOAD = "load"
MAX_FAILURES = 3
"""Processes that one plugin may crash before its remaining checks are not run."""
Status = Literal["ok", "skipped", "failed", "not run"]
STYLE: dict[Status, dict[str, Any]] = {"ok": {"fg": "green"}, "failed": {"fg": "red", "bold": True}, "skipped": {},
                                       "not run": {"fg": "red"}}  # fmt: skip


@dataclass(frozen=True)
class CheckResult:
    """The result of one check of a plugin."""

    check: str
    status: Status
    text: str


@dataclass
class Report:
    """The results of one plugin: names of its checks, in order, their results by name, and what its calls did."""

    label: str
    head: str = ""
    file: str = ""
    checks: list[str] = field(default_factory=list)
    results: dict[str, CheckResult] = field(default_factory=dict)
    failures: int = 0
    recorded: dict[str, Any] = field(default_factory=dict)

    def add(self, result: CheckResult) -> None:
        """Store a result and print its line, before the first one a line about the plugin."""
        if not self.results:
            print(f"{click.style(self.label, bold=True)}  {self.head}")
        same = [v.check for v in self.results.values() if v.status == "failed" and v.text == result.text]
        self.results[result.check] = result
        word = result.status.upper() if result.status == "failed" else result.status
        text = f"as {same[0]!r}" if same and result.status == "failed" else result.text
        print(f"  {click.style(f'{word:<8}', **STYLE[result.status])} {result.check:<16} {text}")
        sys.stdout.flush()

    def give_up(self, why: str) -> None:
        """Report all checks without a result as not run."""
        for check in (c for c in self.checks if c not in self.results):
            self.add(CheckResult(check, "not run", why))

    @property
    def complete(self) -> bool:
        """Whether all checks have a result."""
        return LOAD in self.results or bool(self.checks and set(self.checks) <= self.results.keys())

    @property
    def passed(self) -> bool:
        """Whether all checks were run and none failed."""
        return all(v.status in ("ok", "skipped") for v in self.results.values())

    def summary(self) -> str:
        """Number of checks by status, in one line."""
        counts = {word: sum(v.status == word for v in self.results.values()) for word in STYLE}
        texts = ", ".join(f"{n} {'passed' if word == 'ok' else word}" for word, n in counts.items() if n)
        return f"{self.label}: {texts}"


def check_command(target: str, *, data_root: Path, plugins: tuple[Path, ...], timeout: float) -> int:
    """Check a plugin by name or spec, or all plugins of a file, each check in at most ``timeout`` seconds.

    Prints a line for each check as it ends. Returns the exit code: 1 if a check fails.

    Raises:
        UserError: there is no such plugin or file.
    """
    is_file = target.endswith(".py") or Path(target).is_file()
    if is_file and not Path(target).is_file():
        raise UserError(f"{target}: no such file; give the path of a Python file or the name of a plugin")
    request = {
        "target": str(Path(target).resolve()) if is_file else target, "is_file": is_file,
        "data_root": str(data_root.resolve()), "plugins": [str(p.resolve()) for p in plugins],
    }  # fmt: skip
    session = Session(request, timeout)
    while not session.attempt():
        pass
    for report in session.reports.values():
        print(report.summary())
    return 0 if all(r.passed for r in session.reports.values()) else 1


class Session:
    """One call of the command: starts processes until every check has a result."""

    def __init__(self, request: dict[str, Any], timeout: float) -> None:
        self.request, self.timeout = request, timeout
        self.reports: dict[str, Report] = {}
        self.label, self.check = "", LOAD

    def attempt(self) -> bool:
        """Run the checks without a result in a new process; whether all are done.

        Raises:
            UserError: there is nothing to check.
        """
        settled = {r.label: {v.check: (v.status, v.text) for v in r.results.values()} for r in self.reports.values()}
        recorded = {r.label: r.recorded for r in self.reports.values()}
        request = self.request | {"settled": settled, "recorded": recorded}
        self.label, self.check = "", LOAD
        with run_worker("cfbench.conformance.worker", request, self.timeout) as events:
            try:
                return any(self._take(event) for event in events)
            except ProcessFailure as failure:
                return self._record(failure)

    def _take(self, event: dict[str, Any]) -> bool:
        """Process an event; whether it was the last."""
        match event.pop("event"):
            case "mistake":
                raise UserError(event["text"])
            case "broken":
                self._report("").add(CheckResult(LOAD, "failed", event["text"]))
                return True
            case "begin":
                self.label, self.check = event.get("label", ""), event["check"]
            case "plugin" if event["label"] not in self.reports:
                head = f"{event['kind']}, {event['origin']}"
                self.reports[event["label"]] = Report(event["label"], head, event["file"])
            case "checks":
                self.reports[event["label"]].checks = event["checks"]
            case "end" if event["check"] not in self.reports[event["label"]].results:
                report = self.reports[event.pop("label")]
                report.recorded = event.pop("recorded", report.recorded)
                report.add(CheckResult(**event))
            case "done":
                return True
        return False

    def _report(self, label: str) -> Report:
        """The report of a plugin; of the target itself if it cannot be loaded."""
        if label not in self.reports:
            target = self.request["target"]
            self.reports[label] = Report(Path(target).name, target, target)
        return self.reports[label]

    def _record(self, failure: ProcessFailure) -> bool:
        """Record the check that a process failed in; whether no check is left to run."""
        report = self._report(self.label)
        status: Status = "not run" if failure.slow else "failed"
        report.add(CheckResult(self.check, status, failure.describe(report.file)))
        report.failures += 1
        if report.failures == MAX_FAILURES:
            report.give_up(f"{MAX_FAILURES} processes broke down before")
        return self.label == "" or all(r.complete for r in self.reports.values())

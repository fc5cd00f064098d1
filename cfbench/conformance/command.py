"""``cfbench check``: the conformance checks in a process of their own, so that what hangs or dies is told by name."""

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
BREAKDOWNS = 3
"""Processes that one plugin may bring down before its remaining checks are given up."""
Status = Literal["ok", "skipped", "failed", "not run"]
STYLE: dict[Status, dict[str, Any]] = {"ok": {"fg": "green"}, "failed": {"fg": "red", "bold": True}, "skipped": {},
                                       "not run": {"fg": "red"}}  # fmt: skip


@dataclass(frozen=True)
class CheckResult:
    """How a check of a plugin ended."""

    check: str
    status: Status
    text: str


@dataclass
class Report:
    """What is known of one plugin: its checks by name, in order, and their verdicts."""

    label: str
    head: str = ""
    file: str = ""
    checks: list[str] = field(default_factory=list)
    verdicts: dict[str, CheckResult] = field(default_factory=dict)
    breakdowns: int = 0

    def add(self, verdict: CheckResult) -> None:
        """Keep a verdict and print its line, before the first one what it is about."""
        if not self.verdicts:
            click.echo(f"{click.style(self.label, bold=True)}  {self.head}")
        same = [v.check for v in self.verdicts.values() if v.status == "failed" and v.text == verdict.text]
        self.verdicts[verdict.check] = verdict
        word = verdict.status.upper() if verdict.status == "failed" else verdict.status
        text = f"as {same[0]!r}" if same and verdict.status == "failed" else verdict.text
        click.echo(f"  {click.style(f'{word:<8}', **STYLE[verdict.status])} {verdict.check:<16} {text}")
        sys.stdout.flush()

    def give_up(self, why: str) -> None:
        """Say of all checks without a verdict that they were not run."""
        for check in (c for c in self.checks if c not in self.verdicts):
            self.add(CheckResult(check, "not run", why))

    @property
    def complete(self) -> bool:
        """Whether there is nothing more to ask."""
        return LOAD in self.verdicts or bool(self.checks and set(self.checks) <= self.verdicts.keys())

    @property
    def passed(self) -> bool:
        """Whether no check failed, and all were run."""
        return all(v.status in ("ok", "skipped") for v in self.verdicts.values())

    def summary(self) -> str:
        """How many checks ended how, in one line."""
        counts = {word: sum(v.status == word for v in self.verdicts.values()) for word in STYLE}
        told = ", ".join(f"{n} {'passed' if word == 'ok' else word}" for word, n in counts.items() if n)
        return f"{self.label}: {told}"


def check_command(target: str, *, data_root: Path, plugins: tuple[Path, ...], timeout: float) -> int:
    """Check a plugin by name or spec, or all that a file defines, each check in at most ``timeout`` seconds.

    Prints a line for each check as it ends; 1 where one fails.

    Raises:
        UserError: there is no such plugin or file.
    """
    is_file = target.endswith(".py") or Path(target).is_file()
    if is_file and not Path(target).is_file():
        raise UserError(f"{target}: no such file; give the path of a Python file or the name of a plugin")
    asked = {
        "target": str(Path(target).resolve()) if is_file else target, "is_file": is_file,
        "data_root": str(data_root.resolve()), "plugins": [str(p.resolve()) for p in plugins],
    }  # fmt: skip
    session = Session(asked, timeout)
    while not session.attempt():
        pass
    for report in session.reports.values():
        click.echo(report.summary())
    return 0 if all(r.passed for r in session.reports.values()) else 1


class Session:
    """A check command: as many processes as it takes to have a verdict on every check."""

    def __init__(self, asked: dict[str, Any], timeout: float) -> None:
        self.asked, self.timeout = asked, timeout
        self.reports: dict[str, Report] = {}
        self.label, self.check = "", LOAD

    def attempt(self) -> bool:
        """Do what is not settled in a fresh process; whether that was all.

        Raises:
            UserError: there is nothing to check.
        """
        settled = {r.label: {v.check: (v.status, v.text) for v in r.verdicts.values()} for r in self.reports.values()}
        self.label, self.check = "", LOAD
        with run_worker("cfbench.conformance.worker", self.asked | {"settled": settled}, self.timeout) as events:
            try:
                return any(self._take(event) for event in events)
            except ProcessFailure as broken:
                return self._broken(broken)

    def _take(self, event: dict[str, Any]) -> bool:
        """Note an event; whether it was the last."""
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
            case "end" if event["check"] not in self.reports[event["label"]].verdicts:
                self.reports[event.pop("label")].add(CheckResult(**event))
            case "done":
                return True
        return False

    def _report(self, label: str) -> Report:
        """The report on a plugin, or on what was to give plugins and did not."""
        if label not in self.reports:
            target = self.asked["target"]
            self.reports[label] = Report(Path(target).name, target, target)
        return self.reports[label]

    def _broken(self, broken: ProcessFailure) -> bool:
        """Write down what a process broke down at; whether nothing can go on."""
        report = self._report(self.label)
        report.add(CheckResult(self.check, "failed", broken.told(report.file)))
        report.breakdowns += 1
        if report.breakdowns == BREAKDOWNS:
            report.give_up(f"{BREAKDOWNS} processes broke down before")
        return self.label == "" or all(r.complete for r in self.reports.values())

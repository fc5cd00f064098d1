"""The conformance suite of cfbench, one test a check: what a plugin must do to stand in a leaderboard."""

from __future__ import annotations

import pytest

from cfbench.conformance import Check, checks, subject
from cfbench.templates.method import Mine

SUBJECT = subject(Mine)  # keywords of the constructor may follow: subject(Mine, width=64)


@pytest.mark.parametrize("check", checks(SUBJECT), ids=str)
def test_conforms(check: Check) -> None:
    check(SUBJECT)  # raises Violation, which says what is wrong, what was found and what to do

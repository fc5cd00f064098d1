"""The conformance suite: checks that a plugin does what the contract asks, to be run by a command or by pytest.

In a test file::

    import pytest
    from cfbench.conformance import checks, subject

    SUBJECT = subject(Mine)

    @pytest.mark.parametrize("check", checks(SUBJECT), ids=str)
    def test_conforms(check):
        check(SUBJECT)
"""

from __future__ import annotations

from .check import Check
from .outcomes import Skipped, Violation
from .subjects.subject import Subject
from .suite import checks, subject

__all__ = ["Check", "Skipped", "Subject", "Violation", "checks", "subject"]

"""Budgets of rows as users write them: the training images behind the mark of ``diffscm@32k``."""

from __future__ import annotations

import re
from decimal import Decimal

from ..errors import UserError, one_line

__all__ = ["LARGEST", "MARK", "parse_budget", "parse_budgets", "spell_budget"]

MARK = "@"
"""What a row's budget stands behind."""
UNITS = {"": 1, "k": 1_000, "M": 1_000_000}
LARGEST = 2**53
"""Images of a budget at most: whole numbers up to here are exact in every file."""


def parse_budget(text: str, where: str) -> int:
    """The number of training images that a text says: ``32k``, ``2M``, ``1.5M`` or ``130000``.

    Args:
        text: the budget.
        where: what a mistake's line begins with.

    Raises:
        UserError: it is no whole number of at least one image.
    """
    match = re.fullmatch(r"(\d{1,16}(?:\.\d{1,9})?)([kM]?)", text, re.ASCII)
    images = Decimal(match[1]) * UNITS[match[2]] if match else Decimal(0)
    if images < 1 or images != int(images) or images > LARGEST:
        shown = repr(one_line(text, 40))
        raise UserError(f"{where}: {shown} is no number of training images; write 32k, 2M or a whole number from 1 on")
    return int(images)


def parse_budgets(text: str) -> tuple[int, ...]:
    """The budgets in a comma-separated list, smallest first and without repeats.

    Raises:
        UserError: one is no number of images, or there is none.
    """
    parts = [part.strip() for part in text.split(",")]
    return tuple(sorted({parse_budget(part, f"--budgets {one_line(text, 60)!r}") for part in parts}))


def spell_budget(images: int) -> str:
    """A number of training images in canonical form: ``2M``, ``32k``, else its digits."""
    unit = next(unit for unit in ("M", "k", "") if images % UNITS[unit] == 0)
    return f"{images // UNITS[unit]}{unit}"

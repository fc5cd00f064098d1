"""The judge card of a run: what each judge gets wrong on data, and on the answers of rows that show real images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

import pandas as pd

from ..runs.reader import Results, Score
from .format import number

__all__ = ["card_line", "card_table", "judge_card"]


def judge_card(results: Results) -> list[Mapping[str, Any]]:
    """The rows of the judges' card, followed by one for each class and each control of real images.

    The latter are means over seeds. Such a control answers do(v) with training images of the class that was asked
    for, chosen because they look like a factual of another class, so they are harder to read than real images on
    average; an accuracy that another row misses by less than this error says nothing. Values have no row: a real
    image meets those that were asked for only nearly.
    """
    return [*results.card, *_of_real_images(results)]


def _of_real_images(results: Results) -> Iterable[Mapping[str, Any]]:
    real = {(cell.method, cell.seed) for cell in results.cells if cell.is_real}
    found: dict[tuple[str, str], list[Score]] = {}
    for s in results.scores:
        if (s.method, s.seed) in real and s.variable == s.do and _is_accuracy(s):
            found.setdefault((s.method, s.variable), []).append(s)
    for (method, variable), seeds in found.items():
        yield {
            "judge": "reader",
            "variable": variable,
            "data": method,
            "error": 1 - fmean(s.value for s in seeds),
            "unit": "share wrong",
            "n": min(s.finite for s in seeds),
            "good": None,
        }


def _is_accuracy(score: Score) -> bool:
    about = score.about
    return about.role == "effectiveness" and about.direction == "higher" and about.high == 1


def card_table(results: Results) -> pd.DataFrame:
    """`judge_card` as text."""
    rows = [{**row, "good": _good(row.get("good"))} for row in judge_card(results)]
    card = pd.DataFrame(rows)
    if "error" in card:
        card["error"] = [number(float(e))(float(e)) for e in card["error"]]
    return card


def _good(flag: bool | None) -> str:
    return "" if flag is None else "yes" if flag else "NO"


def card_line(results: Results) -> str:
    """The judge card in a line: each judge's errors, one a kind of data."""
    errors: dict[tuple[str, str], list[str]] = {}
    for row in card_table(results).to_dict("records"):
        judge = " ".join(filter(None, (str(row.get("judge", "")), str(row.get("variable", "")))))
        error = f"{row.get('data', '')} {row['error']} (n={row.get('n', '')})"
        errors.setdefault((judge, str(row.get("unit", ""))), []).append(error)
    return "; ".join(f"{judge} [{unit or 'own unit'}]: {', '.join(e)}" for (judge, unit), e in errors.items())

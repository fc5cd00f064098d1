"""Which method is best in each column of a summary, by how much, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ...plugins.spec import brief
from ..board import Board
from ..columns import MEAN, Key
from .headline import EFFECTIVENESS, ERROR, SKILL
from .rows import Cell, Summary

__all__ = ["verdict"]

NAMED = 3
"""Methods that are named where several are level."""


def verdict(board: Board, s: Summary) -> Iterator[str]:
    """One sentence on the columns that compare with the truth, or where none does on effectiveness.

    A method leads where the paired tests of a column, corrected for all its pairs, find no other that may be as good;
    the runner-up is the one whose score comes next.
    """
    truth = [k for k in s.scored if k.path in (SKILL, ERROR)]
    asked = truth or [k for k in s.scored if k.path in EFFECTIVENESS and k.variable == k.do]
    places: dict[str, list[str]] = {}
    for key in asked:
        if text := _of_column(board, s, key):
            places.setdefault(text, []).append("mean" if key.do == MEAN else f"do({key.do})")
    if places:
        found = [f"{', '.join(where)}: {text}" for text, where in places.items()]
        yield f"Best: {'; '.join(found)}."


def _of_column(board: Board, s: Summary, key: Key) -> str:
    best = [m for m in s.methods if m in board.best[key]]
    if not best:
        return ""
    if len(best) > 1:
        return f"{_listed(best)} level"
    (leader,) = best
    higher = board.about(key).direction == "higher"
    others = [m for m in board.ranks[key] if m != leader and s.cells[m, key].known]
    if not others:
        return ""
    second = min(others, key=lambda m: s.cells[m, key].value * (-1 if higher else 1))
    pair = next(c for c in board.family(key).comparisons() if {c.first, c.second} == {leader, second})
    low, high = sorted(map(abs, (pair.low, pair.high)))
    gap = Cell(abs(pair.difference), low, high)
    worse = ", though worse than the factual" if key.path == SKILL and s.cells[leader, key].high < 0 else ""
    return f"{brief(leader)}, by {gap.number}{gap.half} over {brief(second)} ({_p(pair.holm)}){worse}"


def _p(p: float) -> str:
    return "p<.001" if p < 0.001 else f"p={p:.3f}".replace("=0.", "=.")


def _listed(methods: Iterable[str]) -> str:
    names = list(map(brief, methods))
    if len(names) > NAMED:
        return f"{', '.join(names[:NAMED])} and {len(names) - NAMED} more"
    return f"{', '.join(names[:-1])} and {names[-1]}"

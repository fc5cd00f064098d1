"""Columns of scores for the tests of intervals and comparisons."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from cfbench.contract import Column
from cfbench.report.statistics.ranking import Comparison, Family
from cfbench.report.statistics.samples import ColumnScores, is_binary, pooled

LOWER = Column("", "lower")
HIGHER = Column("", "higher")
TARGET = Column("", "target", target=1.0)
SHARE = Column("", "higher", low=0.0, high=1.0)


def column(values, kind="image", factual=None, points=None):
    """Scores [M, Q] of M cells, of images about a factual each unless ``factual`` is given."""
    values = np.atleast_2d(np.asarray(values, dtype=float))
    ok = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        means = np.where(ok, values, 0).sum(1) / ok.sum(1)
    if kind == "image" and factual is None:
        factual = np.arange(values.shape[1])
    finite, asked = ok.sum(1).tolist(), [values.shape[1]] * len(values)
    return ColumnScores(kind, means if points is None else np.asarray(points), finite, asked, values, factual)


def costs(points):
    return ColumnScores("cell", np.asarray(points, dtype=float), [1] * len(points), [1] * len(points))


def each(scores, seeds=1):
    """The lines of each row, ``seeds`` cells a row."""
    return [slice(i, i + seeds) for i in range(0, len(scores.points), seeds)]


def rows(scores, seeds=1):
    return pooled(scores, each(scores, seeds))


def family(scores, about=LOWER, seeds=1, names=None, pairs=None, binary=None):
    """All pairs of rows named a, b, c ..."""
    lines = each(scores, seeds)
    names = names or [chr(ord("a") + k) for k in range(len(lines))]
    first, second = np.array(list(combinations(range(len(lines)), 2)) if pairs is None else pairs).reshape(-1, 2).T
    return Family(scores, dict(zip(names, lines, strict=True)), about, (first, second))


def ranks(scores, about=LOWER, seeds=1, names=None):
    f = family(scores, about, seeds, names)
    return f.ranks(np.arange(len(f.names)))


def only(f: Family) -> Comparison:
    (c,) = f.comparisons()
    return c


__all__ = [
    "HIGHER", "LOWER", "SHARE", "TARGET", "column", "costs", "each", "family", "is_binary", "only", "ranks", "rows",
]  # fmt: skip

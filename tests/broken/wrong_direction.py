"""Calls a distance to the truth the better the larger it is."""

from __future__ import annotations

from cfbench.contract import Column, Metric


class WrongDirection(Metric):
    """Mean distance to the truth, in grey levels."""

    columns = {"distance": Column("distance to the truth", "higher", "grey levels", privileged=True)}
    needs = frozenset({"truth"})

    def __call__(self, evidence):
        distance = 255 * (evidence.answer - evidence.truth).abs().flatten(1).mean(1)
        return {"distance": distance}

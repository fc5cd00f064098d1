"""The columns of the built-in metrics that the summary shows, and those that depend on a judge's reading of variables.

They are known by name, so that the tables of a folder can be summarised without the runs that they come from.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

__all__ = [
    "ANSWERS",
    "COMPOSITION",
    "COSTS",
    "EFFECTIVENESS",
    "ERROR",
    "FITS",
    "IMAGES",
    "JUDGED",
    "LIKELIHOOD",
    "QUANTITIES",
    "SKILL",
    "UNCHANGED",
    "WITHOUT_TRUTH",
    "WITH_TRUTH",
    "clocks",
]

SKILL, ERROR = "skill.skill", "truth.abs_error"
EFFECTIVENESS = ("effectiveness.accuracy", "effectiveness.error")
WITH_TRUTH = ("truth", "skill", "tea", "true_realism")
"""Metrics that compare with the truth."""
COSTS, LIKELIHOOD, IMAGES = "runtime", "runtime.bits_per_dim", "runtime.images_seen"
COMPOSITION = "composition.composition_1"
FITS = ("runtime.fit_cpu_s", "runtime.fit_s")
"""Seconds of a fit, the first of which that is recorded is shown: of the processor, of the clock."""
ANSWERS = (("runtime.abduct_cpu_ms", "runtime.predict_cpu_ms"), ("runtime.abduct_ms", "runtime.predict_ms"))
"""Milliseconds whose sum is shown as the time of an answer, by the same clocks, the first of which counts."""
WITHOUT_TRUTH = ("cld.cld", "realism.kid_real", "change.l1_factual")
"""What is shown besides effectiveness where there is no truth: the first that is there."""
QUANTITIES = {SKILL: "skill", ERROR: "error", "cld.cld": "CLD", COMPOSITION: "composition"}
"""Headings that are shorter than in the tables of all metrics."""
JUDGED = {"effectiveness": "", "drift": "", "measured": "measured", "measured_drift": "measured"}
"""Metrics that read variables off an image, with the judge that does; the reader has no name there."""
UNCHANGED = "identity"
"""The control that answers with the factual: where the charts' band begins that ends at the truth."""


def clocks(recorded: AbstractSet[str]) -> tuple[str, ...]:
    """The columns of times that count, of those that are recorded: of the processor where it was, else by the clock."""
    fit = [path for path in FITS if path in recorded][:1]
    answer = next((paths for paths in ANSWERS if recorded & set(paths)), ())
    return (*fit, *answer)

"""The footnotes below the leaderboard's tables: all that a reader must know to judge the numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .leaderboard import Board
from .results import Results
from .stats import drawn

__all__ = ["FLAG", "MARKS", "WEAK", "footnotes", "weak"]

MARKS = {"convention": "*", "none": "°", "exact": ""}
FLAG = "‡"
WEAK = "§"


def weak(results: Results, judge: str = "") -> set[str]:
    """Variables that a judge reads badly on real images; by default any but those that measure."""
    bad = (row for row in results.card if row.get("good") is False)
    return {str(row.get("variable", "")) for row in bad if (row.get("judge") == "measured") == (judge == "measured")}


def _plural(n: int, word: str) -> str:
    return f"{n:,} {word}" + ("" if n == 1 else "s")


def footnotes(board: Board) -> list[str]:
    """All that a reader must know to judge the numbers, one sentence or two each."""
    r = board.results
    settings = {name: value for name, value in r.notes.items() if name != "bundle"}
    notes = [f"Preset {r.preset}; {_told(settings)}; device: {_devices(board) or 'not told'}."]
    seeds = ", ".join(map(str, r.seeds))
    training = (
        f"One training seed ({seeds}): the variance between trainings is not in the intervals."
        if len(r.seeds) < 2
        else f"Training seeds {seeds}; intervals hold the choice of factuals and of seeds."
    )
    asked = ", ".join(f"{len(v)} on {k}" for k, v in r.factual.items() if k != "null")
    inside = ", ".join(f"{int(v.sum())} of {len(v)} on {k}" for k, v in r.supported.items() if k != "null")
    notes += [
        training,
        f"95 % percentile bootstrap intervals from {_plural(len(board.resamples.counts), 'resample')} of "
        f"{_plural(r.factuals, 'factual')}, the same for every method; ± is half the interval's width. {_fewer(board)}"
        f"n: questions {asked}" + (f"; inside the support of the training data: {inside}." if inside else "."),
        "Bold: no other method is surely better (the interval of the paired difference holds 0). #: the ranks that a "
        "method may hold; controls, last, are not ranked. (n%): the share of questions with a score, where not all "
        "have one; for ranks the others count as the worst score seen.",
        _asked(r),
    ]
    return [
        *notes,
        *_marks(board),
        *_failures(board),
        *_chosen(board),
        *_remarks(board),
        *_foreign(board),
        *_beside(board),
    ]


def _fewer(board: Board) -> str:
    """That the replicates of set scores are of fewer factuals, where they are."""
    every = board.results.factuals
    if (fewer := drawn(every)) == every or all(s.kind != "set" for s in board.columns.values()):
        return ""
    return (
        f"Scores of a set are computed again on {fewer:,} factuals drawn in each resample, and their replicates' "
        f"distances from their mean scaled by √({fewer:,}/{every:,}). "
    )


def _asked(results: Results) -> str:
    """Where the questions come from, and the judges with them where that is a bundle."""
    if bundle := results.notes.get("bundle"):
        named = f"bundle {bundle['name']}, version {bundle['version']}, sha256 {bundle['digest']}"
        return f"Questions and judges: {named} (plan {results.plan_key[:12]})."
    return f"Questions: plan {results.plan_key[:12]}."


def _told(notes: Mapping[str, Any]) -> str:
    """Settings in words; of a mapping its numbers, as a budget has them."""
    said = []
    for k, v in notes.items():
        if isinstance(v, Mapping):
            inner = (f"{n} {x:,}" for n, x in v.items() if isinstance(x, int | float) and not isinstance(x, bool))
            said.append(f"{k}: {', '.join(inner)}")
        elif isinstance(v, str | int | float):
            said.append(f"{k}: {v}")
    return "; ".join(said)


def _devices(board: Board) -> str:
    own = [board.results.notes.get("device"), *(c.notes.get("device") for c in board.results.cells)]
    return ", ".join(dict.fromkeys(str(d) for d in own if d))


def _chosen(board: Board) -> Iterable[str]:
    """What methods chose for themselves on the validation split, where they chose anything."""
    for c in board.results.cells:
        if chosen := c.notes.get("chosen"):
            seed = f" (seed {c.seed})" if len(board.seeds(c.method)) > 1 else ""
            values = ", ".join(f"{k}={_value(v)}" for k, v in chosen.items())
            yield f"{c.method}{seed} chose {values} on validation data."


def _remarks(board: Board) -> Iterable[str]:
    """What methods have to say about their own fits."""
    for c in board.results.cells:
        seed = f" (seed {c.seed})" if len(board.seeds(c.method)) > 1 else ""
        yield from (f"{c.method}{seed}: {said}." for said in c.notes.get("remarks", ()))


def _foreign(board: Board) -> Iterable[str]:
    """Rows whose weights or answers were made elsewhere."""
    for c in board.results.cells:
        if given := c.notes.get("weights"):
            yield f"{c.method} (seed {c.seed}): no fit, weights from {given}."
        if c.notes.get("external"):
            yield f"{c.method}: answers made elsewhere, at unknown cost."


def _beside(board: Board) -> Iterable[str]:
    """Methods whose times were taken while other tasks computed on their device, and how many at most."""
    most: dict[str, dict[str, int]] = {"fit_others": {}, "answer_others": {}}
    for s in board.results.scores:
        if s.metric == "runtime" and s.column in most and s.value > 0 and not board.is_control(s.method):
            seen = most[s.column]
            seen[s.method] = max(seen.get(s.method, 0), int(s.value))
    for (_, seen), what in zip(most.items(), ("fit", "answers"), strict=True):
        if seen:
            told = ", ".join(f"{method} (up to {n})" for method, n in seen.items())
            yield f"Times of {what} were taken beside other tasks on the same device: {told}."


def _value(v: object) -> str:
    return f"{v:.4g}" if isinstance(v, float) else str(v)


def _marks(board: Board) -> Iterable[str]:
    r, truths = board.results, board.results.truth
    if conventions := [v for v in r.variables if truths.get(v) == "convention"]:
        yield f"{MARKS['convention']} The truth of do({', '.join(conventions)}) is a convention: data do not tell it."
    if without := [v for v in r.variables if truths.get(v, "none") == "none"]:
        yield f"{MARKS['none']} do({', '.join(without)}) has no known truth."
    if doubtful := sorted(weak(r)):
        yield f"{WEAK} The judges of {', '.join(doubtful)} are not good enough to tell methods apart by them."
    if measured := sorted(weak(r, "measured")):
        yield f"What is measured of {', '.join(measured)} explains too little of it on real images; see the judge card."
    if board.flagged:
        won: dict[str, list[str]] = {}
        for key, winner in board.flagged.items():
            where = "no intervention" if key.do == "none" else f"do({key.do})"
            won.setdefault("/".join(filter(None, (key.path, key.variable))), []).append(f"{where} {winner}")
        told = "; ".join(f"{name} ({', '.join(places)})" for name, places in won.items())
        yield f"{FLAG} The oracle does not win these; in brackets, a row that is surely better: {told}."


def _failures(board: Board) -> Iterable[str]:
    for m in board.methods:
        if (status := board.pooled_status(m)) != "ok":
            yield f"{m}: {' '.join(status.split())}"

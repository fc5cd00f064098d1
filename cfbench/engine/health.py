"""What is wrong with a fit or a tuning, by what it logged and recorded."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..runs.findings import VALIDATION, Finding

__all__ = ["findings_of_fit", "findings_of_tuning"]

Rows = Sequence[Mapping[str, object]]

FEWEST = 40
"""Rows of a stage from which on a jump is looked for: medians of fewer are as noisy as the rows."""
MOST = 400
"""Rows of a stage that are looked at: of more the medians of blocks."""
WINDOW = 20
"""One part in so many of a fit is the window of medians: two rows at the fewest, eight of 160."""
START = 10
"""One part in so many of a fit, at its begin, in which everything moves and no jump is looked for."""
PEAK, NOISE = 4.0, 2.5
"""Standard deviations of a row by which the loss must rise at the jump, and for as long as it stays; the median of a
window of independent rows has a third of one."""
GAIN = 0.1
"""Part of what was gained since the first window that a jump must undo: less is of no consequence."""
SUDDEN = 0.5
"""Part of the whole rise that must come within two windows, and most that the two before may rise by in comparison: a
weight that is raised step by step takes longer, and begins earlier."""
STAYS = 0.25
"""Part of a fit after which a loss that has not come back counts as one that stays; less for those at the end."""
DEAD = 1.0
"""Nats an image: a latent below tells images apart in less than e ways."""
WORSE = 2.0
"""Standard errors by which the last validation loss must be worse than the best."""
SHARE = 0.02
"""Part of the range of the validation losses in place of that where no standard error was logged."""
STEERS = 0.02
"""Effectiveness (share or R²) that guidance must add to a scale of 0: less is within the error of a few hundred."""


def findings_of_fit(rows: Rows, tables: Mapping[str, object]) -> list[Finding]:
    """What is wrong with a fit: jumps of a loss, validation losses that rise, a latent that died.

    Args:
        rows: of the log, with ``stage``, ``images`` (or ``step``) and ``loss``.
        tables: that were recorded, by name.
    """
    found: list[Finding] = []
    for stage, own in _stages(rows).items():
        if stage.endswith(VALIDATION):
            found += _overfitting(stage.removesuffix(VALIDATION), own)
        else:
            found += _jumps(stage, own)
            found += _overfitting(stage, [{**row, "loss": row["valid"]} for row in own if "valid" in row])
    return [*found, *_collapse(rows, tables)]


def findings_of_tuning(chosen: Mapping[str, object], tables: Mapping[str, object]) -> list[Finding]:
    """What is wrong with a tuning: a guidance scale of 0, or guidance that steers nothing.

    Args:
        chosen: the answer parameters; ``scale`` is a number, or one for each variable.
        tables: that were recorded, by name; ``guidance`` has a row for each setting that was tried.
    """
    return [*_unguided(chosen, _table(tables, "guidance"))]


def _stages(rows: Rows) -> dict[str, list[Mapping[str, Any]]]:
    """The rows that have a loss, by stage."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if math.isfinite(_number(row.get("loss"))) or math.isfinite(_number(row.get("valid"))):
            found.setdefault(str(row.get("stage", "fit")), []).append(row)
    return found


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def _column(rows: Rows, name: str) -> np.ndarray:
    return np.array([_number(row.get(name)) for row in rows])


def _jumps(stage: str, rows: Rows) -> Iterator[Finding]:
    """The largest rise of the loss that is sudden, stands out of its noise, and stays."""
    rows = [row for row in rows if math.isfinite(_number(row.get("loss")))]
    at = jump(_column(rows, "loss"))
    if at is None:
        return
    k = _window(len(rows))
    before, stay = slice(at - k, at), slice(at + k, None)
    numbers: dict[str, float] = {}
    for name in ("loss", "likelihood", "nll", "kl"):
        values = _column(rows, name)
        if np.isfinite(values).all():
            numbers |= {f"{name}_before": _median(values[before]), f"{name}_after": _median(values[stay])}
    images = _column(rows, "images")
    seen, last = float(images[at]), float(images[-1])
    when = f"at {seen:,.0f} of {last:,.0f} images" if np.isfinite([seen, last]).all() else f"in row {at} of {len(rows)}"
    moved = (
        f"{name} from {numbers[f'{name}_before']:,.4g} to {numbers[f'{name}_after']:,.4g}"
        for name in ("loss", "likelihood", "nll", "kl")
        if f"{name}_before" in numbers
    )
    yield Finding("jump", stage, seen, f"the loss jumped {when} and stayed there ({', '.join(moved)})", numbers)


def jump(loss: np.ndarray) -> int | None:
    """The row at which a loss [N] jumps to a level from which it does not come back; None where it does not."""
    block = math.ceil(len(loss) / MOST)
    if block > 1:
        loss = np.array([np.median(loss[i : i + block]) for i in range(0, len(loss) - block + 1, block)])
    n, k = len(loss), _window(len(loss))
    if n < FEWEST:
        return None
    medians = np.median(np.lib.stride_tricks.sliding_window_view(loss, k), axis=1)
    noise = _noise(loss)
    starts = np.arange(max(k, n // START), n - 2 * k + 1)
    rises = np.array([medians[i : i + 2].max() - medians[i - k] for i in starts])
    for i in starts[np.argsort(-rises, kind="stable")]:
        if _stays(medians, int(i), k, n, noise):
            return int(i) * block
    return None


def _stays(medians: np.ndarray, i: int, k: int, n: int, noise: float) -> bool:
    """Whether the loss jumps at row ``i`` and stays: its medians of ``k`` rows before and after it say so."""
    before, after = medians[i - k], medians[i:]
    back = np.flatnonzero(after <= before + noise)
    held = after[: back[0]] if len(back) else after
    if not len(held) or (len(back) and len(held) < STAYS * n):
        return False
    rise = _median(held) - before
    soon = held[: k + 1].max() - before
    already = before - medians[max(i - 3 * k, 0)]
    gained = max(float(medians[k] - before), 0.0)
    large = soon > PEAK * noise and rise > max(NOISE * noise, GAIN * gained)
    return bool(large and soon >= SUDDEN * (held.max() - before) and already <= SUDDEN * soon)


def _window(n: int) -> int:
    return max(5, n // WINDOW)


def _median(values: np.ndarray) -> float:
    return float(np.median(values))


def _noise(loss: np.ndarray) -> float:
    """The standard deviation of a row about the level around it: jumps and spikes do not count, slow waves do."""
    half = 2 * _window(len(loss))
    level = np.array([np.median(loss[max(i - half, 0) : i + half + 1]) for i in range(len(loss))])
    return 1.4826 * _median(np.abs(loss - level))


def _overfitting(stage: str, rows: Rows) -> Iterator[Finding]:
    """A validation loss whose last value is worse than its best by more than its noise."""
    rows = [row for row in rows if math.isfinite(_number(row.get("loss")))]
    kept = next((row for row in rows if row.get("kept") is True), None)
    rows = [row for row in rows if row.get("kept") is not True]
    if len(rows) < 2:
        return
    loss, images = _column(rows, "loss"), _column(rows, "images")
    best, last = int(loss.argmin()), float(loss[-1])
    error = _number(rows[-1].get("se"))
    noise = WORSE * error if math.isfinite(error) else SHARE * float(np.ptp(loss))
    if last - float(loss[best]) <= noise:
        return
    seen = float(images[best])
    when = f" at {seen:,.0f} images" if math.isfinite(seen) else ""
    sentence = f"the validation loss of {stage} was best{when} ({loss[best]:.4g}) and rose to {last:.4g}"
    numbers = {"best": float(loss[best]), "last": last}
    if kept is not None:
        numbers["kept"] = _number(kept.get("images"))
        sentence += f"; the weights of {numbers['kept']:,.0f} images were kept"
    yield Finding("overfitting", stage, seen, sentence, numbers)


def _collapse(rows: Rows, tables: Mapping[str, object]) -> Iterator[Finding]:
    """A posterior that is the prior: its KL divergence, all layers together, at the end of the fit."""
    named = (table.get("kl") for table in map(tables.get, ("likelihood", "valid")) if isinstance(table, Mapping))
    sums = (_sum(value) for value in named)
    kl = next((value for value in sums if math.isfinite(value)), math.nan)
    if kl < DEAD:
        sentence = f"the latent carries {kl:.2g} nats an image, less than {DEAD:g}: answers hardly depend on it"
        yield Finding("collapse", "fit", math.nan, sentence, {"kl": kl})


def _sum(value: object) -> float:
    parts = value if isinstance(value, list | tuple) else [value]
    return math.fsum(map(_number, parts)) if parts else math.nan


def _table(tables: Mapping[str, object], name: str) -> list[Mapping[str, Any]]:
    table = tables.get(name)
    return [row for row in table if isinstance(row, Mapping)] if isinstance(table, list | tuple) else []


def _unguided(chosen: Mapping[str, object], tried: Rows) -> Iterator[Finding]:
    """A scale of 0 for a variable, or a table of settings none of which steers better than a scale of 0."""
    value = chosen.get("scale")
    scales = [_number(v) for v in (value if isinstance(value, list | tuple) else [value])]
    names = [name.partition("/")[2] for name in (tried[0] if tried else ()) if name.startswith("effectiveness/")]
    dead = [i for i, scale in enumerate(scales) if scale == 0]
    if dead:
        which = [names[i] for i in dead if len(names) == len(scales)]
        of = f" of {', '.join(which)}" if which else ""
        yield Finding("unguided", "tune", math.nan, f"the guidance scale{of} was chosen as 0: nothing steers it", {})
        return
    reached = [(_number(r.get("scale")), _number(r.get("effectiveness"))) for r in tried]
    without = [e for scale, e in reached if scale == 0 and math.isfinite(e)]
    guided = [e for scale, e in reached if scale > 0 and math.isfinite(e)]
    if without and guided and max(guided) < max(without) + STEERS:
        numbers = {"unguided": max(without), "guided": max(guided)}
        text = f"no guidance scale steers: effectiveness {max(guided):.2f} at best, {max(without):.2f} at a scale of 0"
        yield Finding("unguided", "tune", math.nan, text, numbers)

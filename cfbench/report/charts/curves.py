"""What methods recorded while they were fitted and tuned: charts of losses and guidance, and TensorBoard scalars."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ... import storage
from ...errors import UserError, one_line
from ...names import file_stem
from ...runs.chain import Outcome, Status
from ...runs.context import Run
from ...runs.findings import VALIDATION, Finding
from ...runs.job import Cell
from ...runs.reader import StoredRun
from ...runs.terminal import without_controls
from .figure import HEIGHT, WIDTH, balanced, drawing, leaving_out, new_figure, numbered, save_figure
from .recorded import LogRow, Trace, finite, read_log, traces_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "FOLDER",
    "check_installed",
    "losses",
    "outputs_of",
    "scalar_writer",
    "scalars",
    "setting_rows",
    "with_chosen",
    "write_curves",
    "write_scalars",
]


T = TypeVar("T")
SETTINGS = ("scale", "t", "contrast", "step", "images")
COLUMNS = 3
"""Panels side by side of what has one for each fit."""
PARTS = 4
"""Panels side by side of one method."""
CLIP = 36
"""Letters of a line above a panel."""
PANEL, TITLE = 1.65, 0.35
"""Inches of a panel's height, and of the name above those of one method."""
MAX_STAGES, MAX_OUTPUTS, MAX_GROUPS, MAX_PANELS, MAX_POINTS = 12, 12, 12, 240, 2000
"""Stages of a fit, columns and contrasts of a table, panels of a chart, and points of a line that are drawn."""


def write_curves(run: StoredRun, dataset: str, out: Path, stem: str = "") -> list[Path]:
    """Write ``DATASET-training.png``, ``-guidance.png`` and ``-predictor.png`` of a run into ``out``.

    What does not fit a page goes on in ``DATASET-training-2.png``. A chart that no method recorded anything for is left
    out, and so is what cannot be read, or is more than a chart can show; a note says so. Returns the files written.
    """
    traces = {stage: list(traces_of(run, dataset, stage)) for stage in ("train", "tune")}
    charts: dict[str, Callable[[], Iterable[Figure]]] = {
        "training": lambda: _training(traces["train"]),
        "guidance": lambda: _guidance(traces["tune"] + traces["train"]),
        "predictor": lambda: _predictor(traces["train"] + traces["tune"]),
    }
    stem, written = stem or file_stem(dataset), []
    for name, draw in charts.items():
        with leaving_out(f"the chart {name}"), drawing():
            for i, figure in enumerate(draw()):
                written.append(save_figure(figure, out / f"{stem}-{numbered(name, i)}.png"))
    return written


def _first(items: Sequence[T], most: int, what: str) -> Sequence[T]:
    """The first ``most`` of some items, with a note where there are more."""
    if len(items) > most:
        print(f"cfbench: the first {most} of {len(items):,} {what} are drawn", file=sys.stderr)
    return items[:most]


def _clipped(text: str) -> str:
    """A text from a log or a table in three lines that are not wider than a panel."""
    return "\n".join(one_line(without_controls(line), CLIP) for line in text.split("\n")[:3])


def _training(traces: Sequence[Trace]) -> Iterator[Figure]:
    """The loss over images seen: a panel for each method's networks, as their losses have different units."""
    for own in _pages(_first(list(_panels(traces)), MAX_PANELS, "curves of losses")):
        figure, axes = _figure_of(len(own))
        for ax, (trace, name, (images, loss)) in zip(axes, own, strict=True):
            _loss(ax, images, loss)
            _validated(ax, [row for row in trace.log if row.get("stage") == name + VALIDATION])
            _found(ax, [f for f in trace.health if f.stage == name and math.isfinite(f.images)])
            ax.set_title(_clipped(f"{trace.label}\n{name}".replace("\nseed", ", seed")), loc="left", fontsize=7.5)
        figure.supylabel("loss", fontsize=8)
        figure.supxlabel("training images seen", fontsize=8)
        yield figure


def _pages(panels: Sequence[T]) -> list[list[T]]:
    """Panels by figure, `COLUMNS` side by side."""
    return balanced(panels, COLUMNS * int((HEIGHT - 0.5) / PANEL))


def _figure_of(panels: int) -> tuple[Figure, list[Any]]:
    """A figure and its axes, as many as there are panels."""
    rows, columns = math.ceil(panels / COLUMNS), min(panels, COLUMNS)
    width = WIDTH if columns > 1 else WIDTH / 2
    figure = new_figure(width, 0.3 + PANEL * rows)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax in axes[panels:]:
        ax.set_axis_off()
    return figure, axes[:panels]


def losses(trace: Trace) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images seen and loss of each stage; without a count of images, steps are spread over those of the whole fit."""
    stages: dict[str, list[LogRow]] = {}
    for row in trace.log:
        if math.isfinite(finite(row.get("loss"))):
            stages.setdefault(one_line(row.get("stage", "fit")), []).append(row)
    shown = _first(list(stages.items()), MAX_STAGES, f"stages of the fit of {one_line(trace.label)}")
    return {name: _thinned(_seen(rows, trace.images), [finite(r["loss"]) for r in rows]) for name, rows in shown}


def _thinned(images: np.ndarray, loss: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """At most `MAX_POINTS` points of a line, equally far apart."""
    step = math.ceil(len(loss) / MAX_POINTS)
    return images[::step], np.array(loss[::step])


def _seen(rows: Sequence[LogRow], total: float) -> np.ndarray:
    seen = np.array([finite(row.get("images")) for row in rows])
    if np.isfinite(seen).all():
        return seen
    steps = np.array([finite(row.get("step")) for row in rows])
    steps = steps if np.isfinite(steps).all() and steps.min() >= 0 else np.arange(len(rows), dtype=float)
    return (steps + 1) / (steps.max() + 1) * (total if math.isfinite(total) else steps.max() + 1)


def _loss(ax: Axes, images: np.ndarray, loss: np.ndarray) -> None:
    """The logged losses, and their running median."""
    from matplotlib.ticker import EngFormatter, LogFormatter, MaxNLocator

    images, loss = (a[np.argsort(images, kind="stable")] for a in (images, loss))
    ax.plot(images, loss, color="#7fb0d3", lw=0.8, marker="." if len(loss) < 10 else None)
    half = max(1, len(loss) // 30)
    if len(loss) > 10:
        middle = [np.median(loss[max(0, i - half) : i + half + 1]) for i in range(len(loss))]
        ax.plot(images, middle, color="#0b4f7d", lw=1.5)
    low, high = np.quantile(loss[len(loss) // 10 :], [0, 1])
    if low > 0 and high > 5 * low:
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(LogFormatter())  # the default writes formulas
        ax.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(1, 0.4)))
    elif high > low:  # the first steps would flatten the rest of the line
        ax.set_ylim(low - 0.08 * (high - low), high + 0.25 * (high - low))
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))


def _panels(traces: Iterable[Trace]) -> Iterator[tuple[Trace, str, tuple[np.ndarray, np.ndarray]]]:
    """The stages that have a panel, with images and losses: validation is drawn in that of its stage."""
    for trace in traces:
        found = losses(trace)
        for name, points in found.items():
            stage = name.removesuffix(VALIDATION)
            if stage == name or stage not in found:
                yield trace, name, points


def _validated(ax: Axes, rows: Sequence[LogRow]) -> None:
    """The validation losses as a second line, with a dot at the weights that were kept."""
    points = [(finite(r.get("images")), finite(r.get("loss")), r.get("kept") is True) for r in rows]
    points = [p for p in points if math.isfinite(p[0]) and math.isfinite(p[1])]
    if line := [p for p in points if not p[2]]:
        ax.plot(*zip(*(p[:2] for p in line), strict=True), color="#d55e00", lw=1.2)
    for images, loss, _ in (p for p in points if p[2]):
        ax.plot([images], [loss], "o", ms=4, color="#d55e00")


def _found(ax: Axes, found: Sequence[Finding]) -> None:
    """A vertical line, with its kind, where something went wrong."""
    for finding in found:
        ax.axvline(finding.images, color="#b00020", lw=0.9, ls="--")
        ax.annotate(
            finding.kind, (finding.images, 0.97), xycoords=("data", "axes fraction"), xytext=(2, 0),
            textcoords="offset points", fontsize=6.5, color="#b00020", va="top",
        )  # fmt: skip


def _curves_over(traces: Sequence[Trace], setting: str) -> list[tuple[Trace, str, list[LogRow]]]:
    """The recorded tables that are curves over a setting, each with its trace and name, as many as are drawn."""
    tables = [(t, name, table) for t in traces for name, table in t.tables.items()]
    found = [(t, name, rows) for t, name, table in tables if (rows := setting_rows(table, setting, t.labels))]
    most = max((min(len(outputs_of(rows, t.labels)), MAX_OUTPUTS) for t, _, rows in found), default=1)
    return list(_first(found, MAX_PANELS // most, "recorded tables"))


def setting_rows(table: Sequence[LogRow], setting: str, labels: Mapping[str, str]) -> list[LogRow]:
    """The rows that have a number at the setting and at an output; none where they are no curve."""
    rows = [row for row in table if math.isfinite(finite(row.get(setting))) and outputs_of([row], labels)]
    return rows[:: math.ceil(len(rows) / MAX_POINTS)] if len(rows) > 1 else []


def outputs_of(rows: Sequence[LogRow], labels: Mapping[str, str]) -> list[str]:
    """Columns to draw: those that have a label and their parts, or every number but the settings where none has."""
    found = dict.fromkeys(name for row in rows for name, v in row.items() if math.isfinite(finite(v)))
    known = [name for name in labels if name in found]
    parts = [name for name in found if "/" in name and name.partition("/")[0] in known]
    others = [name for name in found if name not in SETTINGS]
    return known + parts * (len(parts) > 1) if known else others


def _guidance(traces: Sequence[Trace]) -> Iterator[Figure]:
    """Each output against the guidance scale: the panels of a method below its name."""
    curves = _curves_over(traces, "scale")
    several = len({t.label for t, _, _ in curves}) < len(curves)
    blocks = [
        (_clipped(t.label + (f"\n{name}" if several else "")), t.labels, rows, outputs)
        for t, name, rows in curves
        if (outputs := _first(outputs_of(rows, t.labels), MAX_OUTPUTS, "recorded columns"))
    ]
    for page in _filled([TITLE + PANEL * math.ceil(len(block[-1]) / PARTS) for block in blocks]):
        heights = [height for _, height in page]
        figure = new_figure(WIDTH, min(sum(heights), HEIGHT))
        parts = figure.subfigures(len(page), 1, squeeze=False, height_ratios=heights)[:, 0]
        for part, (number, _) in zip(parts, page, strict=True):
            title, labels, rows, outputs = blocks[number]
            part.suptitle(title, x=0.01, ha="left", fontsize=8.5, fontweight="bold")
            _block(part.subplots(math.ceil(len(outputs) / PARTS), PARTS, squeeze=False), rows, outputs, labels)
        yield figure


def _filled(heights: Sequence[float]) -> Iterator[list[tuple[int, float]]]:
    """The numbers and heights of the blocks on each page."""
    page: list[tuple[int, float]] = []
    for number, height in enumerate(heights):
        if page and sum(h for _, h in page) + height > HEIGHT:
            yield page
            page = []
        page.append((number, height))
    if page:
        yield page


def _block(axes: Any, rows: Sequence[LogRow], outputs: Sequence[str], labels: Mapping[str, str]) -> None:
    """One panel for each output: a line a contrast, a ring round the point that was chosen."""
    from seaborn import color_palette

    groups: dict[str, list[LogRow]] = {}
    for row in sorted(rows, key=lambda row: finite(row.get("contrast"))):
        contrast = finite(row.get("contrast"))
        groups.setdefault(f"contrast {contrast:g}" if math.isfinite(contrast) else "", []).append(row)
    groups = dict(_first(list(groups.items()), MAX_GROUPS, "contrasts"))
    palette = color_palette("colorblind", len(groups)).as_hex()
    for ax, name in zip(axes.flat, outputs, strict=False):
        ax.set_title(_clipped(labels.get(name, name)), loc="left", fontsize=7)
        if math.isfinite(value := _constant(rows, name)):
            _say_unchanged(ax, value)
            continue
        for (label, own), colour in zip(groups.items(), palette, strict=True):
            _line(ax, with_chosen(own, rows, name), "scale", name, color=colour, label=label or None)
        ax.set_xlabel("guidance scale", fontsize=7)
    for ax in axes.flat[len(outputs) :]:
        ax.set_axis_off()
    drawn = next((ax for ax in axes.flat if ax.get_legend_handles_labels()[1]), None)
    if drawn is not None:
        drawn.legend(fontsize=6.5, frameon=False)


def _constant(rows: Sequence[LogRow], name: str) -> float:
    """The value of an output that no setting changes; NaN where one does."""
    values = [v for row in rows if math.isfinite(v := finite(row.get(name)))]
    same = len(values) > 1 and max(values) - min(values) <= 1e-6 * max(map(abs, values))
    return values[0] if same else math.nan


def _say_unchanged(ax: Axes, value: float) -> None:
    text = f"guidance does not\nchange it: {value:.3g}"
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize=7, color="#555555")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_color("#dddddd")


def with_chosen(own: Sequence[LogRow], rows: Sequence[LogRow], name: str) -> Sequence[LogRow]:
    """The rows, with the scale that is a part's own marked as chosen, where ``scales`` has one for each part."""
    best = next((row for row in rows if row.get("chosen") is True), {})
    parts, scales = [n for n in best if "/" in n], best.get("scales")
    if name not in parts or not isinstance(scales, list) or len(scales) != len(parts):
        return own
    chosen = (best.get("contrast"), scales[parts.index(name)])
    return [{**row, "chosen": (row.get("contrast"), row["scale"]) == chosen} for row in own]


def _predictor(traces: Sequence[Trace]) -> Iterator[Figure]:
    """How well each variable is read at each noise level; at a level below 0, by the clean predictor."""
    curves = _curves_over(traces, "t")
    several = len({t.label for t, _, _ in curves}) < len(curves)
    for page in _pages(curves):
        figure, axes = _figure_of(len(page))
        for ax, (trace, name, rows) in zip(axes, page, strict=True):
            _readings(ax, rows, trace.labels)
            ax.set_title(_clipped(trace.label + (f"\n{name}" if several else "")), loc="left", fontweight="bold")
        figure.supylabel("accuracy or R²", fontsize=8)
        figure.supxlabel("noise level t (below 0: clean predictor)", fontsize=8)
        yield figure


def _readings(ax: Axes, rows: Sequence[LogRow], labels: Mapping[str, str]) -> None:
    noisy = [row for row in rows if row["t"] >= 0]
    clean = [row for row in rows if row["t"] < 0]
    levels = [row["t"] for row in clean]
    for name in _first(outputs_of(rows, labels), MAX_OUTPUTS, "recorded columns"):
        _line(ax, noisy, "t", name, label=_clipped(labels.get(name, name)))
        colour = ax.lines[-1].get_color()
        ax.plot(levels, [finite(row.get(name)) for row in clean], "D", ms=4, color=colour)
    ax.set_ylim(-0.1, 1.05)
    ax.legend(fontsize=6.5, frameon=False)


def _line(ax: Axes, rows: Sequence[LogRow], setting: str, name: str, **style: Any) -> None:
    points = sorted((finite(r[setting]), finite(r.get(name)), r.get("chosen") is True) for r in rows)
    ax.plot([p[0] for p in points], [p[1] for p in points], "o-", ms=3, lw=1.2, **style)
    if ringed := [(x, y) for x, y, chosen in points if chosen and math.isfinite(y)]:
        ax.plot(*zip(*ringed, strict=True), "o", ms=8, mfc="none", mec="black", mew=1.2, zorder=5)


FOLDER = "tensorboard"


def check_installed() -> None:
    """Raise unless scalars can be written.

    Raises:
        UserError: the package is missing.
    """
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"--tensorboard needs a package that is missing ({error}); pip install 'cfbench-scm[tensorboard]'"
        ) from None


def scalar_writer(run: Run) -> Callable[[Outcome], None]:
    """A callback for the end of each task that writes a fit's scalars; those of earlier fits are written at once.

    Raises:
        UserError: a package is missing.
    """
    check_installed()
    write_scalars(run.job.folder, run.cells)

    def after(outcome: Outcome) -> None:
        if outcome.status is Status.DONE and outcome.task.stage == "train":
            write_scalars(run.job.folder, run.cells)

    return after


def write_scalars(folder: Path, cells: Iterable[Cell]) -> list[Path]:
    """Write the scalars of every fit of a run that is over and has a log, each once; the new folders."""
    written = []
    for stage in dict.fromkeys(cell.stage("train") for cell in cells if not cell.external):
        log, out = folder / stage / "log.jsonl", folder / FOLDER / stage.relative_to("cells")
        if out.exists() or not storage.is_complete(folder / stage) or not log.is_file():
            continue
        if found := list(scalars(read_log(log))):
            _write_events(found, out)
            written.append(out)
    return written


def _write_events(found: Iterable[tuple[str, float, int]], out: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with storage.temporary_folder(out) as draft:
        with SummaryWriter(str(draft)) as writer:
            for tag, value, step in found:
                writer.add_scalar(tag, value, step)
        draft.chmod(0o755)
        draft.rename(out)


def scalars(rows: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, float, int]]:
    """Name, value and step of every number in the rows of a log: ``stage/key`` at the row's ``step``, or its number."""
    for number, row in enumerate(rows):
        stage, step = row.get("stage"), finite(row.get("step", number))
        for key, value in row.items():
            if key != "step" and isinstance(value, (int, float)) and not isinstance(value, bool):
                at = int(step) if abs(step) < 2**63 else number
                yield f"{stage}/{key}" if isinstance(stage, str) else key, _scalar(value), at


def _scalar(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf

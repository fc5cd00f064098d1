"""What methods recorded while they were fitted and tuned: charts of losses and guidance, and TensorBoard scalars."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ... import storage
from ...errors import UserError, one_line
from ...names import file_stem
from ...runs.chain import STAGES, Outcome, Status
from ...runs.context import Run
from ...runs.job import Cell
from ...runs.reader import StoredRun
from ...runs.terminal import without_controls
from .scores import drawing, leaving_out, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FOLDER", "check_installed", "scalar_writer", "scalars", "write_curves", "write_scalars"]


LogRow = Mapping[str, Any]
T = TypeVar("T")
SETTINGS = ("scale", "t", "contrast", "step", "images")
NO_TABLES = {"stage", "chosen", "costs", "labels"}
COLUMNS = 4
MAX_LOG = 2**24
"""Bytes of a log that are read."""
MAX_STAGES, MAX_OUTPUTS, MAX_GROUPS, MAX_PANELS, MAX_POINTS = 12, 12, 12, 240, 2000
"""Stages of a fit, columns and contrasts of a table, panels of a chart, and points of a line that are drawn."""
LARGEST = 1e100
"""Numbers that are larger count as none: they are no losses, and the axes could not hold them."""


@dataclass(frozen=True)
class Trace:
    """What one fit recorded: a label of its method and seed, its log, its tables by name, and their columns' labels."""

    label: str
    log: tuple[LogRow, ...]
    tables: Mapping[str, tuple[LogRow, ...]]
    images: float = math.nan
    labels: Mapping[str, str] = field(default_factory=dict)


def write_curves(run: StoredRun, dataset: str, out: Path, stem: str = "") -> list[Path]:
    """Write ``DATASET-training.png``, ``-guidance.png`` and ``-predictor.png`` of a run into ``out``.

    A chart that no method recorded anything for is left out, and so is what cannot be read, or is more than a chart
    can show; a note says so. Returns the files written.
    """
    traces = {stage: list(_traces(run, dataset, stage)) for stage in ("train", "tune")}
    charts: dict[str, Callable[[], Figure | None]] = {
        "training": lambda: _training(traces["train"]),
        "guidance": lambda: _by_setting(traces["tune"] + traces["train"], "scale", _guidance),
        "predictor": lambda: _by_setting(traces["train"] + traces["tune"], "t", _readings, 1),
    }
    stem, written = stem or file_stem(dataset), []
    for name, draw in charts.items():
        with leaving_out(f"the chart {name}"), drawing():
            if figure := draw():
                written.append(save_figure(figure, out / f"{stem}-{name}.png"))
    return written


def _first(items: Sequence[T], most: int, what: str) -> Sequence[T]:
    """The first ``most`` of some items, with a note where there are more."""
    if len(items) > most:
        print(f"cfbench: the first {most} of {len(items):,} {what} are drawn", file=sys.stderr)
    return items[:most]


def _clipped(text: str) -> str:
    """A text from a log or a table in three lines that are not wider than a panel."""
    return "\n".join(one_line(without_controls(line), 48) for line in text.split("\n")[:3])


def _traces(run: StoredRun, dataset: str, stage: str) -> Iterator[Trace]:
    """One trace for each fit (or tuning) of the data set; rows that share one share its trace."""
    own = [c for c in run.manifest.cells if c.dataset.label == dataset and STAGES[stage].belongs_to(c)]
    several = len({c.seed for c in own}) > 1
    paths = {run.folder / c.stage(stage): c.owner(STAGES[stage]) for c in own}
    titles: dict[Path, set[str]] = {}
    for c in own:
        titles.setdefault(run.folder / c.stage(stage), set()).add(run.manifest.titles[c.method.label])
    for path, cell in paths.items():
        if storage.is_complete(path):
            tables = {p.stem: table for p in sorted(path.glob("*.json")) if (table := _table(p))}
            shown = titles[path].pop() if len(titles[path]) == 1 else cell.method.label
            label = shown + (f"\nseed {cell.seed}" if several else "")
            images = (_read(path / "costs.json") or {}).get("images_seen")
            yield Trace(label, tuple(_log(path / "log.jsonl")), tables, _number(images), _labels(path / "labels.json"))


def _table(path: Path) -> tuple[LogRow, ...]:
    """The rows of a recorded table; none where it is something else."""
    table = [] if path.stem in NO_TABLES else _read(path)
    return tuple(table) if isinstance(table, list) and all(isinstance(row, dict) for row in table) else ()


def _labels(path: Path) -> dict[str, str]:
    """The columns of a method's tables that are drawn, with a label for each; empty where it names none."""
    labels = _read(path) if path.is_file() else None
    known = labels.items() if isinstance(labels, dict) else ()
    return {name: label for name, label in known if isinstance(label, str)}


def _read(path: Path) -> Any:
    try:
        return storage.read_json(path)
    except (UserError, UnicodeDecodeError):
        return None


def _log(path: Path) -> Iterator[LogRow]:
    """The rows of a log; lines that hold none are left out, with a note."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        lines = file.read(MAX_LOG).splitlines()
        unread = bool(file.read(1))
    bad = 0
    for line in lines:
        try:
            row = json.loads(line.decode(errors="replace"))
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            yield row
        else:
            bad += 1
    if bad or unread:
        what = [f"{bad:,} lines that hold no record"] * bool(bad) + [f"all after {MAX_LOG >> 20} MiB"] * unread
        print(f"cfbench: {path}: {' and '.join(what)} left out", file=sys.stderr)


def _number(value: Any) -> float:
    """The value as a finite number of a size that can be drawn, NaN where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
        return math.nan
    return float(value)


def _training(traces: Sequence[Trace]) -> Figure | None:
    """The loss over images seen: a panel for each method's networks, as their losses have different units."""
    panels = [(trace, name, points) for trace in traces for name, points in _losses(trace).items()]
    if not panels:
        return None
    panels = list(_first(panels, MAX_PANELS, "curves of losses"))
    figure, axes = _figure_grid(math.ceil(len(panels) / COLUMNS), min(len(panels), COLUMNS))
    for ax, (trace, name, (images, loss)) in zip(axes.flat, panels, strict=False):
        _loss(ax, images, loss)
        ax.set_title(_clipped(f"{trace.label}\n{name}".replace("\nseed", ", seed")), loc="left", fontsize=8.5)
        ax.set_xlabel("training images seen", fontsize=8.5)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    figure.supylabel("loss", fontsize=8.5)
    return figure


def _losses(trace: Trace) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images seen and loss of each stage; without a count of images, steps are spread over those of the whole fit."""
    stages: dict[str, list[LogRow]] = {}
    for row in trace.log:
        if math.isfinite(_number(row.get("loss"))):
            stages.setdefault(one_line(row.get("stage", "fit")), []).append(row)
    shown = _first(list(stages.items()), MAX_STAGES, f"stages of the fit of {one_line(trace.label)}")
    return {name: _thinned(_seen(rows, trace.images), [_number(r["loss"]) for r in rows]) for name, rows in shown}


def _thinned(images: np.ndarray, loss: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """At most `MAX_POINTS` points of a line, equally far apart."""
    step = math.ceil(len(loss) / MAX_POINTS)
    return images[::step], np.array(loss[::step])


def _seen(rows: Sequence[LogRow], total: float) -> np.ndarray:
    seen = np.array([_number(row.get("images")) for row in rows])
    if np.isfinite(seen).all():
        return seen
    steps = np.array([_number(row.get("step")) for row in rows])
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


def _figure_grid(rows: int, columns: int) -> tuple[Figure, Any]:
    return new_figure(rows, columns, (1.2 + 2.4 * columns, 0.5 + 2 * rows))


def _by_setting(traces: Sequence[Trace], setting: str, draw: Callable[..., None], width: int = 0) -> Figure | None:
    """A line of panels for each table that is a curve over ``setting``, the same outputs below each other."""
    curves = [
        (t, n, rows) for t in traces for n, table in t.tables.items() if (rows := _curve(table, setting, t.labels))
    ]
    if not curves:
        return None
    most = width or min(max(len(_outputs(rows, trace.labels)) for trace, _, rows in curves), MAX_OUTPUTS)
    curves = list(_first(curves, MAX_PANELS // most, "recorded tables"))
    labels = {name: label for t, _, _ in curves for name, label in t.labels.items()}
    union = _first(_outputs([row for _, _, rows in curves for row in rows], labels), MAX_OUTPUTS, "recorded columns")
    owns = [_outputs(rows, trace.labels)[:MAX_OUTPUTS] for trace, _, rows in curves]
    panels = [[n if n in own else None for n in union] if set(own) <= set(union) else own for own in owns]
    figure, axes = _figure_grid(len(curves), width or max(map(len, panels)))
    several = len({t.label for t, _, _ in curves}) < len(curves)
    for line, (trace, name, rows), outputs in zip(axes, curves, panels, strict=True):
        draw(line, rows, outputs, trace.labels)
        for ax in line:
            ax.set_axis_on() if ax.lines else ax.set_axis_off()
        first = next(ax for ax in line if ax.lines)
        title = _clipped(trace.label + (f"\n{name}" if several else ""))
        first.set_title(title, loc="left", fontsize=9.5, fontweight="bold")
        if first.get_legend_handles_labels()[1]:
            first.legend(fontsize=7, frameon=False)
    return figure


def _curve(table: Sequence[LogRow], setting: str, labels: Mapping[str, str]) -> list[LogRow]:
    """The rows that have a number at the setting and at an output; none where they are no curve."""
    rows = [row for row in table if math.isfinite(_number(row.get(setting))) and _outputs([row], labels)]
    return rows[:: math.ceil(len(rows) / MAX_POINTS)] if len(rows) > 1 else []


def _outputs(rows: Sequence[LogRow], labels: Mapping[str, str]) -> list[str]:
    """Columns to draw: those that have a label and their parts, or every number but the settings where none has."""
    found = dict.fromkeys(name for row in rows for name, v in row.items() if math.isfinite(_number(v)))
    known = [name for name in labels if name in found]
    parts = [name for name in found if "/" in name and name.partition("/")[0] in known]
    others = [name for name in found if name not in SETTINGS]
    return known + parts * (len(parts) > 1) if known else others


def _guidance(line: Any, rows: Sequence[LogRow], outputs: Sequence[str | None], labels: Mapping[str, str]) -> None:
    """Each output against the scale, one line a contrast, a ring round the point that was chosen."""
    from seaborn import color_palette

    groups: dict[str, list[LogRow]] = {}
    for row in sorted(rows, key=lambda row: _number(row.get("contrast"))):
        contrast = _number(row.get("contrast"))
        groups.setdefault(f"contrast {contrast:g}" if math.isfinite(contrast) else "", []).append(row)
    groups = dict(_first(list(groups.items()), MAX_GROUPS, "contrasts"))
    palette = color_palette("colorblind", len(groups)).as_hex()
    for ax, name in ((ax, name) for ax, name in zip(line, outputs, strict=False) if name):
        for (label, own), colour in zip(groups.items(), palette, strict=True):
            _line(ax, _marked(own, rows, name), "scale", name, color=colour, label=label or None)
        ax.set(xlabel="guidance scale", ylabel=_clipped(labels.get(name, name)))


def _marked(own: Sequence[LogRow], rows: Sequence[LogRow], name: str) -> Sequence[LogRow]:
    """The rows, with the scale that is a part's own marked as chosen, where ``scales`` has one for each part."""
    best = next((row for row in rows if row.get("chosen") is True), {})
    parts, scales = [n for n in best if "/" in n], best.get("scales")
    if name not in parts or not isinstance(scales, list) or len(scales) != len(parts):
        return own
    chosen = (best.get("contrast"), scales[parts.index(name)])
    return [{**row, "chosen": (row.get("contrast"), row["scale"]) == chosen} for row in own]


def _readings(line: Any, rows: Sequence[LogRow], outputs: Sequence[str | None], labels: Mapping[str, str]) -> None:
    """How well each variable is read at each noise level; at a level below 0, by the clean predictor."""
    noisy = [row for row in rows if row["t"] >= 0]
    clean = [row for row in rows if row["t"] < 0]
    levels = [row["t"] for row in clean]
    for name in filter(None, outputs):
        _line(line[0], noisy, "t", name, label=_clipped(labels.get(name, name)))
        colour = line[0].lines[-1].get_color()
        line[0].plot(levels, [_number(row.get(name)) for row in clean], "D", ms=4, color=colour)
    line[0].set(xlabel="noise level t (below 0: clean predictor)", ylabel="accuracy or R²", ylim=(-0.1, 1.05))


def _line(ax: Axes, rows: Sequence[LogRow], setting: str, name: str, **style: Any) -> None:
    points = sorted((_number(r[setting]), _number(r.get(name)), r.get("chosen") is True) for r in rows)
    ax.plot([p[0] for p in points], [p[1] for p in points], "o-", ms=3.5, lw=1.3, **style)
    if ringed := [(x, y) for x, y, chosen in points if chosen and math.isfinite(y)]:
        ax.plot(*zip(*ringed, strict=True), "o", ms=9, mfc="none", mec="black", mew=1.2, zorder=5)


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
        if found := list(scalars(_log(log))):
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
        stage, step = row.get("stage"), _number(row.get("step", number))
        for key, value in row.items():
            if key != "step" and isinstance(value, (int, float)) and not isinstance(value, bool):
                at = int(step) if abs(step) < 2**63 else number
                yield f"{stage}/{key}" if isinstance(stage, str) else key, _scalar(value), at


def _scalar(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf

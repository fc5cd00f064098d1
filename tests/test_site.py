"""The page of runs: its numbers, images and texts are those of the run, and it is written whole or not at all."""

from __future__ import annotations

import io
import json
import shlex
import shutil
import zipfile
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from pages import made_up, make_run
from PIL import Image
from test_leaderboard import build

from cfbench import storage
from cfbench.cli.main import _main
from cfbench.errors import UserError
from cfbench.report.board import Board
from cfbench.report.charts.recorded import Trace
from cfbench.report.publish import load_board
from cfbench.report.render import write_tables
from cfbench.report.summary.rows import of_board
from cfbench.report.sweeps import Sweep
from cfbench.runs.chain import Status
from cfbench.runs.reader import read_run
from cfbench.site import gallery, libraries, pages
from cfbench.site.charts import fit_charts, guidance_charts
from cfbench.site.collect import collect
from cfbench.site.costs import _ticks, cost_charts, label_offsets
from cfbench.site.tables import detail_table, summary_table

pytest.importorskip("bokeh")
pytest.importorskip("itables")
pytest.importorskip("jinja2")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def page(run):
    return collect([str(run)], run.parent)


@pytest.fixture(scope="module")
def board(run):
    return load_board(read_run(run), "bars")


class Texts(HTMLParser):
    """The elements of a page, and the text of each."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


def no_filters(method):
    return {}


def test_the_summary_has_the_reports_numbers_intervals_and_ranks(page, board):
    s, table = of_board(board), page.datasets[0].summary
    assert [row.name for row in table.rows] == list(s.methods)
    for row in table.rows:
        for key, entry in zip(s.scored, row.entries, strict=False):
            cell = s.cells[row.name, key]
            assert entry.text == cell.number
            assert entry.best == cell.best
            assert cell.interval in entry.about
            assert entry.order == (repr(cell.value) if cell.known else "")


def test_a_failure_stands_in_every_column_with_its_reason(page):
    (failed,) = (row for row in page.datasets[0].summary.rows if row.name == "raises")
    scored = [e for e in failed.entries if e.about]
    assert len(scored) >= 5
    for entry in scored:
        assert entry.failed
        assert entry.text == "failed"
        assert "this method cannot be fitted" in entry.about
    (card,) = (c for c in page.datasets[0].cards if c.name == "raises")
    assert "this method cannot be fitted" in card.failure


def test_a_score_that_nobody_can_have_is_no_failure(page):
    entries = [e for t in page.datasets[0].tables for row in t.rows if row.name != "raises" for e in row.entries]
    assert any(e.text == "–" for e in entries)
    assert not any(e.failed for e in entries)


def test_detail_tables_say_what_the_printed_ones_say():
    board = Board(build(failed={("deepscm", 0)}))
    section = next(s for s in board.sections if s.do == "thickness")
    table = detail_table(board, section, no_filters)
    assert [c.weak for c in table.columns] == [board.is_doubtful(k) for k in section.keys]
    assert any(c.weak for c in table.columns)
    for row in table.rows:
        for key, entry in zip(section.keys, row.entries, strict=True):
            ranks = board.ranks[key].get(row.name) if board.best[key] else None
            words = "" if ranks is None else f"{ranks[0]}" if ranks[0] == ranks[1] else f"{ranks[0]} to {ranks[1]}"
            assert words in entry.about
            assert entry.best == (row.name in board.best[key])


def test_a_row_that_is_not_done_yet_is_no_failure():
    results = build(failed={("deepscm", 0)})
    cells = tuple(replace(c, status=Status.PENDING, reason="") if c.method == "deepscm" else c for c in results.cells)
    board = Board(replace(results, cells=cells))
    (row,) = (r for r in summary_table(of_board(board), no_filters, board).rows if r.name == "deepscm")
    assert {e.text for e in row.entries} == {"pending"}
    assert not any(e.failed for e in row.entries)


def test_tied_methods_are_all_bold_and_hold_the_same_ranks():
    board = Board(build(noise=30.0))
    table = summary_table(of_board(board), no_filters, board)
    tied = [[row.entries[i] for row in table.rows if not row.control] for i in range(len(table.columns))]
    assert any(sum(e.best for e in column) > 1 for column in tied)


def test_a_gallery_holds_the_answers_to_the_bit(run, page, board):
    shown = page.datasets[0].gallery
    asked = {v["name"]: v for v in shown.data["variables"]}
    height, width = shown.data["shape"][1:]
    found = {row["name"]: row for row in shown.data["rows"]}
    assert {"factual", "truth", "learns", "tunes", "nearest"} <= found.keys()
    assert not {"raises", "identity", "oracle"} & found.keys()
    answers = storage.read_tensors(next(run.glob("cells/bars/learns/seed-0/images-*")) / "answers.safetensors")
    row = found["learns"]
    sheet = np.asarray(Image.open(io.BytesIO(shown.images[row["sheet"]])))
    for v, about in asked.items():
        for q in range(len(about["factual"])):
            y, x = divmod(about["first"] + q, row["across"])
            tile = sheet[y * height : (y + 1) * height, x * width : (x + 1) * width]
            right = (answers[f"do/{v}"][q, 0] * 255).round().byte().numpy()
            assert np.array_equal(tile, right)


def test_a_gallery_has_rows_in_the_order_of_the_tables(page, board):
    shown = [row["name"] for row in page.datasets[0].gallery.data["rows"]]
    assert shown[:2] == ["factual", "truth"]
    assert shown[2:] == [m for m in board.methods if m in shown]


def test_a_gallery_has_the_score_of_each_answer(page, board):
    shown = page.datasets[0].gallery.data
    errors = [m for m in shown["metrics"] if m["do"] == "level" and not m["higher"]]
    key = next(k for k in board.columns if k.do == "level" and k.path == "truth.abs_error")
    right = [float(f"{x:.3g}") for x in board.scores[key]["learns", 0].values]
    assert right in [m["scores"]["learns"] for m in errors]


def test_a_gallery_of_many_rows_or_large_images_shows_fewer_questions_and_says_so(run, board, monkeypatch):
    whole = gallery.make_gallery(read_run(run), board).data
    numbers = np.prod(whole["shape"]) * len(whole["rows"]) * len(whole["variables"])
    monkeypatch.setattr(gallery, "NUMBERS", int(numbers * 5))
    shown = gallery.make_gallery(read_run(run), board)
    assert {len(v["factual"]) for v in whole["variables"]} == {12}
    assert {len(v["factual"]) for v in shown.data["variables"]} == {5}
    assert all(len(m["scores"]["learns"]) == len(shown.data["variables"][0]["factual"]) for m in shown.data["metrics"])
    assert "of 12 about level" in shown.note


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sheet_has_every_image_of_any_number_of_channels(channels):
    levels = torch.randint(256, (7, channels, 4, 6), generator=torch.Generator().manual_seed(0))
    png, about = gallery._sheet((levels / 255, {}))
    sheet = np.asarray(Image.open(io.BytesIO(png))).reshape(3 * 4, 3 * 6, channels)
    for i, image in enumerate(levels):
        y, x = divmod(i, about["across"])
        assert np.array_equal(sheet[4 * y : 4 * y + 4, 6 * x : 6 * x + 6], image.permute(1, 2, 0).numpy())


def test_a_missing_answer_is_known_as_missing():
    images = torch.rand(5, 1, 4, 4)
    images[3, 0, 2, 2] = torch.nan
    png, about = gallery._sheet((images, {}))
    assert about["missing"] == [3]
    assert Image.open(io.BytesIO(png)).size == (about["across"] * 4, 2 * 4)


NASTY = """</script><script>alert("1")</script><img src=x onerror='alert(2)'>{{ 7 * 7 }}"&amp;"""


def test_names_and_reasons_are_text_whatever_they_hold():
    page = made_up([NASTY, "plain"])
    text = pages.render_page(page)
    parsed = Texts(text)
    plain = Texts(pages.render_page(made_up(["odd", "plain"])))
    assert sum(t == "script" for t, _ in parsed.tags) == sum(t == "script" for t, _ in plain.tags)
    assert not [t for t, _ in parsed.tags if t == "img"]
    assert not [a for _, attrs in parsed.tags for a in attrs if a.startswith("on")]
    assert NASTY in {attrs.get("data-family") for _, attrs in parsed.tags}
    assert "49" not in text


def test_scripts_hold_data_that_no_name_can_leave():
    page = made_up([NASTY])
    text = pages._script(replace(page.datasets[0], stem='data-1\u2028"]'))
    assert text.isascii()
    assert text.count("\n") == 1


def test_the_page_is_replaced_whole_and_nothing_else_is(tmp_path):
    out = tmp_path / "page"
    pages.write_page(made_up(["a"]), out)
    (out / "assets" / "old.txt").write_text("of an earlier page")
    pages.write_page(made_up(["b"]), out)
    assert not (out / "assets" / "old.txt").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["page"]
    assert "bokeh-LICENSE.txt" in {p.name for p in (out / "assets").iterdir()}


@pytest.mark.parametrize("kind", ["file", "folder", "other page", "link"])
def test_a_place_that_holds_something_else_is_refused(tmp_path, kind):
    out = tmp_path / "page"
    if kind == "file":
        out.write_text("mine")
    elif kind == "link":
        (tmp_path / "elsewhere").mkdir()
        out.symlink_to(tmp_path / "elsewhere")
    else:
        out.mkdir()
        (out / ("index.html" if kind == "other page" else "thesis.tex")).write_text("<html>mine</html>")
    before = sorted(p.name for p in tmp_path.rglob("*"))
    with pytest.raises(UserError, match="give another --out"):
        pages.write_page(made_up(["a"]), out)
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


def test_a_write_that_fails_leaves_the_earlier_page(tmp_path, monkeypatch):
    out = tmp_path / "page"
    pages.write_page(made_up(["first"]), out)

    failed = []

    def full(self, target):
        if target == out and not failed:
            failed.append(target)
            raise OSError(28, "No space left on device", str(target))
        return rename(self, target)

    rename = Path.rename
    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="No space"):
        pages.write_page(made_up(["second"]), out)
    assert "first" in (out / "index.html").read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["page"]


def test_the_command_writes_a_page_that_names_no_address(run, tmp_path, capsys):
    assert _main(["site", str(run), "--out", str(tmp_path / "page")]) == 0
    assert "1 data set," in capsys.readouterr().out
    parsed = Texts((tmp_path / "page" / "index.html").read_text())
    links = [a for _, attrs in parsed.tags for n, a in attrs.items() if n in ("src", "href")]
    assert links
    assert not [link for link in links if ":" in link and link != "data:,"]
    assert all((tmp_path / "page" / link).is_file() for link in links if link[0] not in "#d")
    shown = " ".join(parsed.texts)
    manifest = read_run(run).manifest
    assert f"plan {manifest.datasets['bars'].plan_key}" in shown
    assert manifest.commands
    assert all(shlex.join(["cfbench", *words]) in shown for words in manifest.commands)
    assert "Python 3" in shown


def test_links_out_of_a_run_are_refused(run, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "copy")
    (tmp_path / "secret.json").write_text('{"python": "of somebody else"}')
    (copy / "env" / "0123456789ab.json").symlink_to(tmp_path / "secret.json")
    assert _main(["site", str(copy), "--out", str(tmp_path / "page")]) == 1
    assert "is a link" in capsys.readouterr().err
    assert not (tmp_path / "page").exists()


def test_what_is_downloaded_are_the_reports_tables(page, board, tmp_path):
    files = page.datasets[0].files
    written = write_tables(board, tmp_path)
    assert files["bars-wide.csv"][1] == written["wide"].read_bytes()
    with zipfile.ZipFile(io.BytesIO(files["bars-tables.zip"][1])) as archive:
        packed = {n: archive.read(n) for n in archive.namelist()}
    assert packed == {written[kind].name: written[kind].read_bytes() for kind in ("wide", "csv", "md", "tex")}


def guarded(name):
    """A name as tables hold it: an apostrophe stands before what a spreadsheet would run."""
    return f"'{name}" if name[0] in "=+-@" else name


def test_published_tables_have_a_page_without_their_run(tmp_path):
    board = Board(build())
    write_tables(board, tmp_path)
    (d,) = collect([str(tmp_path)], tmp_path / "none").datasets
    assert [row.name for row in d.summary.rows] == [guarded(m) for m in of_board(board).methods]
    assert d.gallery is None
    assert not d.cards
    assert "strokes-wide.csv" in d.files


def test_data_sets_of_one_name_are_told_apart_by_their_runs(run, tmp_path):
    write_tables(Board(build()), tmp_path / "mine")
    write_tables(Board(build()), tmp_path / "theirs")
    page = collect([str(tmp_path / "mine"), str(tmp_path / "theirs"), str(run)], run.parent)
    assert [d.name for d in page.datasets] == ["strokes (mine)", "strokes (theirs)", "bars"]
    assert page.filters["dataset"] == tuple(d.name for d in page.datasets)


def test_controls_are_of_no_family(page):
    assert page.filters["family"] == ("learns", "tunes", "raises")


def test_a_missing_package_is_one_line_and_nothing_is_written(run, tmp_path, monkeypatch, capsys):
    def missing(name):
        raise libraries.PackageNotFoundError(name)

    monkeypatch.setattr(libraries, "distribution", missing)
    assert _main(["site", str(run), "--out", str(tmp_path / "page")]) == 1
    assert "pip install 'cfbench-scm[site]'" in capsys.readouterr().err
    assert not (tmp_path / "page").exists()


def test_a_run_that_is_not_there_is_named(tmp_path, capsys):
    assert _main(["site", "nothing", "--out", str(tmp_path / "page"), "--run-root", str(tmp_path)]) == 1
    assert "no run 'nothing'" in capsys.readouterr().err


def test_a_module_becomes_a_script_with_its_exports():
    text = libraries._classic_script("var a=1;let b=2;export{a as default,b as other};\n/* licence */")
    assert "globalThis.itables = {default: a, other: b};" in text
    assert "export" not in text
    with pytest.raises(UserError, match="cfbench-scm"):
        libraries._classic_script("var a=1;")


def test_the_libraries_leave_room_for_a_run_in_five_megabytes():
    assert sum(map(len, libraries.library_files().values())) < 2_300_000


def test_cost_charts_show_methods_with_a_score_and_a_time_on_a_log_axis():
    board = Board(build(failed={("deepscm", 0)}))
    s = of_board(board)
    chart = cost_charts(s)[0]
    text = json.dumps(chart.item)
    shown = {m for m in s.methods if f'"{m}"' in text}
    assert shown == {m for m in s.methods if m not in s.controls} - {"deepscm"}
    assert "LogAxis" in text or "LogScale" in text


def test_labels_of_close_points_do_not_cover_each_other():
    points = [(100.0, 50.0), (102.0, 51.0), (104.0, 52.0), (300.0, 50.0)]
    offsets = label_offsets(points, [8, 8, 8, 8])
    assert None not in offsets
    heights = [y + above for (_, y), above in zip(points, offsets, strict=True)]
    assert all(abs(a - b) >= 14 for i, a in enumerate(heights[:3]) for b in heights[:i])
    assert offsets[0] == offsets[3]
    crowded = label_offsets([(100.0, 50.0)] * 20, [8] * 20)
    assert 3 < sum(above is not None for above in crowded) < 10


def test_a_cost_chart_has_the_front_and_the_path_of_a_sweep():
    board = Board(build())
    s, (a, b, c) = of_board(board), ("diffscm", "deepscm", "=cmd()")
    swept = Sweep("diffscm", ("steps",), {a: {"steps": 4}, b: {"steps": 2}, c: {"steps": 8}})
    drawn = [len(renderers(cost_charts(s, each)[0])) for each in ((), (swept,))]
    assert drawn == [3, 4]  # the front, intervals and points; and the path
    shown = json.dumps(cost_charts(s, (swept,))[0].item)
    assert '["name beside", ["4", "diffscm[contrast=0]", "8", "2"]]' in shown


@pytest.mark.parametrize(
    ("ends", "ticks"),
    [((20, 90), [20, 50]), ((0.6, 30), [1, 2, 5, 10, 20]), ((3, 2e5), [10, 100, 1000, 1e4, 1e5])],
)
def test_ticks_of_a_cost_are_few_and_round(ends, ticks):
    assert _ticks(*ends) == ticks


def renderers(chart):
    return chart.item["doc"]["roots"][0]["attributes"]["renderers"]


def test_curves_of_a_fit_and_of_guidance_are_drawn_with_what_was_chosen():
    rows = tuple(
        {"scale": s, "contrast": c, "change": s + c, "chosen": (s, c) == (2, 0)} for c in (0, 1) for s in (1, 2)
    )
    log = tuple({"stage": stage, "step": i, "images": 8 * i, "loss": 9.0 - i} for stage in ("a", "b") for i in range(4))
    trace = Trace("method", log, {"guidance": rows, "costs_of_all": ({"x": 1},)}, labels={"change": "change\n[levels]"})
    assert [c.title for c in fit_charts(trace)] == [f"loss of {s} over training images seen" for s in "ab"]
    (chart,) = guidance_charts(trace)
    assert len(renderers(chart)) == 5  # a line and its points for each contrast, and the ring
    none = replace(trace, tables={"guidance": tuple({**row, "chosen": False} for row in rows)})
    assert len(renderers(*guidance_charts(none))) == 4


def test_numbers_that_cannot_be_drawn_are_left_out_of_curves():
    rows = tuple({"scale": s, "change": y} for s, y in ((1, 1.0), (2, float("nan")), (3, 1e300), (4, True), (5, 2.0)))
    (chart,) = guidance_charts(Trace("method", (), {"guidance": rows}))
    assert "nan" not in json.dumps(chart.item).lower()

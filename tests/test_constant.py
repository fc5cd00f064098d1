"""Rows that answer every question with one image: in no column without a mark may one of them be first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cfbench.cli.main import _main as cfbench
from cfbench.report.board import Board
from cfbench.runs.reader import read_results, read_run

CONSTANT = Path(__file__).with_name("constant.py")
IMAGES = ("first", "mean", "black", "grey", "white")
DATASETS = {"strokes": (), "digits": (), "mnist": ("MNIST",), "morphomnist": ("MNIST", "MorphoMNIST")}
"""Data sets, and the folders of real data that they need."""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module", params=DATASETS)
def board(request, tmp_path_factory):
    """A run with the judges of quick, of which weaker ones would say nothing about the metrics."""
    root = tmp_path_factory.mktemp("constant")
    (root / "data").mkdir()
    for folder in DATASETS[request.param]:
        (root / "data" / folder).symlink_to(request.getfixturevalue("data_root") / folder)
    rows = ",".join(f"constant[image={image}]" for image in IMAGES)
    command = ["run", "--datasets", request.param, "--methods", rows, "--plugin", str(CONSTANT), "--name", "constant"]
    places = ["--run-root", str(root), "--data-root", str(root / "data"), "--jobs", "1", "--no-plots"]
    assert cfbench([*command, *places]) == 0
    return Board(read_results(read_run(root / "constant"), request.param))


@pytest.mark.parametrize("image", IMAGES)
def test_one_image_for_all_questions_is_surely_worse_than_a_control_in_each_column_without_a_mark(board, image):
    """Than the truth, where it is known."""
    row, controls = f"constant[image={image}]", [m for m in board.methods if not m.startswith("constant")]
    level = []
    for key, score in board.columns.items():
        about = board.about(key)
        if score.kind == "cell" or about.direction == "none" or about.caveat or key in board.flagged:
            continue
        if key.do == "none":  # one image for all is far from each factual, and so is nothing else
            continue
        family = board.family(key)
        value = dict(zip(family.names, family.rows.value, strict=True))
        known = np.isfinite(value.get("oracle", np.nan))
        rivals = ["oracle"] if known else controls
        if np.isfinite(value[row]) and not any((m, row) in family.surely_better for m in rivals):
            level.append(key.name)
    assert level == []

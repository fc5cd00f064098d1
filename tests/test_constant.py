"""Rows that answer every question with one image: no column without a mark may put one level with the truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cfbench.cli.main import _main as cfbench
from cfbench.report.board import Board
from cfbench.runs.reader import read_results, read_run

CONSTANT = Path(__file__).with_name("constant.py")
IMAGES = ("first", "mean", "black", "grey", "white")


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    """A run on strokes with the judges of quick, of which weaker ones would say nothing about the metrics."""
    root = tmp_path_factory.mktemp("constant")
    rows = ",".join(f"constant[image={image}]" for image in IMAGES)
    command = ["run", "--datasets", "strokes", "--methods", rows, "--plugin", str(CONSTANT), "--preset", "quick"]
    places = ["--run-root", str(root), "--data-root", str(root / "data"), "--jobs", "1", "--no-plots"]
    assert cfbench([*command, *places]) == 0
    return Board(read_results(read_run(root / "quick"), "strokes"))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("image", IMAGES)
def test_no_column_without_a_mark_puts_one_image_for_all_questions_level_with_the_truth(board, image):
    row = board.methods.index(f"constant[image={image}]")
    truth = board.methods.index("oracle")
    level = []
    for key, score in board.columns.items():
        about = board.about(key)
        if score.kind == "cell" or about.direction == "none" or about.caveat or key in board.flagged:
            continue
        if key.do == "none":  # one image for all is far from each factual, and so is nothing else
            continue
        family = board.family(key)
        scored = np.isfinite(family.rows.value[[row, truth]]).all()
        if scored and (board.methods[truth], board.methods[row]) not in family.surely_better:
            level.append(key.name)
    assert level == []

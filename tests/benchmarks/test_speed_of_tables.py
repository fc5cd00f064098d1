"""The tidy CSV of a thousand cells, from their folders and from their scores."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cfbench import storage
from cfbench.cli.main import _main
from cfbench.report.board import Board
from cfbench.report.render import csv
from cfbench.runs.reader import read_results, read_run

TOYS = str(Path(__file__).parents[1] / "toys.py")
LONG = (pytest.mark.slow, pytest.mark.timeout(3600))
SHAPES = [pytest.param((200, 5), id="200x5"), pytest.param((1000, 1), id="1000x1", marks=LONG)]


@pytest.fixture(scope="module", params=SHAPES)
def crowded(request, tmp_path_factory):
    """A run of methods with seeds, a thousand cells with all metrics: the stages of one, with noise on its scores."""
    methods, seeds = request.param
    root = tmp_path_factory.mktemp("crowded")
    asked = ["run", "--plugin", TOYS, "--datasets", "bars", "--preset", "tiny", "--methods", "learns", "--jobs", "1"]
    asked += ["--no-controls", "--no-plots", "--run-root", str(root), "--data-root", str(root)]
    assert _main(asked) == 0
    folder = root / "tiny"
    about = json.loads((folder / "run.json").read_text())
    (cell,) = about["cells"]
    source = folder / "cells/bars/learns/seed-0"
    rng, cells = np.random.default_rng(0), []
    for m in range(methods):
        for seed in range(seeds):
            mine = copy.deepcopy(cell) | {"seed": seed}
            mine["method"]["name"] = mine["fit"]["name"] = f"learns{m:03d}"
            cells.append(mine)
            for stage in source.iterdir():
                _copy(stage, folder / f"cells/bars/learns{m:03d}/seed-{seed}" / stage.name, rng, m)
    storage.write_json(folder / "run.json", about | {"cells": cells})
    return folder, methods * seeds


def _copy(stage: Path, target: Path, rng: np.random.Generator, m: int) -> None:
    """A stage; one of scores a little worse for each method after the first, and a little noisy."""
    if not stage.name.startswith("score-"):
        storage.copy_stage(stage, target)
        return
    scores, arrays = storage.read_json(stage / "scores.json"), storage.read_tensors(stage / "scores.safetensors")
    for name, values in arrays.items():
        noise = torch.from_numpy(rng.normal(m / 100, 0.2, size=values.shape))
        arrays[name] = values * (1 + noise)
    with storage.write_stage(
        target, **{k: v for k, v in storage.read_json(stage / "stage.json").items() if k != "files"}
    ) as d:
        storage.write_json(d / "scores.json", scores)
        storage.write_tensors(d / "scores.safetensors", arrays)


@pytest.mark.benchmark(group="tidy CSV of 1,000 cells")
@pytest.mark.parametrize("start", ["from their folders", "from their scores"])
def test_tidy(benchmark, crowded, start):
    folder, cells = crowded
    results = read_results(read_run(folder), "bars")
    assert len({(s.method, s.seed) for s in results.scores}) == cells

    def derive():
        return csv(Board(results if start == "from their scores" else read_results(read_run(folder), "bars")).tidy)

    text = benchmark.pedantic(derive, rounds=1)
    assert text.count("\n") > cells * 50

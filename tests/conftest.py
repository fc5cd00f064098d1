"""Where the tests find real data, and how many threads all of them use: one, or what OMP_NUM_THREADS says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


@pytest.fixture(scope="session")
def data_root() -> Path:
    """A folder with real data sets, named by CFBENCH_DATA_ROOT or lying beside the checkout."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    root = Path(os.environ.get("CFBENCH_DATA_ROOT", beside))
    if not root.is_dir():
        pytest.skip(f"no real data: {root} is missing; set CFBENCH_DATA_ROOT")
    return root

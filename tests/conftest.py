"""Where the tests find real data, how many threads they use (one, or OMP_NUM_THREADS), and temporary folders."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import pytest
import torch

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def pytest_configure(config: pytest.Config) -> None:
    """Let each process hear interrupts, and give each of pytest-xdist a temporary folder of its own.

    Jobs in a shell's background ignore interrupts, and so would the commands that tests start. Runs find others on
    their device through the temporary folder.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(config, "workerinput"):
        folder = tempfile.TemporaryDirectory(prefix="cfbench-tests-", ignore_cleanup_errors=True)
        config.add_cleanup(folder.cleanup)
        os.environ["TMPDIR"] = folder.name
        tempfile.tempdir = None


@pytest.fixture(scope="session")
def data_root() -> Path:
    """A folder with real data sets, named by CFBENCH_DATA_ROOT or next to the checkout."""
    default = Path(__file__).parents[2] / "shared" / "data"
    root = Path(os.environ.get("CFBENCH_DATA_ROOT", default))
    if not root.is_dir():
        pytest.skip(f"no real data: {root} is missing; set CFBENCH_DATA_ROOT")
    return root

"""What a command does when nobody reads its output any more."""

from __future__ import annotations

import subprocess
import sys

WORK = """
import sys
from pathlib import Path
from cfbench.cli.output import outlive_readers

outlive_readers()
for number in range(100_000):
    print("line", number)
print("a note", file=sys.stderr)
Path(sys.argv[1]).write_text("done")
"""


def test_work_goes_on_when_the_reader_of_its_output_leaves(tmp_path):
    """As in ``cfbench run 2>&1 | head -1``."""
    command = [sys.executable, "-c", WORK, str(tmp_path / "result")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout.readline() == b"line 0\n"
        process.stdout.close()
        assert process.wait() == 0
    assert (tmp_path / "result").read_text() == "done"

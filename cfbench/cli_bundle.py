"""The command that hands out a yardstick: questions and judges for other laboratories."""

from __future__ import annotations

from pathlib import Path

import click

from .options import examples, run_root

__all__ = ["COMMANDS"]


@click.command(
    epilog=examples(
        "cfbench bundle quick --out strokes-v1",
        "cfbench bundle quick --datasets mnist --out mnist-v2 --version 2",
        "cfbench run --methods mine --plugin mine.py --bundle strokes-v1",
    )
)
@click.argument("run_name", metavar="RUN")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write, new.")
@click.option("--datasets", help="Data set, where the run has several.")
@click.option("--name", help="Name that tables call it by.  [default: the folder's]")
@click.option("--version", default="1", show_default=True, help="Version that tables name.")
@run_root
def bundle(
    run_name: str, out: Path, datasets: str | None, name: str | None, version: str, run_root: Path
) -> int:  # fmt: skip
    """Write the questions and judges of a run's data set as one checksummed folder.

    `cfbench run --bundle FOLDER` asks these questions and scores by these judges, so that tables of different
    laboratories can be compared; the data themselves are not in it.
    """
    from .bundling import bundle_command

    return bundle_command(run_name, run_root, datasets, out, name, version)


COMMANDS = (bundle,)

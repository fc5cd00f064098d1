"""Commands on existing runs: leaderboard, status, merge, verify and site."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .options import data_root, details, examples, plugin, run_root

__all__ = ["COMMANDS"]


_run_name = click.argument("run_name", metavar="RUN")


@click.command(
    epilog=examples(
        "cfbench leaderboard quick",
        "cfbench leaderboard quick --details",
        "cfbench leaderboard runs/quick --out leaderboard/quick-cpu",
        "cfbench leaderboard runs/quick --out leaderboard/quick-cpu --check",
    )
)
@_run_name
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write to.  [default: leaderboard/ in the run]")
@click.option("--plots/--no-plots", default=True, show_default=True, help="Draw charts and the contact sheet.")
@details
@click.option("--check", is_flag=True, help="Write nothing; exit with 2 where a table there differs from the cells.")
@run_root
def leaderboard(run_name: str, out: Path | None, plots: bool, details: bool, check: bool, run_root: Path) -> int:
    """Derive every table and picture of a run from its cells again.

    The summary is printed, with --details all metrics too. summary.csv and summary.md are about all data sets whose
    tables lie in the folder.
    """
    if check:
        from ..report.publish import check_tables_command

        return check_tables_command(run_name, run_root, out)
    from .run import leaderboard_command

    return leaderboard_command(run_name, run_root, out, plots, details)


@click.command(epilog=examples("cfbench status quick", "cfbench status quick --follow"))
@_run_name
@click.option("--follow", is_flag=True, help="Show what is in progress until the run stops; Ctrl-C leaves.")
@run_root
@click.pass_context
def status(context: click.Context, run_name: str, follow: bool, run_root: Path) -> int:
    """Show the status of every cell of a run, what is in progress and how long it will take.

    Below are the options of the last `cfbench run`, as --config takes them.
    """
    from .follow import status_command

    assert context.parent
    assert isinstance(context.parent.command, click.Group)
    return status_command(run_name, run_root, context.parent.command.commands["run"], follow)


@click.command(
    epilog=examples(
        "cfbench merge desk/quick cluster/quick --name both",
        "cfbench merge seed0 seed1 seed2 --name seeds --strict",
    )
)
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--name", required=True, help="Run to merge into, new or there already.")
@click.option("--strict", is_flag=True, help="Refuse where numbers under equal keys differ, or something is left out.")
@run_root
def merge(runs: tuple[str, ...], name: str, strict: bool, run_root: Path) -> int:
    """Put the cells of runs from several machines into one run.

    Nothing is overwritten: of stages under equal keys whose numbers differ, those of the run named first are kept and
    the differences are printed. Runs with other settings, questions or judges are refused. Exits with 2 where cells or
    stages had to be left out. A merge that was killed continues with the same command.
    """
    from ..exchange.merge import merge_command

    return merge_command(runs, name, run_root, strict=strict)


@click.command(epilog=examples("cfbench verify quick", "cfbench verify quick --cells 10 --seed 1 --plugin mine.py"))
@_run_name
@click.option("--cells", type=click.IntRange(1), default=3, show_default=True, help="How many cells, at random.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the choice of cells.")
@click.option("--tolerance", type=click.FloatRange(0), default=1e-3, show_default=True,
              help="Share of the largest number that images and scores may differ by.")  # fmt: skip
@click.option("--device", help="auto, cpu, cuda or cuda:1.  [default: the kind that the run was made on]")
@data_root
@run_root
@plugin
def verify(**options: Any) -> int:
    """Execute some cells of a run again and compare keys, weights, images and scores.

    Judges and questions are the run's. On a CPU with the same packages all numbers are expected to be equal to the
    bit. The files of all stages are checked against their manifests too. Plugins in files must be named again with
    --plugin: a run's own list of them is not trusted. Exits with 2 where something differs by more than --tolerance.
    """
    from ..exchange.verify import verify_command

    return verify_command(**options)


@click.command(
    epilog=examples(
        "cfbench site quick --out page                 then open page/index.html",
        "cfbench site quick standard --out page        several runs on one page",
        "cfbench site leaderboard/quick-cpu --out page published tables, without gallery and cards",
    )
)
@click.argument("names", nargs=-1, required=True, metavar="RUN...")
@click.option("--out", type=click.Path(path_type=Path), required=True,
              help="Folder of the page: new, empty, or an earlier page, which is replaced.")  # fmt: skip
@run_root
def site(names: tuple[str, ...], out: Path, run_root: Path) -> int:
    """Write a page that shows runs in a browser: tables, charts, every answer, how it was made.

    RUN is the name or folder of a run, or a folder of published tables. Open index.html in the folder; the page needs
    no server and no network.
    """
    from ..site.command import site_command

    return site_command(names, out, run_root)


COMMANDS = (leaderboard, status, merge, verify, site)

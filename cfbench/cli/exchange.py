"""Commands that exchange files with other programs and laboratories: plan export, score and bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..runs.budget import DATASETS
from .options import data_root, examples, plugin, run_root

__all__ = ["ANSWER_COMMANDS", "BUNDLE_COMMANDS"]


@click.group()
def plan() -> None:
    """Export the questions of a data set."""


@plan.command(epilog=examples("cfbench plan export questions.npz", "cfbench plan export q.npz --datasets mnist"))
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--datasets", default=DATASETS, show_default=True, help="Data set, by name.")
@click.option("--preset", default="quick", show_default=True, help="Budget: how many factuals are asked about.")
@click.option(
    "--plan", default="marginal", show_default=True, help="Questions: marginal, force-change, the data's own."
)
@click.option("--action", type=click.Choice(["exact", "learned"]), help="How the other parents respond.")
@click.option("--split", type=click.Choice(["test", "valid"]), default="test", show_default=True)
@click.option("--name", help="Name of the run that the answers are to join.  [default: the preset's]")
@data_root
@run_root
@plugin
@click.pass_context
def export(context: click.Context, file: Path, **options: Any) -> int:
    """Write the questions (factual images, parents, interventions, counterfactual parents) as NumPy arrays.

    FILE is an .npz that any program can read without torch or cfbench: x uint8 [N, C, H, W], pa [N, D], and for
    each variable V do/V/factual (rows of x), do/V/value and do/V/cf_pa. `plan` is to be copied into the answers.
    """
    from ..exchange.external import export_command

    return export_command(file, argv=context.obj["argv"], **options)


@click.command(epilog=examples("cfbench score answers.npz --name mine", "cfbench score a.npz --name mine --run mnist"))
@click.argument("file", metavar="ANSWERS.npz", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--name", required=True, help="Name of the row.")
@click.option(
    "--run",
    "run_name",
    default="quick",
    show_default=True,
    help="The run whose questions they answer, by name or folder.",
)
@click.option("--datasets", help="Data set, where the run has several.")
@click.option("--metrics", help="Metrics, by name.  [default: those of the run's other rows, or all]")
@click.option(
    "--controls/--no-controls", default=True, show_default=True, help="Add the control rows that are missing."
)
@click.option("--device", default="auto", show_default=True, help="Where judges read the answers.")
@click.option("--plots/--no-plots", default=True, show_default=True, help="Draw charts and the contact sheet.")
@data_root
@run_root
@plugin
@click.pass_context
def score(context: click.Context, file: Path, **options: Any) -> int:
    """Score answers that another program computed, as a row of the run whose questions they answer.

    ANSWERS.npz holds `plan` as it stood in the questions and images, uint8 or floats in [0, 1]: null [N, C, H, W]
    (no intervention) and do/V [Q, C, H, W] for each variable; cycle and reverse/V, if they are to be scored too.
    """
    from ..exchange.external import score_command

    return score_command(file, argv=context.obj["argv"], **options)


ANSWER_COMMANDS = (plan, score)


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
    from ..exchange.bundles import bundle_command

    return bundle_command(run_name, run_root, datasets, out, name, version)


BUNDLE_COMMANDS = (bundle,)

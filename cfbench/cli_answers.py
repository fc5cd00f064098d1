"""Commands for answers that are made elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from .options import data_root, examples, plugin, run_root

__all__ = ["COMMANDS"]


@click.group()
def plan() -> None:
    """Hand out the questions of a data set."""


@plan.command(epilog=examples("cfbench plan export questions.npz", "cfbench plan export q.npz --datasets mnist"))
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--datasets", default="strokes", show_default=True, help="Data set, by name.")
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
def export(file: Path, **options: Any) -> int:
    """Write the questions (factual images, parents, interventions, counterfactual parents) as NumPy arrays.

    FILE is an .npz that any program can read without torch or cfbench: x uint8 [N, C, H, W], pa [N, D], and for
    each variable V do/V/factual (rows of x), do/V/value and do/V/cf_pa. `plan` is to be copied into the answers.
    """
    from .answering import export_command

    return export_command(file, argv=sys.argv[1:], **options)


@click.command(epilog=examples("cfbench score answers.npz --name mine", "cfbench score a.npz --name mine --run mnist"))
@click.argument("file", metavar="ANSWERS.npz", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--name", required=True, help="Name of the row.")
@click.option("--run", "run_name", default="quick", show_default=True, help="The run that asked, by name or folder.")
@click.option("--datasets", help="Data set, where the run has several.")
@click.option("--metrics", help="Metrics, by name.  [default: those of the run's other rows, or all]")
@click.option("--device", default="auto", show_default=True, help="Where judges read the answers.")
@click.option("--plots/--no-plots", default=True, show_default=True, help="Draw charts and the contact sheet.")
@data_root
@run_root
@plugin
def score(file: Path, **options: Any) -> int:
    """Score answers that were made elsewhere, as a row of the run that asked.

    ANSWERS.npz holds `plan` as it stood in the questions and images, uint8 or floats in [0, 1]: null [N, C, H, W]
    (no intervention) and do/V [Q, C, H, W] for each variable; cycle and reverse/V, if they are to be scored too.
    """
    from .answering import score_command

    return score_command(file, argv=sys.argv[1:], **options)


COMMANDS = (plan, score)

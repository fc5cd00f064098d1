"""The command line: its options, commands, errors and exit codes."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from click.exceptions import NoArgsIsHelpError

from ..errors import (
    STOP_SIGNALS,
    Interrupted,
    UserError,
    interruption_in,
    one_line,
    os_error_text,
    raise_interrupted,
    reason_of,
)  # fmt: skip
from ..runs.budget import DATASETS, METHODS
from ..runs.terminal import discard_output, filtered, filtered_output, flush_output, replace_unencodable
from ..version import __version__
from .config import config_option, config_text, save_option, words
from .exchange import ANSWER_COMMANDS as ANSWER_COMMANDS
from .exchange import BUNDLE_COMMANDS as BUNDLE_COMMANDS
from .options import data_root, details, examples, plugin, run_root
from .output import outlive_readers
from .plugins import COMMANDS as PLUGIN_COMMANDS
from .runs import COMMANDS as RUN_COMMANDS

__all__ = ["main"]


LONGEST = 4000
"""Characters of an error's message, which may quote a file."""


class _Commands(click.Group):
    """Commands whose ``EOFError`` is an error: click would take it for the end of a user's input, an interrupt."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except EOFError as error:
            raise UserError(f"a file ends too early: {reason_of(error)}; --debug shows where it was read") from error


@click.group(
    cls=_Commands,
    epilog=examples(
        "cfbench run                                   Diff-SCM against DeepSCM on digits that need no download",
        "cfbench run --methods diffscm[scale=2] --datasets mnist --data-root ~/data",
        "cfbench list                                  what can be run",
        "cfbench leaderboard quick                     the tables of a run again",
    ),
)
@click.version_option(__version__, prog_name="cfbench")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def cli(context: click.Context, debug: bool) -> None:
    """Benchmark counterfactual image models: same questions, same judges, intervals on every number."""
    context.ensure_object(dict)["debug"] = debug


@cli.command(
    epilog=examples(
        "cfbench run                                              both methods on strokes, a few minutes",
        "cfbench run --methods 'diffscm,diffscm[contrast=0]'       two rows that share one fit",
        "cfbench run --methods diffscm --set diffscm.steps=50     the same setting for all of its rows",
        "cfbench run --methods 'fast=diffscm[steps=6],diffscm'    a name for a row",
        "cfbench run --methods 'diffscm[steps=6|12|25|50]'        a sweep: a row for each value, one fit",
        "cfbench run --methods mine --plugin mine.py --split valid    develop without looking at test answers",
        "cfbench run --budgets 32k,130k,520k                      curves: a row of each method at each budget",
        "cfbench run --methods diffscm,diffscm@520k               two rows that differ in their training images",
        "cfbench run --datasets strokes,mnist --preset standard --device cuda",
        "cfbench run --datasets morphomnist --action learned      parents respond by mechanisms fitted to them",
        "cfbench run --methods diffscm --save-config study.toml   the options in a file, for --config study.toml",
    )
)
@click.option(
    "--methods",
    default=METHODS,
    show_default=True,
    help="Rows: name, name:preset, name[key=value], title=name[key=1|2], name@32k.",
)
@click.option("--datasets", default=DATASETS, show_default=True, help="Data sets, by name.")
@click.option("--seeds", help="Training seeds, as 0,1,2.  [default: the preset's]")
@click.option("--preset", default="quick", show_default=True, help="Budget: tiny, quick, long, standard or full.")
@click.option("--budgets", metavar="IMAGES,...",
              help="A row of each method at each of these budgets, as 32k,130k,2M training images.")  # fmt: skip
@click.option(
    "--plan", default="marginal", show_default=True, help="Questions: marginal, force-change, or the data's own."
)
@click.option(
    "--action", type=click.Choice(["exact", "learned"]),
    help="Parents respond by their known mechanisms or by fitted ones.  [default: exact where the data set knows them]",
)  # fmt: skip
@click.option("--split", type=click.Choice(["test", "valid"]), default="test", show_default=True, help="Factuals.")
@click.option("--bundle", "bundles", multiple=True, type=click.Path(path_type=Path), metavar="FOLDER",
              help="Take questions and judges of a data set from a bundle.")  # fmt: skip
@click.option("--set", "settings", multiple=True, metavar="METHOD.KEY=VALUE", help="A setting for a method's rows.")
@click.option("--weights", multiple=True, metavar="METHOD=FILE",
              help="Weights (safetensors or .pt) made elsewhere for a method's rows, in place of a fit.")  # fmt: skip
@click.option("--keep-fit", multiple=True, metavar="METHOD",
              help="Keep the fits of a method whose code was edited, but not its fit; marks its rows.")  # fmt: skip
@click.option("--metrics", help="Metrics, by name.  [default: all]")
@click.option("--controls/--no-controls", default=True, show_default=True, help="Run the control rows too.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:1.")
@click.option("--jobs", type=click.IntRange(0), default=0, help="Tasks at once.  [default: a core each; 1 on a GPU]")
@click.option("--address", metavar="ADDRESS",
              help="Ray cluster to use: auto, HOST:PORT, ray://HOST:PORT.  [default: this machine]")  # fmt: skip
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="CPU threads of a task.")
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True,
              help="Methods compute in float32, or convolutions and products in bfloat16.")  # fmt: skip
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS",
              help="End each stage of a cell that takes longer.")  # fmt: skip
@click.option("--name", help="Name of the run.  [default: the preset's, and what else differs]")
@click.option("--only", type=click.Choice(["missing", "failed", "all"]), default="missing", show_default=True,
              help="Which unfinished tasks: never tried, failed before, or both.")  # fmt: skip
@click.option("--plots/--no-plots", default=True, show_default=True, help="Draw charts and the contact sheet.")
@details
@click.option("--all", "show_all", is_flag=True, help="Print all rows of the run, not only those asked for here.")
@click.option("--tensorboard", is_flag=True, help="Write training logs for TensorBoard, to tensorboard/ in the run.")
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@config_option
@save_option
@data_root
@run_root
@plugin
@click.pass_context
def run(context: click.Context, config: Path | None, **options: Any) -> int:
    """Fit methods, ask them all the same questions, score the answers, write the leaderboard.

    What is finished is not done again: the same command continues a run that was killed.
    """
    from .run import run_command

    return run_command(argv=words(context) if config else context.obj["argv"], config=config_text(context), **options)


@cli.command(epilog=examples("cfbench prepare mnist --data-root ~/data", "cfbench prepare strokes mnist"))
@click.argument("datasets", nargs=-1, required=True)
@data_root
@plugin
def prepare(datasets: tuple[str, ...], data_root: Path, plugins: tuple[Path, ...]) -> int:
    """Bring data sets under the data root: the only command that uses a network.

    What each holds is printed: its splits, the shape of its images, and how its variables are spread.
    """
    from .data import prepare_command

    return prepare_command(datasets, data_root, plugins)


for _command in (*RUN_COMMANDS, *PLUGIN_COMMANDS, *ANSWER_COMMANDS, *BUNDLE_COMMANDS):
    cli.add_command(_command)


def _show_help_without_arguments(command: click.Command) -> None:
    """Let a command that needs arguments show its help where it is given none, as groups do."""
    command.no_args_is_help |= any(p.required for p in command.params)
    for each in command.commands.values() if isinstance(command, click.Group) else ():
        _show_help_without_arguments(each)


_show_help_without_arguments(cli)


THREADS = 2.0
"""Seconds that the threads of plugins have to end at the end of a command."""


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 usage or environment, 2 cells unfinished, 128 + N by signal N."""
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, raise_interrupted)
    os.environ["MPLBACKEND"] = "agg"  # a notebook's, which its shell commands inherit, may not be installed
    outlive_readers()
    replace_unencodable()
    sys.stdout, sys.stderr = filtered(sys.stdout), filtered(sys.stderr)
    _exit(_main(sys.argv[1:] if argv is None else argv))


def _exit(code: int) -> None:
    """End the process, also where a plugin started a thread that never ends."""
    others = [t for t in threading.enumerate() if not t.daemon and t is not threading.current_thread()]
    for thread in others:
        thread.join(THREADS / len(others))
    if any(t.is_alive() for t in others):
        for stream in filter(None, (sys.stdout, sys.stderr)):
            with suppress(OSError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


def _main(argv: list[str]) -> int:
    with filtered_output():
        return _execute(argv)


def _execute(argv: list[str]) -> int:
    try:
        code = cli.main(argv, prog_name="cfbench", standalone_mode=False, obj={"argv": argv}) or 0
        flush_output()
        return code
    except NoArgsIsHelpError as error:
        print(error.format_message())
        return 1
    except click.UsageError as error:
        return _print_error(_usage_error_text(error, argv))
    except click.ClickException as error:
        return _print_error(error.format_message())
    except UserError as error:
        if "--debug" in argv:
            raise
        return _print_error(str(error))
    except (click.Abort, KeyboardInterrupt) as error:
        with suppress(OSError):  # the terminal may be gone
            print("cfbench: interrupted; the same command continues", file=sys.stderr)
        return (interruption_in(error) or Interrupted()).exit_code
    except OSError as error:
        if "--debug" in argv:
            raise
        return _print_error(os_error_text(error))


def _usage_error_text(error: click.UsageError, argv: list[str]) -> str:
    """What is wrong with the words of a command, and how it is called or which help says that."""
    text, context = error.format_message().rstrip("."), error.ctx
    if isinstance(error, click.MissingParameter) and context:
        text += f"; write {' '.join([context.command_path, *_required(context)])}"
    return f"{text}; `{context.command_path if context else _command_path(argv)} --help` says more"


def _command_path(argv: list[str]) -> str:
    """The words of a command that name it, without its arguments."""
    words: list[str] = ["cfbench"]
    command: click.Command = cli
    for word in argv:
        if isinstance(command, click.Group) and word in command.commands:
            words, command = [*words, word], command.commands[word]
    return " ".join(words)


def _required(context: click.Context) -> Iterator[str]:
    """The arguments and options that a command cannot do without, as its help writes them."""
    for each in (p for p in context.command.params if p.required):
        option = f"{each.opts[0]} " if isinstance(each, click.Option) else ""
        yield option + each.make_metavar(context)


def _print_error(text: str) -> int:
    discard_output()
    with suppress(OSError):
        print(f"cfbench: error: {one_line(text, LONGEST)}", file=sys.stderr)
    return 1

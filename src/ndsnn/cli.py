"""The command line: `ndsnn train | sweep | report | evaluate | inspect | export | bench | data`.

Exit codes: 0 done; 2 bad input, with one line that says what to do; 1 a run that had to give up (non-finite loss);
128 + n stopped by signal n after saving a checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

import ndsnn
from ndsnn.config import EventConfig, flatten
from ndsnn.errors import ConfigError, NdsnnError, NonFiniteError, RunError
from ndsnn.evaluation.report.command import add_report
from ndsnn.interop.export.command import add_export
from ndsnn.parsing import printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: The command line without the program's name; the process's own by default.

    Returns:
        The exit code.
    """
    from ndsnn.training.signals import RunInterrupted

    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if arguments[:1] == ["train"]:
            return _train(arguments[1:])
        options = _parser().parse_args(arguments)
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)
    except NonFiniteError as error:
        return _fail(error, 1)
    except NdsnnError as error:
        return _fail(error, 2)
    except RunInterrupted as stop:
        print(f"ndsnn: {stop}", file=sys.stderr)
        return 128 + stop.signal_number
    except KeyboardInterrupt:
        print("ndsnn: interrupted; nothing was written", file=sys.stderr)
        return 128 + signal.SIGINT
    except OSError as error:
        # Such as a full disk under the output, or a pipe that nobody reads any more: nothing more can go there.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _fail(RunError(f"{error}; mend this; a run goes on from its last checkpoint with --resume"), 2)


class _Progress(Console):
    """A console that says so when nobody reads it any more, where rich's own would end the process in silence."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError("Broken pipe: nobody reads the output any more")


class _Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="ndsnn", description=ndsnn.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"ndsnn {ndsnn.__version__}")
    commands = parser.add_subparsers(required=True, metavar="command", parser_class=_Parser)
    commands.add_parser("train", help="train a network; ndsnn train --help lists all options", add_help=False)

    _add_sweep(commands.add_parser("sweep", help="train every cell of a grid; finished ones are skipped"))

    evaluate = commands.add_parser("evaluate", help="loss and accuracy of a run's network")
    evaluate.add_argument("run", type=Path, help="run directory")
    evaluate.add_argument(
        "--which", choices=("last", "best"), default="best", help="which network (default: best)"
    )
    evaluate.add_argument(
        "--split", choices=("validation", "test"), help="which images (default: test if finished)"
    )
    evaluate.add_argument("--data-root", default=None, help="folder of the data, if it has moved")
    evaluate.add_argument(
        "--neurobench", action="store_true", help="also NeuroBench's metrics, under its keys, and energy estimates"
    )
    evaluate.add_argument("--json", action="store_true", help="print figures as JSON")
    evaluate.set_defaults(command=_evaluate)

    inspect = commands.add_parser("inspect", help="table of a run's or a file's layers")
    inspect.add_argument("path", type=Path, help="run directory or .safetensors file")
    inspect.add_argument("--json", action="store_true", help="print figures as JSON")
    inspect.set_defaults(command=_inspect)

    add_export(
        commands.add_parser("export", help="a run's network as NIR, ONNX, C, safetensors or a dense state dict")
    )
    add_report(commands.add_parser("report", help="tables, figures and a page from run directories"))
    _add_bench(commands.add_parser("bench", help="the engine against dense torch on this machine"))

    _add_data(commands.add_parser("data", help="what data sets there are, and how to get them"))
    return parser


def _add_data(data: argparse.ArgumentParser) -> None:
    """Declare the actions of `data` and their options."""
    actions = data.add_subparsers(required=True, metavar="action", parser_class=_Parser)
    listing = actions.add_parser("list", help="all data sets and where they are looked for")
    listing.add_argument("--root", default=None, help="folder to look in first")
    listing.add_argument("--json", action="store_true", help="print as JSON")
    listing.set_defaults(command=_data_list)
    prepare = actions.add_parser("prepare", help="download, check and decode a data set")
    prepare.add_argument("name", help="a name of `ndsnn data list`")
    prepare.add_argument("--root", default=None, help="folder to put it in")
    prepare.add_argument(
        "--config", default=None, metavar="FILE", help="recipe whose data.events say how to frame"
    )
    for key in flatten(EventConfig()):
        prepare.add_argument(f"--data.events.{key}", dest=key, default=argparse.SUPPRESS, metavar="X")
    prepare.set_defaults(command=_data_prepare)


def _add_sweep(sweep: argparse.ArgumentParser) -> None:
    """Declare the options of `sweep`; those not given are left to `SweepOptions`."""
    left_out = argparse.SUPPRESS
    sweep.add_argument("grid", type=Path, metavar="GRID.yaml", help="grid file; see docs/experiments.md")
    for names, kind, explanation in (
        (("-o", "--output"), Path, "directory of the sweep (default: runs/<directory or name of the grid>)"),
        (("--workers",), int, "cells that run at once (default: 1; on Ray as many as there are CPUs)"),
        (("--threads",), int, "CPU threads of each cell (default: this machine's, shared; on Ray 1)"),
        (("--launcher",), str, "local (default), or ray for many machines (extra ray)"),
        (("--ray-address",), str, "Ray cluster (default: $RAY_ADDRESS, else one begun on this machine)"),
    ):
        sweep.add_argument(*names, type=kind, metavar="X", default=left_out, help=explanation)
    sweep.add_argument("--retry-failed", action="store_true", help="also cells that failed before")
    sweep.add_argument("--dry-run", action="store_true", help="only print the cells and what they will cost")
    sweep.add_argument("--json", action="store_true", help="print figures as JSON")
    sweep.set_defaults(command=_sweep)


def _add_bench(bench: argparse.ArgumentParser) -> None:
    """Declare the options of `bench`; those not given are left to `BenchOptions`."""
    left_out = argparse.SUPPRESS
    for flag, field, kind, explanation in (
        ("--model", "models", str, "networks (default: vgg16 resnet19)"),
        ("--batch", "batches", int, "batch sizes (default: 32 64)"),
        ("--sparsity", "sparsities", float, "fractions of zeros (default: 0 0.9 0.95 0.98 0.99)"),
    ):
        bench.add_argument(flag, dest=field, type=kind, nargs="+", metavar="X", default=left_out, help=explanation)
    for flag, number, explanation in (
        ("--time-steps", int, "T (default: 5)"),
        ("--threads", int, "threads of both sides (default: torch's own number)"),
        ("--rounds", int, "rounds of which the median counts (default: 5)"),
        ("--width", float, "factor on the numbers of channels (default: 1)"),
        ("--image-size", int, "height and width of the images (default: 32)"),
        ("--seed", int, "seed of weights, connections and images (default: 0)"),
    ):
        bench.add_argument(flag, type=number, metavar="X", default=left_out, help=explanation)
    bench.add_argument("--memory", metavar="X", default=left_out, help="auto (default), store or recompute")
    bench.add_argument("--precision", metavar="X", default=left_out, help="fp32 (default) or mixed")
    bench.add_argument(
        "--no-layers", dest="layers", action="store_false", default=left_out, help="no layer tables"
    )
    bench.add_argument("--no-memory", dest="peaks", action="store_false", default=left_out, help="no memory peaks")
    bench.add_argument("--json", action="store_true", help="print figures as JSON")
    bench.set_defaults(command=_bench)


def _train(arguments: Sequence[str]) -> int:
    from ndsnn.config_parser import parse_train
    from ndsnn.training.distributed import shows_results
    from ndsnn.training.run import train
    from ndsnn.training.tables import print_summary

    as_json = "--json" in arguments
    config = parse_train([argument for argument in arguments if argument != "--json"])
    summary = train(config, _Progress(stderr=as_json))
    if not shows_results():
        return 0
    if as_json:
        print(json.dumps(summary))
    else:
        print_summary(summary, _console())
    return 0


def _sweep(options: argparse.Namespace) -> int:
    from ndsnn.evaluation.sweep.command import SweepOptions, outcome_json, run_sweep, try_sweep
    from ndsnn.evaluation.sweep.dry_run import dry_run_json, print_dry_run

    given: dict[str, Any] = dict(vars(options))
    as_json, only_try = given.pop("json"), given.pop("dry_run")
    del given["command"]
    chosen = SweepOptions(**given)
    if only_try:
        plan = try_sweep(chosen)
        if as_json:
            print(json.dumps(dry_run_json(plan)))
        else:
            print_dry_run(plan, _console())
        return 0
    outcome, directory = run_sweep(chosen, Console(stderr=as_json))
    if as_json:
        print(json.dumps(outcome_json(outcome, directory)))
    else:
        print(
            f"{len(outcome.done)} done, {len(outcome.failed)} failed, {len(outcome.left)} left in {directory.path}"
        )
    return 0 if outcome.complete else 1


def _evaluate(options: argparse.Namespace) -> int:
    from ndsnn.interop.neurobench import NeuroBenchMeter, metric_lines
    from ndsnn.training.activity import ActivityMeter
    from ndsnn.training.inspect import evaluate_run

    meter_class = NeuroBenchMeter if options.neurobench else ActivityMeter
    result = evaluate_run(options.run, options.which, options.split, options.data_root, meter_class)
    _warn(result["notes"])
    if options.json:
        print(json.dumps(result))
    else:
        print(
            f"{options.run}: {result['which']} network (epoch {result['epoch']}) on {result['images']} "
            f"{result['split']} images: accuracy {result['accuracy']:.2%}, loss {result['loss']:.4f}, "
            f"sparsity {result['sparsity']:.3%}, firing rate {result['firing_rate']:.4f}, "
            f"{result['synaptic_operations_per_image']:,.0f} synaptic operations per image"
        )
        for line in metric_lines(result.get("neurobench", {})):
            print(line)
    return 0


def _inspect(options: argparse.Namespace) -> int:
    from ndsnn.training.inspect import inspect_path
    from ndsnn.training.tables import print_layers

    found = inspect_path(options.path)
    _warn(found.get("notes", []))
    if options.json:
        print(json.dumps(found))
    else:
        print_layers(found, _console())
    return 0


def _bench(options: argparse.Namespace) -> int:
    from ndsnn.evaluation.bench.bench import BenchOptions, run_bench
    from ndsnn.evaluation.bench.tables import print_bench

    given: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in vars(options).items()}
    as_json = given.pop("json")
    del given["command"]
    result = run_bench(BenchOptions(**given), lambda what: print(f"ndsnn: {what}", file=sys.stderr))
    if as_json:
        print(json.dumps(result))
    else:
        print_bench(result, _console())
    return 0


def _data_list(options: argparse.Namespace) -> int:
    from ndsnn import data
    from ndsnn.training.tables import print_data_sets

    rows: list[dict[str, Any]] = [row._asdict() for row in data.overview(options.root)]
    if options.json:
        print(json.dumps(rows))
    else:
        print_data_sets(rows, _console())
    return 0


def _data_prepare(options: argparse.Namespace) -> int:
    from ndsnn import data
    from ndsnn.config_parser import parse_train
    from ndsnn.training.display import TransferDisplay
    from ndsnn.training.signals import interrupting, stop_signals

    given = dict(vars(options))
    arguments = ["--config", options.config] if options.config else []
    arguments += [f"--data.events.{key}={given[key]}" for key in flatten(EventConfig()) if key in given]
    config = parse_train(arguments)
    if options.config and config.data.name != options.name:
        raise ConfigError(f"{options.config} is a recipe for data set {config.data.name!r}, not {options.name!r}")
    root = options.root or config.data.root
    rest = f"preparing {options.name}; what is done is kept, and the same command goes on"
    with stop_signals() as stop, TransferDisplay(Console(stderr=True)) as progress:
        row = data.prepare(options.name, root, interrupting(progress, stop, rest), config.data.events)
    print(f"{options.name} is {row.state}: {'; '.join((', '.join(row.where), *row.notes))}")
    return 0


def _console() -> Console:
    """Standard output; where it is no terminal, wide enough that no table is cut."""
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, 120))


def _warn(notes: list[str]) -> None:
    """Say what was wrong with files that had to be passed over."""
    for note in notes:
        print(f"ndsnn: warning: {printable(note)}; using the previous good checkpoint", file=sys.stderr)


def _fail(error: NdsnnError, code: int) -> int:
    print(f"ndsnn: error: {printable(' '.join(str(error).split()))}", file=sys.stderr)
    return code

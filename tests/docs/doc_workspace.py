"""The directory in which the commands of the documentation run: small runs and grids where the pages have them."""

import shlex
import shutil
import signal
from io import StringIO
from pathlib import Path

import pytest
import yaml
from doc_pages import ROOT
from event_files import make_nmnist
from rich.console import Console

from ndsnn.cli import _parser, main
from ndsnn.config_parser import parse_train
from ndsnn.engine import native
from ndsnn.training import loop
from ndsnn.training.run import train
from ndsnn.training.run_directory import RunDirectory
from ndsnn.training.signals import RunInterrupted

TINY = {
    "data.name": "digits",
    "data.image_size": "8",
    "model.name": "vgg",
    "model.layers": "[4,M,8,M]",
    "model.time_steps": "2",
    "batch_size": "128",
    "threads": "1",
}
"""Settings that make any run one of a second."""

TINY_EVENTS = {"model.layers": "[4,M,8,M]", "epochs": "1", "batch_size": "16", "threads": "1"}
"""The same for recipes of event data, whose frames and steps stay those of the recipe."""

PLACES = {"RUN": "runs/mine", "GRID.yaml": "experiments/fashion/table1.yaml"}
"""What stands for a name of the reader's own."""

FINISHED, STOPPED = ("runs/mine", "runs/demo"), "runs/stopped"

DATA = "data"
"""Root of the data: a small N-MNIST in the official format."""

GRIDS = ("table1.yaml", "fashion/table1.yaml")
"""Files of experiments/ that become a grid of one tiny cell; `test_experiments.py` reads them all as they are."""

TINY_BENCH = (
    "--width 0.1 --batch 2 --rounds 1 --image-size 16 --time-steps 2 --threads 1 --sparsity 0.9 "
    "--no-layers --no-memory"
)

MORE = {"ndsnn bench": TINY_BENCH, "--format nir": "--allow-lossy"}
"""What commands with these words get on top: the bench becomes small; NIR has no word for the run's max-pools."""

NOT_RUN = {
    "make demo": "sets up a virtual environment; what it runs is the `ndsnn train` of the README",
    "make test": "runs these tests",
    "pip install 'ndsnn[ray]'": "needs a package index",
}
"""Commands that are not ours to run here."""

ONLY_PARSED = {
    "ndsnn sweep GRID.yaml -o /shared/table1 --launcher ray --ray-address HOST:6379 --threads 4": "a Ray cluster",
}
"""Commands that need what is not here, and what that is; their options are read by the real parser."""


def write_workspace(place: Path) -> None:
    """Fill a directory: finished runs, a stopped one, data, and the experiments with grids of one tiny cell."""
    settings = [word for key, value in TINY.items() for word in (f"--{key}", value)]
    quiet = Console(file=StringIO())
    train(parse_train([*settings, "--epochs", "2", "--output", str(place / FINISHED[0])]), quiet)
    for other in FINISHED[1:]:
        shutil.copytree(place / FINISHED[0], place / other)
    _stop(parse_train([*settings, "--epochs", "2", "--output", str(place / STOPPED)]), quiet)
    make_nmnist(place / DATA, per_class=4, test_per_class=2, count=60)
    shutil.copytree(ROOT / "experiments", place / "experiments")
    for grid in GRIDS:
        _shrink(place / "experiments" / grid)


def sweep(workspace: Path) -> None:
    """Run the sweep of the README in a workspace, the current directory."""
    assert main(["sweep", f"experiments/{GRIDS[1]}", "--workers", "1", "--threads", "1"]) == 0


def run_command(text: str, workspace: Path) -> None:
    """Run a command of a page in a workspace, made tiny where it trains; it must end with 0.

    Args:
        text: The command.
        workspace: Where `write_workspace` has written; the current directory.
    """
    program, *arguments = shlex.split(text)
    assert program == "ndsnn"
    if text in ONLY_PARSED or (arguments[0] == "bench" and not native.available()):
        parse(arguments)
        return
    arguments = [PLACES.get(word, word) for word in arguments]
    if arguments[0] == "train":
        arguments = _tiny_training(arguments, workspace)
    more = [word for key, words in MORE.items() if key in text for word in shlex.split(words)]
    try:
        code = main([*arguments, *more])
    except SystemExit as end:  # --help
        code = end.code
    assert code in (0, None), text


def parse(arguments: list[str]) -> None:
    """Read the options of a command without running it; an unknown one is an error."""
    if arguments[0] == "train":
        parse_train(arguments[1:])
    else:
        _parser().parse_args(arguments)


def _tiny_training(arguments: list[str], workspace: Path) -> list[str]:
    """Return a training that takes a second, with its directory as the page has it: not there, or stopped."""
    if "--help" in arguments:
        return arguments
    resuming = "--resume" in arguments
    if not resuming:
        parse(arguments)
    if "--output" in arguments:
        output = workspace / arguments[arguments.index("--output") + 1]
        if output != workspace / STOPPED:
            shutil.rmtree(output, ignore_errors=True)
            if resuming:
                shutil.copytree(workspace / STOPPED, output)
    events = any(word.startswith("experiments/events/") for word in arguments)
    settings = {} if resuming else TINY_EVENTS if events else TINY | {"epochs": "1"}
    return [*arguments, *(word for key, value in settings.items() for word in (f"--{key}", value))]


def _shrink(grid: Path) -> None:
    """Leave a grid file its name and directory, and one cell that trains for a second."""
    content = yaml.safe_load(grid.read_text(encoding="utf-8"))
    del content["base_file"]
    base = {key: yaml.safe_load(value) for key, value in TINY.items() if key != "threads"} | {"epochs": 1}
    block = {"method": [{"name": "ndsnn", "final_sparsity": 0.9}]}
    grid.write_text(yaml.safe_dump(content | {"base": base, "grids": [block]}), encoding="utf-8")


def _stop(config, console: Console) -> None:
    """Train until a SIGTERM in the second epoch."""
    original = loop.Trainer._step

    def stepping(trainer, *batch):
        result = original(trainer, *batch)
        if trainer.progress.step == 13:
            signal.raise_signal(signal.SIGTERM)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Trainer, "_step", stepping)
        with pytest.raises(RunInterrupted):
            train(config, console)
    assert not RunDirectory(config.output).finished

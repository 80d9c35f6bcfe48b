"""`ndsnn train`: from a configuration to a finished run directory."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from rich.console import Console

from ndsnn.config import MACHINE_KEYS, TrainConfig, default_output, flatten, require_same_run
from ndsnn.config_parser import config_to_yaml, read_config
from ndsnn.errors import ConfigError, RunError
from ndsnn.ranks import Ranks
from ndsnn.sparse.topology import MASKABLE
from ndsnn.training.build import Parts, build, resolve
from ndsnn.training.checkpoint import pack_training
from ndsnn.training.device import resolve_device
from ndsnn.training.distributed import joined, require_divisible, require_same_settings
from ndsnn.training.loop import Trainer
from ndsnn.training.lottery.plan import LotteryPlan
from ndsnn.training.lottery.rounds import require_no_round
from ndsnn.training.lottery.trainer import LotteryTrainer
from ndsnn.training.run_directory import CONFIG, METRICS, RunDirectory
from ndsnn.training.tracking import require_tensorboard


def train(config: TrainConfig, console: Console | None = None) -> dict[str, Any]:
    """Train as `config` says; nothing is written before everything has been checked.

    Args:
        config: The settings.
        console: Where progress is shown; standard output by default.

    Returns:
        The summary of the finished run, as in its summary.json.

    Raises:
        NdsnnError: Bad input, or the run cannot go on.
        RunInterrupted: A signal stopped the run; its checkpoint is written.
    """
    with joined(resolve_device(config.device), config.rank_timeout) as ranks:
        return _train_on(ranks, default_output(resolve(config)), console or Console())


def _train_on(ranks: Ranks, config: TrainConfig, console: Console) -> dict[str, Any]:
    """Do what `train` does, as one of `ranks`; rank 0 alone looks at files of runs and shows progress."""
    run = RunDirectory(str(config.output))
    if not ranks.main:
        console = Console(quiet=True)
    require_same_settings(flatten(config), ranks)
    require_divisible(config.batch_size, ranks)
    ranks.on_main(lambda: _require_startable(run, config))
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    dense_rates = ranks.on_main(lambda: read_dense_rates(config))
    parts = build(config)
    ranks.require_same_text(f"{parts.engine.name} {parts.data.fingerprint}", "engine and data")
    ranks.on_main(lambda: run.require_space(_space_needed(parts)))
    trainer_class = LotteryTrainer if isinstance(parts.timeline, LotteryPlan) else Trainer
    trainer = trainer_class(config, parts, run, console, dense_rates, ranks)
    if not config.resume:
        ranks.on_main(lambda: run.create(config_to_yaml(config), config.overwrite))
    with ExitStack() as stack:
        ranks.on_main(lambda: stack.enter_context(run.locked()))
        if config.resume:
            console.print(trainer.resume(), highlight=False, markup=False, soft_wrap=True)
        console.print(_heading(config, parts, ranks), highlight=False, markup=False, soft_wrap=True)
        return trainer.train()


def _require_startable(run: RunDirectory, config: TrainConfig) -> None:
    """Check that the run may begin or go on in its directory, without touching anything."""
    require_no_round(run)
    if config.tensorboard:
        require_tensorboard()
    if config.resume:
        require_resumable(run, config)
    else:
        run.require_free(config.overwrite)


def require_resumable(run: RunDirectory, config: TrainConfig) -> None:
    """Check that `run` was begun with the same settings and is not finished.

    Raises:
        RunError: There is no run, or nothing is left to do.
        ConfigError: A setting differs.
    """
    if not run.exists:
        raise RunError(f"there is no run to resume in {run.path}")
    require_same_run(read_config(run.path / CONFIG), config)
    if run.finished:
        raise RunError(f"the run in {run.path} is finished; see ndsnn inspect {run.path}")


def read_dense_rates(config: TrainConfig) -> list[float] | None:
    """Return the firing rate of each epoch of the dense run, R_d, or None where none is named.

    Raises:
        RunError: There is no finished run of as many epochs.
        ConfigError: It is not dense, or of another network or data set.
    """
    if config.dense_run is None:
        return None
    dense = RunDirectory(config.dense_run)
    if not dense.exists:
        raise RunError(f"dense_run {dense.path} is no run directory")
    recipe = read_config(dense.path / CONFIG)
    if recipe.method.name != "dense":
        raise ConfigError(f"dense_run {dense.path} was trained with method {recipe.method.name}, not dense")
    mine, theirs = flatten(config), flatten(recipe)
    for key in mine:
        free = key in MACHINE_KEYS | {"seed", "dense_run"} or key.startswith("method.")
        if not free and mine[key] != theirs[key]:
            raise ConfigError(f"dense_run {dense.path} has {key} = {theirs[key]}, this run {mine[key]}")
    if dense.finished:
        dense.require_intact_rows(dense.read_summary())
    rates = [float(row["firing_rate"]) for row in dense.read_rows(METRICS)]
    if len(rates) != config.epochs:
        raise RunError(f"dense_run {dense.path} has {len(rates)} of {config.epochs} epochs; finish it first")
    return rates


def _space_needed(parts: Parts) -> int:
    """Return the bytes of two checkpoints, a third being written, and the best networks."""
    tensors, _ = pack_training(parts.net, parts.optimizer, parts.method)
    present = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    parameters = sum(
        t.numel() for key, t in tensors.items() if key.startswith("network/") and t.is_floating_point()
    )
    per_parameter = 4 if isinstance(parts.optimizer, torch.optim.SGD) else 8
    once = present + parameters * per_parameter + 2**18
    if not isinstance(parts.timeline, LotteryPlan):
        return 5 * once
    # Each checkpoint holds what is rewound to as well, and each round leaves its last and its best network.
    return 5 * 2 * once + 2 * (parts.timeline.rounds + 1) * (present + 2**18)


def _heading(config: TrainConfig, parts: Parts, ranks: Ranks) -> str:
    method, images = parts.method, parts.data
    train, validation = len(images.train), len(images.validation)
    if isinstance(parts.timeline, LotteryPlan):
        rounds = parts.timeline.describe()
    else:
        rounds = f"{len(method.rounds)} topology updates" if method.rounds else "fixed topology"
    layers = sum(isinstance(m, MASKABLE) for m in parts.net.modules())
    together = "" if ranks.alone else f"{ranks.size} processes, each with its part of every batch\n"
    return (
        f"{config.method.name} on {images.name}: {train} training, {validation} validation images; "
        f"{config.model.name}, T = {config.model.time_steps}, {layers} layers, "
        f"{sum(layer.size for layer in method.layers):,} weights, sparsity {method.current_sparsity():.4g} → "
        f"{method.final_sparsity:.4g}, {rounds}\n"
        f"engine: {parts.engine.describe(config.memory, config.precision)}\n"
        f"{together}"
        f"run: {config.output}"
    )

"""From a configuration to data, network, optimizer and method; everything that can be wrong is found here."""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from ndsnn import data, models
from ndsnn.config import DEFAULT_FINAL_SPARSITY, DataConfig, MethodConfig, ModelConfig, TrainConfig
from ndsnn.data.events import resolve_events
from ndsnn.errors import ConfigError, SparsityError, unknown_name
from ndsnn.sparse.distributions import check_sparsity
from ndsnn.sparse.methods import LTH, ConstantSparsity, Dense, SparseTraining, accepted_settings, methods
from ndsnn.sparse.sparsify import sparsify
from ndsnn.training.acceleration import Engine, put_on_engine
from ndsnn.training.device import needs_plain_torch, place
from ndsnn.training.lottery.plan import SETTINGS as LOTTERY_SETTINGS
from ndsnn.training.lottery.plan import LotteryPlan, plan_lottery
from ndsnn.training.timeline import OneRound, Timeline

DEMO_LAYERS: tuple[int | str, ...] = (32, "M", 64, "M", 128, "M")
"""Layers of model "vgg" unless told otherwise: small enough for a CPU and 16×16 images."""

MLP_HIDDEN = (256, 256)
"""Neurons of the hidden layers of model "mlp" unless told otherwise."""

COMMON_SETTINGS = ("update_every", "start", "stop_fraction", "death_ratio", "min_death_ratio", "regrow_dropped")


@dataclass(frozen=True)
class Parts:
    """All that a run is made of.

    Args:
        data: The images.
        net: The network, sparse: masked, or accelerated.
        engine: What computes it.
        optimizer: Of all its parameters.
        method: Of its topology.
        steps_per_epoch: Optimizer steps per epoch.
        timeline: Its epochs.
    """

    data: data.SplitData
    net: nn.Module
    engine: Engine
    optimizer: torch.optim.Optimizer
    method: SparseTraining
    steps_per_epoch: int
    timeline: Timeline


def build(config: TrainConfig) -> Parts:
    """Build everything a run needs.

    Raises:
        NdsnnError: A setting does not go with the data, the network or another setting.
    """
    method_class = resolve_method(config.method.name)
    initial, final = resolve_sparsities(config.method, method_class)
    images = load_data(config)
    torch.manual_seed(config.seed)
    net = build_model(config.model, images.num_classes, images.channels, images.image_size)
    generator = torch.Generator().manual_seed(config.seed)
    sparsify(net, initial, config.method.distribution, config.method.dense_layers, generator)
    plain = needs_plain_torch(config)
    net, engine = put_on_engine(net, config.engine, config.memory, config.precision, plain)
    if plain:
        place(net, config)
    optimizer = build_optimizer(config, net)
    steps_per_epoch = data.num_batches(len(images.train), config.batch_size)
    settings = method_settings(config, method_class)
    timeline = plan_epochs(config)
    if isinstance(timeline, LotteryPlan):
        settings = timeline.method_settings(steps_per_epoch)
    try:
        method = method_class(net, optimizer, final, steps_per_epoch * timeline.place(0).length, **settings)
    except TypeError as error:
        raise ConfigError(f"a setting of method {config.method.name} is of the wrong type: {error}") from error
    return Parts(images, net, engine, optimizer, method, steps_per_epoch, timeline)


def plan_epochs(config: TrainConfig) -> Timeline:
    """Return the epochs of a run: as many as were asked for, or the rounds of a lottery-ticket run.

    Raises:
        NdsnnError: A setting of the rounds is unknown or out of range.
    """
    method = resolve_method(config.method.name)
    if not issubclass(method, LTH):
        return OneRound(config.epochs)
    _, final = resolve_sparsities(config.method, method)
    return plan_lottery(config.epochs, final, method_settings(config, method))


def load_data(config: TrainConfig) -> data.SplitData:
    """Load the data set of a configuration.

    Raises:
        ConfigError: A setting is out of range, or recordings have other steps than the network.
        DataError: A file is missing or broken, or recordings have not been framed so.
    """
    settings = resolve_data(config)
    return data.load(
        settings.name,
        root=settings.root,
        validation_fraction=settings.validation_fraction,
        split_seed=settings.split_seed,
        image_size=settings.image_size,
        events=settings.events,
    )


def resolve_data(config: TrainConfig) -> DataConfig:
    """Return the settings of the data with the usual framing where it is left open.

    Raises:
        ConfigError: A setting does not go with the data set, or recordings have other steps than the network.
    """
    events = resolve_events(data.SOURCES[config.data.name], config.data.events)
    if events.frames not in (None, config.model.time_steps):
        raise ConfigError(
            f"the recordings of {config.data.name} are cut into data.events.frames = {events.frames} steps, but "
            f"model.time_steps is {config.model.time_steps}; make them equal"
        )
    return replace(config.data, events=events)


def build_model(
    config: ModelConfig, num_classes: int, channels: int, image_size: tuple[int, int] | None = None
) -> nn.Module:
    """Build the network of a configuration.

    Args:
        config: Which network.
        num_classes: Number of logits.
        channels: Channels of the input.
        image_size: Height and width of the input; only an mlp has to know it.

    Raises:
        ConfigError: Unknown name, or a setting that this network does not have.
    """
    builder = models.MODELS[config.name]
    settings: dict[str, object] = {"neuron": asdict(config.neuron), "width": config.width}
    if config.name == "vgg":
        settings["layers"] = list(DEMO_LAYERS if config.layers is None else config.layers)
    elif config.name == "mlp":
        settings["image_size"] = image_size or (1, 1)
        settings["hidden"] = list(MLP_HIDDEN if config.layers is None else config.layers)
    elif config.layers is not None:
        raise ConfigError(f"model.layers is a setting of model vgg or mlp, not of {config.name}")
    if config.norm is not None:
        if config.name == "mlp":
            raise ConfigError(f"model mlp has no norms; leave out model.norm {config.norm}")
        settings["norm"] = config.norm
    return builder(num_classes=num_classes, time_steps=config.time_steps, in_channels=channels, **settings)


def build_optimizer(config: TrainConfig, net: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer of a configuration.

    It updates all parameters in few calls (foreach). The fused kernels would be faster still, but they round a
    weight's update otherwise by where it stands in its tensor, so that both engines would drift apart.
    """
    common: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay, "foreach": True}
    if config.optimizer == "sgd":
        return torch.optim.SGD(net.parameters(), momentum=config.momentum, **common)
    cls = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return cls(net.parameters(), **common)


def resolve_method(name: str) -> type[SparseTraining]:
    """Return a registered method, or the class that package.module:Class names.

    Raises:
        ConfigError: There is none of that name.
    """
    if ":" not in name:
        return methods[name]
    module_name, _, class_name = name.partition(":")
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except Exception as error:  # the module may fail in any way
        raise ConfigError(f"method {name!r} cannot be imported: {error!r}") from error
    if not (isinstance(found, type) and issubclass(found, SparseTraining)):
        raise ConfigError(f"method {name!r} is no subclass of ndsnn.SparseTraining")
    return found


def resolve(config: TrainConfig) -> TrainConfig:
    """Return `config` with what its method and its data set take where it is left open: sparsities and framing."""
    initial, final = resolve_sparsities(config.method, resolve_method(config.method.name))
    method = replace(config.method, initial_sparsity=initial, final_sparsity=final)
    return replace(config, data=resolve_data(config), method=method)


def resolve_sparsities(config: MethodConfig, method: type[SparseTraining]) -> tuple[float, float]:
    """Return θi and θf, with the method's own values where the configuration leaves them open.

    Raises:
        SparsityError: They are out of range or do not go with the method.
    """
    dense = issubclass(method, Dense)
    constant = issubclass(method, ConstantSparsity) and not method.starts_dense
    final = config.final_sparsity
    if final is None:
        final = 0.0 if dense else DEFAULT_FINAL_SPARSITY
    initial = config.initial_sparsity
    if initial is None:
        initial = final if constant else 0.0 if method.starts_dense else min(0.7, final)
    check_sparsity(initial, "method.initial_sparsity")
    check_sparsity(final, "method.final_sparsity")
    if dense and final:
        raise SparsityError(f"method dense keeps every weight; method.final_sparsity is {final}, not 0")
    if initial > final:
        raise SparsityError(
            f"method.initial_sparsity {initial} is above method.final_sparsity {final}; "
            f"{config.name} can only get sparser"
        )
    if constant and initial != final:
        raise SparsityError(
            f"method {config.name} keeps its sparsity: method.initial_sparsity {initial} must equal "
            f"method.final_sparsity {final}, or be left out"
        )
    return initial, final


def method_settings(config: TrainConfig, method: type[SparseTraining]) -> dict[str, Any]:
    """Return the keyword settings that the configuration gives to the method.

    Raises:
        ConfigError: The method does not take one of them.
    """
    given: dict[str, Any] = {
        name: value for name in COMMON_SETTINGS if (value := getattr(config.method, name)) is not None
    }
    given |= config.method.settings
    accepted = LOTTERY_SETTINGS if issubclass(method, LTH) else accepted_settings(method)
    for name in given:
        if name not in accepted:
            if not accepted:
                raise ConfigError(f"method {config.method.name} takes no settings; leave out {name!r}")
            raise ConfigError(unknown_name(f"setting of method {config.method.name}", name, accepted))
    if "seed" in accepted:
        given.setdefault("seed", config.seed)
    return given

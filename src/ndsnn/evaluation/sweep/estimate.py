"""What a run will cost, from its settings alone: multiply-adds, neuron steps, epochs and disk; no data is read.

Multiply-adds of training, per image and summed over the layers l:

    Σ_l passes_l · alive_l · places_l · steps_l

alive_l is the mean over the steps of the run, places_l the places of a layer's output map, steps_l T, or 1 where
the image is not yet repeated. passes_l is 3: forward, gradient of the inputs, gradient of the weights; 2 for the
first layer, whose input needs no gradient. Every input counts, zero or not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ndsnn import data
from ndsnn.config import ModelConfig, TrainConfig
from ndsnn.data.events import EventSource
from ndsnn.data.events.framing import framing_of
from ndsnn.data.source import SOURCES
from ndsnn.errors import ConfigError, NdsnnError
from ndsnn.evaluation.sweep.mean_alive import mean_alive
from ndsnn.neurons import LIF
from ndsnn.sparse.topology import maskable_modules, weight_shape
from ndsnn.training.build import build_model, resolve_data

NUMBERS_PER_WEIGHT = {"sgd": 2, "adam": 3, "adamw": 3}
"""Of an alive weight in a checkpoint: its value and the optimizer's averages."""

CHECKPOINTS = 2
"""Checkpoints that a run keeps, and best networks."""

RUN_BYTES = 16_000
"""Configuration, summary and what checkpoints hold besides tensors."""

ROW_BYTES = 500
"""A row of metrics.jsonl."""

LAYER_BYTES = 2_500
"""What files say of a layer: its entries in the summary, the checkpoints and topology.jsonl."""


class LayerUse(NamedTuple):
    """What a layer does for one image.

    Attributes:
        shape: Of its weight.
        uses: How often each weight is multiplied: output places, summed over the steps that are computed.
        first: Whether its input is the image, which needs no gradient.
    """

    shape: tuple[int, ...]
    uses: int
    first: bool


class NetworkUse(NamedTuple):
    """What a network does for one image.

    Attributes:
        layers: Its conv and linear layers by path.
        neuron_steps: Neurons times steps.
    """

    layers: Mapping[str, LayerUse]
    neuron_steps: int

    def operations(self, alive: Mapping[str, float]) -> float:
        """Return the multiply-adds of training with so many alive weights per layer (see the module)."""
        return sum(alive[name] * use.uses * (2 if use.first else 3) for name, use in self.layers.items())


class Images(NamedTuple):
    """What a run trains on.

    Attributes:
        train: Number of training images.
        classes: Number of classes.
        channels: Channels of an image.
        size: (H, W).
        steps: T of recordings of events; None for images.
    """

    train: int
    classes: int
    channels: int
    size: tuple[int, int]
    steps: int | None = None


@dataclass(frozen=True)
class Estimate:
    """What a run will cost.

    Args:
        operations: Multiply-adds of its training.
        neuron_steps: Neurons times steps, over all training images of all epochs.
        epochs: Of the whole run, all rounds of a lottery together.
        disk_bytes: Of the finished run directory.
    """

    operations: float
    neuron_steps: float
    epochs: int
    disk_bytes: int


def estimate(config: TrainConfig) -> Estimate | None:
    """Return what a run will cost, or None where only the files tell how many images there are.

    Raises:
        NdsnnError: The images don't go with the network, or the sparsities or the schedule with either.
    """
    images = planned_images(config)
    if images is None:
        return None
    use = network_use(config.model, images.classes, images.channels, images.size, images.steps)
    shapes = {name: layer.shape for name, layer in use.layers.items()}
    alive = mean_alive(config, shapes, data.num_batches(images.train, config.batch_size))
    seen = images.train * alive.epochs
    values = (NUMBERS_PER_WEIGHT[config.optimizer] + 1) * 4 * alive.kept
    weights = sum(math.prod(shape) for shape in shapes.values())
    # A mask is stored as bits or as positions of 4 bytes, whichever is smaller; a dense network has none.
    sparse = alive.kept < weights * alive.runs
    masks = 2 * alive.runs * min(weights / 8, 4 * alive.kept / alive.runs) if sparse else 0
    written = alive.runs * (RUN_BYTES + LAYER_BYTES * len(shapes)) + ROW_BYTES * alive.epochs
    return Estimate(
        operations=use.operations(alive.mean) * seen,
        neuron_steps=use.neuron_steps * seen,
        epochs=alive.epochs,
        disk_bytes=round(CHECKPOINTS * (values + masks)) + written,
    )


def estimate_cell(name: str, config: TrainConfig) -> Estimate | None:
    """Return what a cell of a grid will cost (see `estimate`); an error names the cell."""
    try:
        return estimate(config)
    except NdsnnError as error:
        raise type(error)(f"cell {name}: {error}") from error


def planned_images(config: TrainConfig) -> Images | None:
    """Return what a run trains on, by the registry of data sets; None where the files decide.

    Raises:
        ConfigError: The data set is unknown, or the validation part leaves no image to one side.
    """
    settings, source = config.data, SOURCES[config.data.name]
    about = source.describe()
    side = settings.image_size
    size = (side, side) if side else source.default_size or about.size
    if about.train_images is None or about.classes is None or about.channels is None or size is None:
        return None
    held_out = round(about.train_images * settings.validation_fraction)
    if not 0 < held_out < about.train_images:
        raise ConfigError(
            f"data.validation_fraction is {settings.validation_fraction}; of the {about.train_images} images of "
            f"{settings.name} it must leave some to training and some to validation"
        )
    train, steps = about.train_images - held_out, None
    if isinstance(source, EventSource):
        frames = framing_of(resolve_data(config).events)
        steps, _, *size_of_frames = frames.shape(source.sensor)
        size = (size_of_frames[0], size_of_frames[1])
    return Images(train, about.classes, about.channels, size, steps)


@cache
def network_use(
    model: ModelConfig, classes: int, channels: int, size: tuple[int, int], steps: int | None = None
) -> NetworkUse:
    """Return what a network does for one image, or for one recording of so many steps.

    It is built without weights and computes nothing.

    Raises:
        ConfigError: A setting of the network is wrong, or it cannot take images of this size.
    """
    layers: dict[str, LayerUse] = {}
    neurons: list[int] = []

    def note_layer(name: str) -> Any:
        def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            shape = weight_shape(module)
            layers[name] = LayerUse(shape, output.numel() // shape[0], not layers)

        return note

    def note_neurons(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        neurons.append(output.numel())

    with torch.device("meta"), torch.no_grad():
        net = build_model(model, classes, channels, size)
        for name, module in maskable_modules(net).items():
            module.register_forward_hook(note_layer(name))
        for module in net.modules():
            if isinstance(module, LIF):
                module.register_forward_hook(note_neurons)
        try:
            # Two images, as norms need more than one value per channel.
            net(torch.empty(*(() if steps is None else (steps,)), 2, channels, *size))
        except RuntimeError as error:
            raise ConfigError(f"model {model.name} cannot take images of {size[0]}×{size[1]}: {error}") from error
    one = {name: layer._replace(uses=layer.uses // 2) for name, layer in layers.items()}
    return NetworkUse(one, sum(neurons) // 2)

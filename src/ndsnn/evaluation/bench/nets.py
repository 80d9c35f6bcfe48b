"""The contestants of a bench: one network on one batch of random images, in dense torch and on the engine."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ndsnn.engine.module import Accelerated, accelerate
from ndsnn.errors import ConfigError, unknown_name
from ndsnn.losses import mean_step_cross_entropy
from ndsnn.models import MODELS
from ndsnn.sparse.distributions import layer_counts
from ndsnn.sparse.sparsify import sparsify
from ndsnn.sparse.topology import maskable_modules, weight_shape
from ndsnn.training.activity import ActivityMeter

CLASSES = 10
"""Of the networks' readouts."""

CHANNELS = 3
"""Of the images."""

FORMATS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
"""Memory formats that torch may run the dense network in."""


ONEDNN_BLOCK = 16
"""Channels that oneDNN's widest kernels take at a time."""


@dataclass(frozen=True)
class Contestant:
    """A network with its batch.

    Args:
        net: The network.
        images: [N, C, H, W].
        labels: [N] int64.
    """

    net: nn.Module
    images: Tensor
    labels: Tensor

    def step(self) -> None:
        """Take a whole training step but for the optimizer: forward, loss, backward."""
        self.net.zero_grad(set_to_none=True)
        mean_step_cross_entropy(self.net(self.images), self.labels).backward()

    def infer(self) -> None:
        """Compute the logits, without a graph; the network is in evaluation mode."""
        with torch.no_grad():
            self.net(self.images)


@dataclass(frozen=True)
class Workload:
    """A network and a batch of images, drawn from a seed: the same for every contestant.

    The statistics of the norms are those of the last batch, not the mean over many, so that after one training
    step the network fires in evaluation mode as it does in training.

    Args:
        model: A name of `benchable_models`.
        batch: N.
        time_steps: T.
        width: Factor on the numbers of channels.
        image_size: Height and width of the images.
        seed: Of weights, connections, images and labels.
    """

    model: str
    batch: int
    time_steps: int
    width: float = 1.0
    image_size: int = 32
    seed: int = 0

    def check(self, sparsity: float) -> None:
        """Build the network without its weights and spread the alive ones over its layers.

        Raises:
            ConfigError: A setting of the network is out of range.
            SparsityError: The network can't have the sparsity.
        """
        with torch.device("meta"):
            modules = maskable_modules(self._net())
        layer_counts({path: weight_shape(module) for path, module in modules.items()}, sparsity)

    def formats(self) -> tuple[str, ...]:
        """Return the names of `FORMATS` in which torch can train the dense network.

        The weight gradient of a 1×1 convolution with a stride, in channels_last, is written out of bounds where
        there are fewer input channels than fit into a block (oneDNN issue 6035).
        """
        with torch.device("meta"):
            convs = [module for module in self._net().modules() if isinstance(module, nn.Conv2d)]
        broken = any(
            conv.kernel_size == (1, 1) and conv.stride != (1, 1) and conv.in_channels < ONEDNN_BLOCK
            for conv in convs
        )
        return ("nchw",) if broken else tuple(FORMATS)

    def dense(self, memory_format: str) -> Contestant:
        """Return the plain network in torch, with its images, in a format of `FORMATS`."""
        images, labels = self._batch()
        layout = FORMATS[memory_format]
        net = self._net().to(memory_format=layout)
        return Contestant(net, images.contiguous(memory_format=layout), labels)

    def engine(self, sparsity: float, memory: str, precision: str) -> Contestant:
        """Return the network on the native engine, made sparse by ERK.

        Args:
            sparsity: Fraction of zeros.
            memory: As in `accelerate`.
            precision: As in `accelerate`.

        Raises:
            MissingDependencyError: The native engine is not available.
            ConfigError: It has no such precision, or the environment asks for another back end.
        """
        net = sparsify(self._net(), sparsity, generator=torch.Generator().manual_seed(self.seed))
        return Contestant(accelerate(net, memory, precision, backend="native"), *self._batch())

    def _net(self) -> nn.Module:
        build: Callable[..., nn.Module] = MODELS[self.model]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            net = build(num_classes=CLASSES, time_steps=self.time_steps, in_channels=CHANNELS, width=self.width)
        for module in net.modules():
            if isinstance(module, _BatchNorm):
                module.momentum = 1.0
        return net

    def _batch(self) -> tuple[Tensor, Tensor]:
        """Return normalised images and labels at random."""
        generator = torch.Generator().manual_seed(self.seed)
        images = torch.randn(self.batch, CHANNELS, self.image_size, self.image_size, generator=generator)
        return images, torch.randint(CLASSES, (self.batch,), generator=generator)


@dataclass
class Activity:
    """What an accelerated network tells of one pass (an `Observer`).

    Args:
        spikes: Of all neurons.
        chances: Neurons × steps × samples.
        input_rates: For each conv or linear layer the share of its inputs that were not 0.
    """

    spikes: int = 0
    chances: int = 0
    input_rates: dict[str, float] = field(default_factory=dict)

    @property
    def firing_rate(self) -> float:
        """Spikes per neuron and step."""
        return self.spikes / self.chances

    def on_neuron(self, path: str, spikes: int, chances: int) -> None:
        """Count a neuron layer's spikes."""
        self.spikes += spikes
        self.chances += chances

    def on_input(self, layer: str, counts: Tensor, spiking: bool, samples: int) -> None:
        """Note how busy a layer's input is."""
        self.input_rates[layer] = int(counts.sum()) / (counts.numel() * samples)


def engine_activity(contestant: Contestant) -> Activity:
    """Return the activity of an accelerated network in its present mode."""
    net = contestant.net
    assert isinstance(net, Accelerated)
    net.observer = activity = Activity()
    try:
        contestant.infer()
    finally:
        net.observer = None
    return activity


def dense_firing_rate(contestant: Contestant) -> float:
    """Return the spikes per neuron and step of a plain network in its present mode."""
    meter = ActivityMeter(contestant.net)
    with meter.counting():
        contestant.infer()
    return meter.firing_rate


def benchable_models() -> tuple[str, ...]:
    """Return the names of all networks that need no arguments of their own."""
    return tuple(
        name
        for name, build in MODELS.items()
        if all(p.default is not p.empty for p in inspect.signature(build).parameters.values())
    )


def require_model(name: str) -> None:
    """Check that there is such a network.

    Raises:
        ConfigError: There is none.
    """
    known = benchable_models()
    if name not in known:
        raise ConfigError(unknown_name("model", name, known))

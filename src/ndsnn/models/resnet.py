"""Spiking ResNet-19, in the form of the lottery-ticket and NDSNN papers and in that of tdBN."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from ndsnn.models.building import (
    Neuron,
    NeuronFactory,
    buildable,
    initialise,
    norm_factory,
    require_integer,
    scaled,
)
from ndsnn.models.layers import AdaptiveAvgPool2d, BatchNorm2d, Conv2d, Flatten, Linear, RepeatOverTime

STAGE_CHANNELS = (128, 256, 512)
STAGE_BLOCKS = (3, 3, 2)
HIDDEN = 256


class BasicBlock(nn.Module):
    """LIF(norm(conv(LIF(norm(conv(x))))) + shortcut(x)), 3×3 convolutions.

    The shortcut is x itself, or norm(conv 1×1(x)) where the shape changes. Norms whose outputs are added get
    α = 1/√2 (threshold-dependent batch norm only).

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output.
        stride: Stride of the first convolution and of the shortcut.
        neuron: Maker of the neurons.
        make_norm: Maker of the norms, called with the channels and α.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        neuron: NeuronFactory,
        make_norm: Callable[..., BatchNorm2d],
    ) -> None:
        super().__init__()
        added = 1 / math.sqrt(2)
        self.conv1 = Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.norm1 = make_norm(channels)
        self.neuron1 = neuron()
        self.conv2 = Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = make_norm(channels, alpha=added)
        self.shortcut: nn.Sequential | None = None
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                Conv2d(in_channels, channels, 1, stride=stride, bias=False), make_norm(channels, alpha=added)
            )
        self.neuron2 = neuron()

    def forward(self, x: Tensor) -> Tensor:
        """Map spikes [T, N, C, H, W] to spikes [T, N, C', H', W']."""
        y = self.norm2(self.conv2(self.neuron1(self.norm1(self.conv1(x)))))
        return self.neuron2(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet19(nn.Module):
    """Stem, three stages of basic blocks, average pool to 1×1, hidden linear layer with neurons, linear readout.

    Args:
        stem: Channels of the stem's 3×3 convolution.
        strides: Stride of the first block of each stage.
        num_classes: Number of logits.
        time_steps: Steps T.
        in_channels: Channels of the input.
        width: Factor on all numbers of channels and on the hidden layer.
        neuron: Maker of the neurons.
        norm: "bn" or "tdbn".
    """

    def __init__(
        self,
        stem: int,
        strides: Sequence[int],
        num_classes: int,
        time_steps: int,
        in_channels: int,
        width: float,
        neuron: NeuronFactory,
        norm: str,
    ) -> None:
        super().__init__()
        self.time_steps = time_steps
        make_norm = norm_factory(norm, neuron)
        channels = scaled(stem, width)
        self.stem = nn.Sequential(
            Conv2d(in_channels, channels, 3, padding=1, bias=False),
            make_norm(channels),
            RepeatOverTime(time_steps),
            neuron(),
        )
        stages = []
        for base, blocks, stride in zip(STAGE_CHANNELS, STAGE_BLOCKS, strides, strict=True):
            inputs, channels = channels, scaled(base, width)
            stage = [BasicBlock(inputs, channels, stride, neuron, make_norm)]
            stage += [BasicBlock(channels, channels, 1, neuron, make_norm) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(*stage))
        self.stages = nn.Sequential(*stages)
        self.pool = AdaptiveAvgPool2d(1)
        self.flatten = Flatten()
        self.hidden = Linear(channels, scaled(HIDDEN, width), bias=False)
        self.neuron = neuron()
        self.classifier = Linear(scaled(HIDDEN, width), num_classes, bias=False)
        initialise(self, self.classifier)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [T, N, classes] of images [N, C, H, W] or events [T, N, C, H, W].

        Raises:
            ShapeError: The input has other axes, channels or steps.
        """
        features = self.flatten(self.pool(self.stages(self.stem(x))))
        return self.classifier(self.neuron(self.hidden(features)))


@buildable("resnet19")
def resnet19(
    num_classes: int = 10,
    time_steps: int = 5,
    in_channels: int = 3,
    width: float = 1.0,
    neuron: Neuron = None,
    norm: str = "bn",
) -> ResNet19:
    """Build the spiking ResNet-19 of the NDSNN paper: 12,619,968 weights at 10 classes.

    Stem of 64 channels; 3, 3 and 2 blocks of 128, 256 and 512, the first of each with stride 2 (32 → 16 → 8 → 4).

    Args:
        num_classes: Number of logits.
        time_steps: Steps T an image is shown, or the steps of an event input.
        in_channels: Channels of the input.
        width: Factor on all numbers of channels and on the hidden layer, max(1, round(c·width)).
        neuron: What fires: None for `LIF()`, else a neuron to copy, its parameters, or a callable that makes one.
        norm: "bn", or "tdbn" for threshold-dependent batch norm.

    Returns:
        The network, [N, C, H, W] or [T, N, C, H, W] → logits [T, N, num_classes].

    Raises:
        ConfigError: An argument is out of range.
    """
    return _resnet19(64, (2, 2, 2), num_classes, time_steps, in_channels, width, neuron, norm)


@buildable("resnet19_tdbn")
def resnet19_tdbn(
    num_classes: int = 10,
    time_steps: int = 5,
    in_channels: int = 3,
    width: float = 1.0,
    neuron: Neuron = None,
    norm: str = "tdbn",
) -> ResNet19:
    """Build the ResNet-19 of Zheng et al. (AAAI 2021), a wider stem and four times the map of `resnet19`.

    Stem of 128 channels; 3, 3 and 2 blocks of 128, 256 and 512, strides 1, 2, 2 (32 → 32 → 16 → 8).

    Args:
        num_classes: Number of logits.
        time_steps: Steps T an image is shown, or the steps of an event input.
        in_channels: Channels of the input.
        width: Factor on all numbers of channels and on the hidden layer, max(1, round(c·width)).
        neuron: What fires: None for `LIF()`, else a neuron to copy, its parameters, or a callable that makes one.
        norm: "tdbn" for threshold-dependent batch norm, or "bn".

    Returns:
        The network, [N, C, H, W] or [T, N, C, H, W] → logits [T, N, num_classes].

    Raises:
        ConfigError: An argument is out of range.
    """
    return _resnet19(128, (1, 2, 2), num_classes, time_steps, in_channels, width, neuron, norm)


def _resnet19(
    stem: int,
    strides: Sequence[int],
    num_classes: int,
    time_steps: int,
    in_channels: int,
    width: float,
    neuron: Neuron,
    norm: str,
) -> ResNet19:
    return ResNet19(
        stem,
        strides,
        require_integer("num_classes", num_classes),
        require_integer("time_steps", time_steps),
        require_integer("in_channels", in_channels),
        width,
        NeuronFactory(neuron),
        norm,
    )

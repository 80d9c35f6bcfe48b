"""Spiking VGG: blocks of convolution, norm and neuron, with max-pooling of the spikes between them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ndsnn.errors import ConfigError
from ndsnn.models.building import (
    Neuron,
    NeuronFactory,
    buildable,
    initialise,
    norm_factory,
    require_integer,
    scaled,
)
from ndsnn.models.layers import AdaptiveAvgPool2d, Conv2d, Flatten, Linear, MaxPool2d, RepeatOverTime

VGG16_LAYERS: tuple[int | str, ...] = (
    *(64, 64, "M", 128, 128, "M", 256, 256, 256, "M"),
    *(512, 512, 512, "M", 512, 512, 512, "M"),
)
"""Channels of VGG-16's convolutions; "M" is a 2×2 max-pool."""


class VGG(nn.Module):
    """conv 3×3 → norm → neuron for each number of channels, pools between, average pool to 1×1, linear readout.

    The first convolution and norm see an image once; `RepeatOverTime` stands behind them.

    Args:
        layers: Channels of the convolutions, already scaled, and "M" for a 2×2 max-pool.
        num_classes: Number of logits.
        time_steps: Steps T.
        in_channels: Channels of the input.
        neuron: Maker of the neurons.
        norm: "bn" or "tdbn".
    """

    def __init__(
        self,
        layers: Sequence[int | str],
        num_classes: int,
        time_steps: int,
        in_channels: int,
        neuron: NeuronFactory,
        norm: str,
    ) -> None:
        super().__init__()
        self.time_steps = time_steps
        make_norm = norm_factory(norm, neuron)
        features: list[nn.Module] = []
        channels, repeat = in_channels, [RepeatOverTime(time_steps)]
        for layer in layers:
            if isinstance(layer, str):
                features.append(MaxPool2d(2))
                continue
            conv = Conv2d(channels, layer, 3, padding=1, bias=False)
            features += [conv, make_norm(layer), *repeat, neuron()]
            channels, repeat = layer, []
        self.features = nn.Sequential(*features)
        self.pool = AdaptiveAvgPool2d(1)
        self.flatten = Flatten()
        self.classifier = Linear(channels, num_classes, bias=False)
        initialise(self, self.classifier)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [T, N, classes] of images [N, C, H, W] or events [T, N, C, H, W].

        Raises:
            ShapeError: The input has other axes, channels or steps.
        """
        return self.classifier(self.flatten(self.pool(self.features(x))))


def _checked_layers(layers: Sequence[int | str]) -> list[int | str]:
    if isinstance(layers, str) or not isinstance(layers, Sequence):
        raise ConfigError(f'layers must be a list like [32, 32, "M", 64, "M"], got {layers!r}')
    for layer in layers:
        if layer != "M":
            require_integer('an entry of layers other than "M"', layer)
    if all(layer == "M" for layer in layers):
        raise ConfigError(f"layers needs at least one convolution, got {list(layers)!r}")
    return list(layers)


@buildable("vgg")
def vgg(
    layers: Sequence[int | str],
    num_classes: int = 10,
    time_steps: int = 5,
    in_channels: int = 3,
    width: float = 1.0,
    neuron: Neuron = None,
    norm: str = "bn",
) -> VGG:
    """Build a spiking VGG of any depth.

    Args:
        layers: Channels of each 3×3 convolution, and "M" for each 2×2 max-pool: [32, 32, "M", 64, "M"].
        num_classes: Number of logits.
        time_steps: Steps T an image is shown, or the steps of an event input.
        in_channels: Channels of the input.
        width: Factor on all numbers of channels, max(1, round(c·width)).
        neuron: What fires: None for `LIF()`, else a neuron to copy, its parameters, or a callable that makes one.
        norm: "bn", or "tdbn" for threshold-dependent batch norm.

    Returns:
        The network, [N, C, H, W] or [T, N, C, H, W] → logits [T, N, num_classes], for maps of 8×8 and larger.

    Raises:
        ConfigError: An argument is out of range.
    """
    scaled_layers = [c if isinstance(c, str) else scaled(c, width) for c in _checked_layers(layers)]
    return VGG(
        scaled_layers,
        require_integer("num_classes", num_classes),
        require_integer("time_steps", time_steps),
        require_integer("in_channels", in_channels),
        NeuronFactory(neuron),
        norm,
    )


@buildable("vgg16")
def vgg16(
    num_classes: int = 10,
    time_steps: int = 5,
    in_channels: int = 3,
    width: float = 1.0,
    neuron: Neuron = None,
    norm: str = "bn",
) -> VGG:
    """Build the spiking VGG-16 of the NDSNN paper: 14,715,584 weights at 10 classes.

    64-64-M-128-128-M-256×3-M-512×3-M-512×3-M, then the average pool to 1×1 and a linear readout without bias.

    Args:
        num_classes: Number of logits.
        time_steps: Steps T an image is shown, or the steps of an event input.
        in_channels: Channels of the input.
        width: Factor on all numbers of channels, max(1, round(c·width)).
        neuron: What fires: None for `LIF()`, else a neuron to copy, its parameters, or a callable that makes one.
        norm: "bn", or "tdbn" for threshold-dependent batch norm.

    Returns:
        The network, [N, C, H, W] or [T, N, C, H, W] → logits [T, N, num_classes], for maps of 8×8 and larger.

    Raises:
        ConfigError: An argument is out of range.
    """
    return vgg(VGG16_LAYERS, num_classes, time_steps, in_channels, width, neuron, norm)

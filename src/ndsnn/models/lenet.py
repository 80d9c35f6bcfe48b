"""Spiking LeNet-5, the network of the comparison with ADMM pruning."""

from __future__ import annotations

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
from ndsnn.models.layers import AdaptiveAvgPool2d, Conv2d, Flatten, Linear, MaxPool2d, RepeatOverTime, ZeroPad


class LeNet5(nn.Module):
    """conv 6@5×5 → pool → conv 16@5×5 → pool → 120 → 84 → classes, neurons everywhere but behind the last.

    Maps smaller than 32×32 are zero-padded to that size as by LeCun et al. (1998). Larger ones are brought to 5×5
    by an average pool before the linear layers, which is the identity for 32×32. The linear layers have biases.

    Args:
        num_classes: Number of logits.
        time_steps: Steps T.
        in_channels: Channels of the input.
        width: Factor on all numbers of channels and on the hidden layers.
        neuron: Maker of the neurons.
        norm: "bn" or "tdbn", behind the convolutions.
    """

    def __init__(
        self, num_classes: int, time_steps: int, in_channels: int, width: float, neuron: NeuronFactory, norm: str
    ) -> None:
        super().__init__()
        self.time_steps = time_steps
        make_norm = norm_factory(norm, neuron)
        c1, c2, f1, f2 = (scaled(c, width) for c in (6, 16, 120, 84))
        self.features = nn.Sequential(
            ZeroPad(32),
            Conv2d(in_channels, c1, 5, bias=False),
            make_norm(c1),
            RepeatOverTime(time_steps),
            neuron(),
            MaxPool2d(2),
            Conv2d(c1, c2, 5, bias=False),
            make_norm(c2),
            neuron(),
            MaxPool2d(2),
        )
        self.pool = AdaptiveAvgPool2d(5)
        self.flatten = Flatten()
        self.hidden = nn.Sequential(Linear(c2 * 25, f1), neuron(), Linear(f1, f2), neuron())
        self.classifier = Linear(f2, num_classes)
        initialise(self, self.classifier)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [T, N, classes] of images [N, C, H, W] or events [T, N, C, H, W].

        Raises:
            ShapeError: The input has other axes, channels or steps.
        """
        return self.classifier(self.hidden(self.flatten(self.pool(self.features(x)))))


@buildable("lenet5")
def lenet5(
    num_classes: int = 10,
    time_steps: int = 5,
    in_channels: int = 3,
    width: float = 1.0,
    neuron: Neuron = None,
    norm: str = "bn",
) -> LeNet5:
    """Build the spiking LeNet-5.

    Args:
        num_classes: Number of logits.
        time_steps: Steps T an image is shown, or the steps of an event input.
        in_channels: Channels of the input.
        width: Factor on all numbers of channels and on the hidden layers, max(1, round(c·width)).
        neuron: What fires: None for `LIF()`, else a neuron to copy, its parameters, or a callable that makes one.
        norm: "bn", or "tdbn" for threshold-dependent batch norm.

    Returns:
        The network, [N, C, H, W] or [T, N, C, H, W] → logits [T, N, num_classes].

    Raises:
        ConfigError: An argument is out of range.
    """
    return LeNet5(
        require_integer("num_classes", num_classes),
        require_integer("time_steps", time_steps),
        require_integer("in_channels", in_channels),
        width,
        NeuronFactory(neuron),
        norm,
    )

"""A small fully connected spiking network, for inputs without neighbourhood such as the units of a cochlea."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ndsnn.errors import ConfigError
from ndsnn.models.building import Neuron, NeuronFactory, buildable, initialise, require_integer, scaled
from ndsnn.models.layers import Flatten, Linear, RepeatOverTime


class MLP(nn.Module):
    """flatten → (linear → neuron) for each hidden layer → linear readout; all linear layers have biases.

    Args:
        features: Values of one step of the input, C·H·W.
        hidden: Neurons of each hidden layer, already scaled.
        num_classes: Number of logits.
        time_steps: Steps T.
        neuron: Maker of the neurons.
    """

    def __init__(
        self, features: int, hidden: Sequence[int], num_classes: int, time_steps: int, neuron: NeuronFactory
    ) -> None:
        super().__init__()
        self.time_steps = time_steps
        self.repeat = RepeatOverTime(time_steps)
        self.flatten = Flatten()
        layers: list[nn.Module] = []
        for size in hidden:
            layers += [Linear(features, size), neuron()]
            features = size
        self.hidden = nn.Sequential(*layers)
        self.classifier = Linear(features, num_classes)
        initialise(self, self.classifier)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [T, N, classes] of images [N, C, H, W] or events [T, N, C, H, W].

        Raises:
            ShapeError: The input has other axes, values or steps.
        """
        return self.classifier(self.hidden(self.flatten(self.repeat(x))))


@buildable("mlp")
def mlp(
    hidden: Sequence[int] = (256, 256),
    num_classes: int = 10,
    time_steps: int = 5,
    in_channels: int = 3,
    image_size: int | Sequence[int] = (32, 32),
    width: float = 1.0,
    neuron: Neuron = None,
) -> MLP:
    """Build a fully connected spiking network.

    Args:
        hidden: Neurons of each hidden layer, one layer at least.
        num_classes: Number of logits.
        time_steps: Steps T an image is shown, or the steps of an event input.
        in_channels: Channels of the input.
        image_size: Side or (height, width) of the input; (1, 700) for the 700 units of SHD.
        width: Factor on the hidden layers, max(1, round(n·width)).
        neuron: What fires: None for `LIF()`, else a neuron to copy, its parameters, or a callable that makes one.

    Returns:
        The network, [N, C, H, W] or [T, N, C, H, W] → logits [T, N, num_classes].

    Raises:
        ConfigError: An argument is out of range.
    """
    if isinstance(hidden, str) or not isinstance(hidden, Sequence) or not hidden:
        raise ConfigError(f"hidden must be a list of numbers of neurons like [256, 256], got {hidden!r}")
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(size) != 2:
        raise ConfigError(f"image_size must be a side or (height, width), got {image_size!r}")
    height, columns = (require_integer("image_size", side) for side in size)
    return MLP(
        require_integer("in_channels", in_channels) * height * columns,
        [scaled(require_integer("an entry of hidden", neurons), width) for neurons in hidden],
        require_integer("num_classes", num_classes),
        require_integer("time_steps", time_steps),
        NeuronFactory(neuron),
    )

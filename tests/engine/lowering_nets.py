"""Small networks for the tests of the lowering."""

from torch import nn

from ndsnn.models import layers as ln
from ndsnn.neurons import LIF


class Calls(nn.Module):
    """A network of named layers with a forward given as a function of (self, x)."""

    def __init__(self, forward, **modules):
        super().__init__()
        self._call = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self._call(self, x)


def head(channels=4):
    """Average pool, flatten and readout behind a map of `channels`."""
    return nn.Sequential(ln.AdaptiveAvgPool2d(1), ln.Flatten(), ln.Linear(channels, 3))


def stem(channels=4, inputs=2):
    return nn.Sequential(
        ln.Conv2d(inputs, channels, 3, padding=1), ln.BatchNorm2d(channels), ln.RepeatOverTime(3), LIF()
    )


class Repeating(ln.RepeatOverTime):
    """A subclass that changes nothing."""

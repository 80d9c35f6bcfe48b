"""Layers with input for the tests of the native back end: described by a few numbers, the tensors follow."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from hypothesis import strategies as st
from native_sides import ISAS, NativeSide, ReferenceSide
from torch import Tensor

from ndsnn.engine.graph import Synapse
from ndsnn.engine.ops import MapShape


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def whole_or_normal(shape: tuple[int, ...], whole: bool, generator: torch.Generator) -> Tensor:
    """Return float32 values: whole numbers -2 … 2, or normal ones."""
    if whole:
        return torch.randint(-2, 3, shape, generator=generator).float()
    return torch.randn(shape, generator=generator)


@dataclass(frozen=True)
class Connected:
    """A conv or linear layer and what it reads.

    Args:
        synapse: Its geometry.
        positions: Of the alive weights [nnz] int64, None where all are.
        values: Of the alive weights [nnz].
        source: Its input [S, N, C, H, W].
        spiking: Whether the input is held as spikes.
        stored: Whether the current is kept.
    """

    synapse: Synapse
    positions: Tensor | None
    values: Tensor
    source: Tensor
    spiking: bool
    stored: bool

    def on(self, side: NativeSide | ReferenceSide, kept: Any = None) -> Any:
        """Return the current, stored in `kept` or a map of its own; its statistics have not been taken."""
        backend, (height, width) = side.backend, self.source.shape[-2:]
        connections = backend.connections(self.synapse, height, width, self.positions)
        backend.set_values(connections, self.values.to(side.dtype))
        source = (side.spikes if self.spiking else side.floats)(self.source)
        if self.stored and kept is None:
            kept = side.empty(self.shape)
        return backend.current(connections, source, kept)

    @property
    def shape(self) -> MapShape:
        """Shape of the current."""
        steps, _, _, height, width = self.source.shape
        return MapShape(steps, self.synapse.out_channels, *self.synapse.output_size(height, width))

    def absolute(self) -> "Connected":
        """Return the layer whose sums are Σ|terms| of those of this one."""
        return replace(self, values=self.values.abs(), source=self.source.abs(), spiking=False)


@dataclass(frozen=True)
class Layer:
    """Numbers that make a `Connected`.

    Args:
        outputs: Output channels.
        inputs: Input channels.
        kernel: Height and width.
        stride: One for both axes.
        padding: Above and below, left and right.
        size: Height and width of the input.
        density: Of the weights; 1 stands for a layer without index.
        gaps: Whether every other row and column of the weights is empty.
        rate: Firing rate of the input, None for floats.
        steps: S.
        samples: N.
        stored: Whether the current is kept.
        whole: Whether all values are small whole numbers, so that float32 makes no error.
        isa: The instruction set.
        seed: Of all values.
    """

    outputs: int = 4
    inputs: int = 3
    kernel: tuple[int, int] = (3, 3)
    stride: int = 1
    padding: tuple[int, int] = (1, 1)
    size: tuple[int, int] = (6, 5)
    density: float = 0.5
    gaps: bool = False
    rate: float | None = 0.3
    steps: int = 2
    samples: int = 9
    stored: bool = False
    whole: bool = False
    isa: str = ISAS[0]
    seed: int = 0

    @property
    def synapse(self) -> Synapse:
        return Synapse("layer", self.outputs, self.inputs, self.kernel, self.stride, self.padding)

    @property
    def out_size(self) -> tuple[int, int]:
        return self.synapse.output_size(*self.size)

    @property
    def cost(self) -> int:
        """Multiplications of the dense layer."""
        height, width = self.out_size
        weights = self.outputs * self.inputs * self.kernel[0] * self.kernel[1]
        return self.steps * self.samples * height * width * weights

    def connected(self) -> Connected:
        generator = random(self.seed)
        shape = (self.outputs, self.inputs, *self.kernel)
        alive = torch.rand(shape, generator=generator) < self.density
        if self.gaps:
            alive[::2], alive[:, 1::2] = False, False
        positions = None if alive.all() and self.density == 1 else alive.flatten().nonzero().flatten()
        values = whole_or_normal((int(alive.sum()),), self.whole, generator)
        maps = (self.steps, self.samples, self.inputs, *self.size)
        if self.rate is None:
            source = whole_or_normal(maps, self.whole, generator)
        else:
            source = (torch.rand(maps, generator=generator) < self.rate).float()
        return Connected(self.synapse, positions, values, source, self.rate is not None, self.stored)

    def sides(self) -> tuple[NativeSide, ReferenceSide]:
        return NativeSide(self.steps, self.samples, self.isa), ReferenceSide(self.steps, self.samples)


SAMPLES = st.sampled_from([1, 7, 8, 9, 15, 16, 17, 33])
DENSITIES = st.sampled_from([0.0, 0.01, 0.05, 0.2, 0.5, 1.0])
RATES = st.sampled_from([0.0, 0.02, 0.1, 0.3, 0.7, 1.0, None])
CHANNELS = st.one_of(st.integers(1, 7), st.integers(8, 20))
MOST_MULTIPLICATIONS = 10**7


@st.composite
def layers(draw) -> Layer:
    kernel = draw(
        st.one_of(
            st.sampled_from([(1, 1), (3, 3), (5, 5), (7, 7)]),
            st.tuples(st.sampled_from([1, 3, 5, 7]), st.sampled_from([1, 3, 5, 7])),
        )
    )
    padding = tuple(draw(st.one_of(st.just(side // 2), st.integers(0, side))) for side in kernel)
    least = [max(1, side - 2 * pad) for side, pad in zip(kernel, padding, strict=True)]
    size = tuple(draw(st.integers(low, max(20, low))) for low in least)
    layer = Layer(
        outputs=draw(CHANNELS),
        inputs=draw(CHANNELS),
        kernel=kernel,
        stride=draw(st.sampled_from([1, 1, 2])),
        padding=padding,
        size=size,
        density=draw(DENSITIES),
        gaps=draw(st.booleans()),
        rate=draw(RATES),
        steps=draw(st.integers(1, 7)),
        samples=draw(SAMPLES),
        stored=draw(st.booleans()),
        whole=draw(st.booleans()),
        isa=draw(st.sampled_from(ISAS)),
        seed=draw(st.integers(0, 10**6)),
    )
    while layer.cost > MOST_MULTIPLICATIONS:
        if layer.outputs > 2:
            layer = replace(layer, outputs=layer.outputs // 2)
        elif layer.inputs > 2:
            layer = replace(layer, inputs=layer.inputs // 2)
        else:
            layer = replace(layer, samples=layer.samples // 2)
    return layer

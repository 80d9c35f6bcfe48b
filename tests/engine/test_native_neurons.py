"""Neurons of the native back end against the reference in float64."""

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from native_blocks import Block, Summand, check_block
from native_layers import SAMPLES, Layer, random, whole_or_normal
from native_sides import ISAS, NativeSide, few, needs_native
from torch import Tensor

from ndsnn.engine.ops import Affine, MapShape
from ndsnn.neurons import LIFParameters
from ndsnn.surrogates import SURROGATES

pytestmark = needs_native

KINDS = [
    ("current",),
    ("stored",),
    ("floats",),
    ("once current",),
    ("once stored",),
    ("once floats",),
    ("current", "spikes"),
    ("spikes", "stored"),
    ("current", "stored"),
    ("stored", "floats"),
    ("floats", "current"),
    ("current", "spikes", "stored"),
    ("floats", "spikes", "floats"),
    ("current",) * 6,
]
"""What neurons integrate; "once" stands for what is the same at every step."""
SPIKES_ALONE = ("spikes",)
"""They take few values, so that all neurons may reach the threshold at once: for exact arithmetic only."""
DEFAULT = LIFParameters()


@dataclass(frozen=True)
class Neurons:
    """Numbers that make a `Block`.

    Args:
        kinds: One of `KINDS`.
        neuron: Parameters.
        pool: Side of the pool.
        channels: C.
        size: Height and width in front of the pool.
        kernel: Of the layers, for both axes.
        stride: Of the layers.
        inputs: Channels that the first layer reads.
        density: Of the layers.
        rate: Firing rate of all spikes that come in.
        steps: T.
        samples: N.
        whole: Whether nothing is rounded on the way to the spikes (τ and all else have to be powers of 2).
        isa: The instruction set.
        seed: Of all values.
    """

    kinds: tuple[str, ...] = ("current",)
    neuron: LIFParameters = DEFAULT
    pool: int = 1
    channels: int = 3
    size: tuple[int, int] = (5, 6)
    kernel: int = 3
    stride: int = 1
    inputs: int = 2
    density: float = 0.5
    rate: float = 0.3
    steps: int = 4
    samples: int = 9
    whole: bool = False
    isa: str = ISAS[0]
    seed: int = 0

    def block(self) -> Block:
        generator = random(self.seed)
        summands = tuple(self._summand(kind, number, generator) for number, kind in enumerate(self.kinds))
        return Block(summands, self.neuron, self.pool, self.steps, self.samples, self.whole)

    def _summand(self, kind: str, number: int, generator: torch.Generator) -> Summand:
        steps = 1 if kind.startswith("once") else self.steps
        shape = (steps, self.samples, self.channels, *self.size)
        if kind == "spikes":
            return Summand((torch.rand(shape, generator=generator) < self.rate).float(), spiking=True)
        if kind.endswith("floats"):
            return Summand(whole_or_normal(shape, self.whole, generator))
        layer = Layer(
            outputs=self.channels,
            inputs=self.inputs + number,
            kernel=(self.kernel, self.kernel),
            stride=self.stride,
            padding=(self.kernel // 2, self.kernel // 2),
            size=tuple((n - 1) * self.stride + 1 for n in self.size),
            density=self.density,
            rate=None if steps < self.steps else self.rate,
            steps=steps,
            samples=self.samples,
            stored=kind.endswith("stored"),
            whole=self.whole,
            seed=self.seed + number,
        )
        return Summand(layer.connected(), affine=self._affine(generator))

    def _affine(self, generator: torch.Generator) -> Affine:
        scale, shift = torch.rand(2, self.channels, generator=generator, dtype=torch.float64)
        if self.whole:
            return Affine((scale < 0.5).double() / 2 + 0.5, (shift * 8).floor() / 4 - 0.5)
        return Affine(scale - 0.3, shift - 0.3)


NEURONS = st.builds(
    LIFParameters,
    tau=st.sampled_from([1.25, 4 / 3, 2.0, 5.0]),
    v_threshold=st.sampled_from([0.5, 0.7, 1.0]),
    v_reset=st.sampled_from([0.0, -0.25, 0.3, None]),
    decay_input=st.booleans(),
    detach_reset=st.booleans(),
    surrogate=st.sampled_from(sorted(SURROGATES)),
    alpha=st.sampled_from([None, 0.75, 3.0]),
)
EXACT_NEURONS = st.builds(
    LIFParameters,
    tau=st.just(2.0),
    v_threshold=st.sampled_from([0.5, 1.0]),
    v_reset=st.sampled_from([0.0, -0.25, 0.25, None]),
    decay_input=st.booleans(),
    detach_reset=st.booleans(),
    surrogate=st.sampled_from(sorted(SURROGATES)),
    alpha=st.sampled_from([None, 0.5, 2.0]),
)


def neurons(whole: bool) -> st.SearchStrategy[Neurons]:
    return st.builds(
        Neurons,
        kinds=st.sampled_from([*KINDS, SPIKES_ALONE] if whole else KINDS),
        neuron=EXACT_NEURONS if whole else NEURONS,
        pool=st.sampled_from([1, 1, 2, 3, 4]),
        channels=st.integers(1, 6),
        size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
        kernel=st.sampled_from([1, 3, 5]),
        stride=st.sampled_from([1, 2]),
        inputs=st.sampled_from([2, 12]),
        density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
        rate=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
        steps=st.integers(1, 7),
        samples=SAMPLES,
        whole=st.just(whole),
        isa=st.sampled_from(ISAS),
        seed=st.integers(0, 10**6),
    )


TRICKY = [
    Neurons(("once current",), pool=2, size=(5, 7)),
    Neurons(("once stored",), size=(1, 1), samples=17, steps=7),
    Neurons(("once floats",), pool=3, size=(7, 2), samples=1),
    Neurons(("current", "spikes"), LIFParameters(v_reset=None), size=(20, 13)),
    Neurons(("current",), LIFParameters(2.0, 0.5, None, False, False, subtract=0.75), size=(9, 13)),
    Neurons(("stored", "current"), LIFParameters(v_reset=-0.25, detach_reset=False), stride=2, size=(9, 9)),
    Neurons(("floats", "stored"), LIFParameters(decay_input=False, surrogate="sigmoid"), pool=2, size=(1, 9)),
    Neurons(("stored",), LIFParameters(surrogate="triangle", alpha=3.0), pool=4, size=(3, 20), samples=16),
    Neurons(("current",), LIFParameters(surrogate="rectangle"), pool=3, size=(20, 5), samples=33, kernel=5),
    Neurons(SPIKES_ALONE, LIFParameters(2.0, 0.5), rate=1.0, samples=8, steps=1, whole=True),
    Neurons(("current",), density=0.0),
    Neurons(("current",) * 6, inputs=12, channels=6, density=1.0, rate=0.05),
    Neurons(("current", "spikes"), pool=2, inputs=12, channels=6, size=(17, 16), density=1.0, rate=0.05),
]
"""Rests and short axes of pools, one place, one step, and every kind of term, reset and surrogate."""


def with_tricky(test):
    for case in TRICKY:
        test = example(case)(test)
    return test


def check(case: Neurons) -> None:
    check_block(case.block(), NativeSide(case.steps, case.samples, case.isa), case.seed)


class TestBothPasses:
    @few
    @given(neurons(whole=False))
    @with_tricky
    def test_spikes_and_gradients(self, case):
        check(case)

    @few
    @given(neurons(whole=True))
    @example(Neurons(("current",), LIFParameters(2.0, 1.0, 0.0, decay_input=False), whole=True))
    @example(Neurons(("once floats",), LIFParameters(2.0, 1.0, None), pool=2, steps=7, samples=17, whole=True))
    @example(Neurons(("floats",), LIFParameters(2.0, 0.5, 0.0, surrogate="rectangle"), whole=True))
    @example(Neurons(("floats",), LIFParameters(2.0, 0.5, None, detach_reset=False, subtract=0.25), whole=True))
    def test_potentials_that_reach_the_threshold_exactly(self, case):
        """No rounding anywhere: every spike must be that of float64, also where h = ϑ, which fires."""
        check(case)


@pytest.mark.parametrize("v_reset", [-0.25, None])
@pytest.mark.parametrize("kinds", [*KINDS, SPIKES_ALONE], ids=" + ".join)
def test_every_kind_of_input_with_both_resets(kinds, v_reset):
    check(Neurons(kinds, LIFParameters(2.0, 0.5, v_reset, detach_reset=False), pool=2, whole=True))


@pytest.mark.sanitize
@pytest.mark.parametrize("case", TRICKY)
def test_tricky_blocks_stay_on_their_maps(case):
    check(case)


def test_threshold_itself_fires():
    native = NativeSide(1, 1)
    case = replace(Neurons(steps=1, samples=1), neuron=LIFParameters(2.0, 0.5, 0.0))
    just_below = torch.tensor(1.0).nextafter(torch.tensor(0.0))
    x = torch.tensor([1.0, float(just_below)]).view(1, 1, 1, 1, 2)
    block = replace(case.block(), summands=(Summand(x),))
    assert _spikes(block, native).flatten().tolist() == [1, 0]


def test_what_is_not_a_number_does_not_fire():
    native = NativeSide(2, 1)
    x = torch.tensor([torch.nan, torch.inf, -torch.inf, 2.0]).view(1, 1, 1, 1, 4).repeat(2, 1, 1, 1, 1)
    block = replace(Neurons(steps=2, samples=1).block(), summands=(Summand(x),))
    assert _spikes(block, native).view(2, 4).tolist() == [[0, 1, 0, 1], [0, 1, 0, 1]]


def _spikes(block: Block, native: NativeSide) -> Tensor:
    (summand,) = block.summands
    term = summand.on(native)
    steps, _, channels, height, width = summand.source.shape
    out = native.empty(MapShape(steps, channels, height, width), spikes=True)
    native.backend.neuron_forward([term], block.neuron, 1, out)
    return native.backend.unload(out)

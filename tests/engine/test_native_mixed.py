"""Precision "mixed": currents and gradients in fp16, each map scaled by a power of two."""

import math

import pytest
import torch
from engine_nets import small
from native_sides import needs_native

from ndsnn import accelerate
from ndsnn.engine.graph import Synapse
from ndsnn.engine.native import NativeBackend
from ndsnn.engine.ops import Affine, InputTerm, MapShape, Role
from ndsnn.engine.reference import ReferenceBackend
from ndsnn.errors import ConfigError
from ndsnn.losses import mean_step_cross_entropy
from ndsnn.neurons import LIFParameters

pytestmark = needs_native

STEPS, SAMPLES = 3, 9
HALF = 2.0**-11
"""Relative rounding of fp16 in its normal range."""
REPEATER = LIFParameters(decay_input=False)
"""Fires where it gets 2."""


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def difference(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the norm of the difference relative to that of the truth."""
    return float((actual.double() - expected).norm() / expected.norm())


class Bench:
    """Both back ends, each handing out maps one behind the other."""

    def __init__(self, samples: int = SAMPLES) -> None:
        self.samples = samples
        self.native = NativeBackend(STEPS, samples, "mixed")
        self.native.reserve(2**22)
        self.reference = ReferenceBackend(STEPS, samples, torch.float64)
        self.end = 0

    def dtype(self, backend) -> torch.dtype:
        return torch.float32 if backend is self.native else torch.float64

    def map(self, shape: MapShape, role: Role):
        """Return a native map and a reference map."""
        offset, self.end = self.end, self.end + self.native.nbytes(shape, role)
        make = self.native.spikes if role is Role.SPIKES else lambda *at: self.native.floats(*at, role)
        return make(shape, offset), self.reference.floats(shape)

    def gradient(self, values: torch.Tensor):
        maps = self.map(MapShape(STEPS, *values.shape[2:]), Role.GRADIENT)
        self.native.load(values.float(), maps[0])
        self.reference.load(values, maps[1])
        return maps

    def spikes(self, shape: MapShape, seed: int = 1):
        sizes = shape.steps, self.samples, shape.channels, shape.height, shape.width
        fired = (random(*sizes, seed=seed) > 0.5).double()
        maps, values = self.map(shape, Role.SPIKES), self.map(shape, Role.VALUES)
        for backend, into, out in zip((self.native, self.reference), values, maps, strict=True):
            backend.load((2 * fired).to(self.dtype(backend)), into)
            backend.neuron_forward([InputTerm(into, None)], REPEATER, 1, out)
        return maps

    def currents(self, weight: torch.Tensor, size: int, stride: int = 1):
        """Return a conv's currents, stored and measured, of the same spikes."""
        outputs, inputs, kernel, _ = weight.shape
        synapse = Synapse("layer", outputs, inputs, (kernel, kernel), stride, (kernel // 2, kernel // 2))
        sources = self.spikes(MapShape(STEPS, inputs, size, size))
        stored = self.map(MapShape(STEPS, outputs, *synapse.output_size(size, size)), Role.CURRENT)
        made = []
        for backend, source, kept in zip((self.native, self.reference), sources, stored, strict=True):
            connections = backend.connections(synapse, size, size, None)
            backend.set_values(connections, weight.flatten().to(self.dtype(backend)))
            made.append(backend.current(connections, source, kept))
            backend.statistics(made[-1])
        return made, stored


def test_unknown_precision():
    with pytest.raises(ConfigError, match="'half' is not available"):
        NativeBackend(1, 1, "half")


def test_currents_and_gradients_take_half_the_bytes():
    shape = MapShape(3, 4, 6, 8)
    full, mixed = NativeBackend(3, 9), NativeBackend(3, 9, "mixed")
    for role, share in ((Role.CURRENT, 2), (Role.GRADIENT, 2), (Role.VALUES, 1), (Role.SPIKES, 1)):
        # A map is a multiple of 64 bytes.
        assert abs(mixed.nbytes(shape, role) - full.nbytes(shape, role) / share) <= 64


@pytest.mark.parametrize("size", [1e-30, 1e-9, 1.0, 1e12])
def test_gradients_of_any_size_keep_their_digits(size):
    values = random(STEPS, SAMPLES, 2, 3, 4) * size
    bench = Bench()
    native, _ = bench.gradient(values)
    error = (bench.native.unload(native).double() - values).abs()
    # In units of the rms, fp16 is in its normal range from 2⁻¹⁴ on.
    assert bool((error <= HALF * values.abs() + 2.0**-24 * size).all())
    assert math.log2(native.scale).is_integer()


def test_no_gradient_stays_none():
    bench = Bench()
    native, _ = bench.gradient(torch.zeros(STEPS, SAMPLES, 2, 3, 4))
    assert not bench.native.unload(native).any()
    other, _ = bench.gradient(random(STEPS, SAMPLES, 2, 3, 4) * 1e-8)
    expected = bench.native.unload(other)
    bench.native.add(other, native)
    assert torch.equal(bench.native.unload(native), expected)


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e9])
def test_stored_current_uses_the_range_and_cannot_leave_it(size):
    """Also where every input fires and every weight has one sign."""
    weight = random(5, 9, 3, 3).abs() * size
    bench = Bench()
    (current, truth), (kept, _) = bench.currents(weight, 6)
    raw, y = bench.native.unload(kept).double(), bench.reference.evaluate(truth).double()
    assert bool(raw.isfinite().all())
    factor = float((raw.sum() / y.sum()).log2().round().exp2())
    assert difference(raw / factor, y) <= HALF
    largest = float(weight.sum((1, 2, 3)).max()) * factor
    assert 16384 < largest <= 32768
    assert torch.equal(bench.native.statistics(current)[0], bench.native.statistics(current)[0])


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("weights", "gradients"), [(1.0, 1.0), (1e-6, 1e-9), (1e4, 1e5), (1e5, 1e-12)])
def test_way_back_through_a_synapse(weights, gradients, stride):
    """Weights are whole multiples of `weights`, so that y is exact in fp16 and only gradients are rounded."""
    unit = 2.0 ** round(math.log2(weights))
    weight = random(6, 5, 3, 3).mul(2).round() * unit
    bench = Bench()
    currents, _ = bench.currents(weight, 8, stride)
    side = 8 // stride
    grad_x = bench.gradient(random(STEPS, SAMPLES, 6, side, side, seed=3) * gradients)
    a = torch.full((6,), 0.7, dtype=torch.float64)
    affine = a, a * (gradients / weights / 50), a * (gradients / 50)
    sources = bench.map(MapShape(STEPS, 5, 8, 8), Role.GRADIENT)
    pieces: tuple[list, list] = ([], [])
    results = [
        backend.synapse_backward(
            current, one, affine, into, False, lambda _, piece, kept=kept: kept.append(piece.double())
        )
        for backend, current, one, into, kept in zip(
            (bench.native, bench.reference), currents, grad_x, sources, pieces, strict=True
        )
    ]
    # ∂L/∂x is rounded once, ∂L/∂source twice.
    assert difference(results[0], results[1]) <= HALF
    assert difference(torch.cat(pieces[0]), torch.cat(pieces[1])) <= HALF
    assert difference(bench.native.unload(sources[0]), sources[1]) <= 2 * HALF
    assert 2.0**-3 <= float(sources[1].square().mean().sqrt()) * sources[0].scale <= 2.0**3

    for backend, current, one, into in zip(
        (bench.native, bench.reference), currents, grad_x, sources, strict=True
    ):
        backend.synapse_backward(current, one, affine, into, True, None)
    assert difference(bench.native.unload(sources[0]), sources[1]) <= 3 * HALF


@pytest.mark.parametrize("size", [1e-10, 1e6])
@pytest.mark.parametrize("pool", [1, 2])
def test_way_back_through_neurons(size, pool):
    weight = random(6, 5, 3, 3).mul(2).round() / 4
    bench = Bench()
    currents, _ = bench.currents(weight, 8)
    affine = Affine(torch.full((6,), 0.3, dtype=torch.float64), torch.full((6,), 0.1, dtype=torch.float64))
    neuron = LIFParameters()
    grad_out = bench.gradient(random(STEPS, SAMPLES, 6, 8 // pool, 8 // pool, seed=4) * size)
    fired = bench.map(MapShape(STEPS, 6, 8 // pool, 8 // pool), Role.SPIKES)
    into = bench.map(MapShape(STEPS, 6, 8, 8), Role.GRADIENT)
    sums = []
    for backend, current, out, source, target in zip(
        (bench.native, bench.reference), currents, fired, grad_out, into, strict=True
    ):
        terms = [InputTerm(current, affine)]
        backend.neuron_forward(terms, neuron, pool, out)
        sums.append(backend.neuron_backward(terms, neuron, pool, source, target))
    assert torch.equal(bench.native.unload(fired[0]).double(), fired[1])
    assert difference(bench.native.unload(into[0]), into[1]) <= 2 * HALF
    terms = into[1].abs().sum((0, 1, 3, 4))
    assert bool(((sums[0].sum_gx - sums[1].sum_gx).abs() <= 2 * HALF * terms).all())
    y = bench.reference.evaluate(currents[1]).double()
    terms = (into[1] * y).abs().sum((0, 1, 3, 4))
    assert bool(((sums[0].sum_gx_y[0] - sums[1].sum_gx_y[0]).abs() <= 2 * HALF * terms).all())


@pytest.mark.parametrize("ratio", [1e-3, 1.0, 1e3])
def test_gradients_of_different_scales_are_added(ratio):
    """By a pool and as they are."""
    first, second, third = (random(STEPS, SAMPLES, 4, 6, 6, seed=seed) for seed in (5, 6, 7))
    second, third = second[..., ::2, ::2] * ratio, third[..., ::2, ::2] * ratio
    bench = Bench()
    into, spikes = bench.gradient(first), bench.spikes(MapShape(STEPS, 4, 6, 6))
    for backend, target, source, average, largest in zip(
        (bench.native, bench.reference),
        into,
        spikes,
        bench.gradient(second),
        bench.gradient(third),
        strict=True,
    ):
        backend.avg_pool_backward(average, target, 2, True)
        backend.max_pool_backward(source, 2, largest, target, True)
    assert difference(bench.native.unload(into[0]), into[1]) <= 4 * HALF
    other = bench.gradient(first * ratio * 3)
    for backend, target, source in zip((bench.native, bench.reference), into, other, strict=True):
        backend.add(source, target)
    assert difference(bench.native.unload(into[0]), into[1]) <= 5 * HALF


@pytest.mark.parametrize("model", ["vgg", "vgg16", "resnet19", "lenet5"])
def test_gradients_of_a_network(model):
    """Currents are computed again rather than stored, so that all neurons fire as they do in fp32."""
    net = small(model).float()
    x = random(4, 3, 32, 32).float()
    y = torch.arange(4)
    gradients = {}
    for precision in ("fp32", "mixed"):
        accelerated = accelerate(net, memory="recompute", precision=precision, backend="native")
        accelerated.zero_grad()
        mean_step_cross_entropy(accelerated(x), y).backward()
        gradients[precision] = {n: p.grad.clone() for n, p in accelerated.named_parameters() if p.grad is not None}
    assert gradients["fp32"].keys() == gradients["mixed"].keys()
    for name, expected in gradients["fp32"].items():
        if expected.norm() > 0:
            assert difference(gradients["mixed"][name], expected.double()) <= 16 * HALF, name


def test_same_bits_for_any_number_of_threads():
    net = small("resnet19").float()
    x = random(9, 3, 32, 32).float()
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            accelerated = accelerate(net, memory="store", precision="mixed", backend="native")
            accelerated.zero_grad()
            mean_step_cross_entropy(accelerated(x), torch.arange(9) % 7).backward()
            found.append([p.grad.clone() for p in accelerated.parameters() if p.grad is not None])
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spikingjelly.activation_based import neuron as sj_neuron
from spikingjelly.activation_based import surrogate as sj_surrogate

from ndsnn.errors import ConfigError, ShapeError
from ndsnn.neurons import LIF, LIFParameters, lif
from ndsnn.surrogates import SURROGATES, spike

SJ_SURROGATES = {
    "atan": sj_surrogate.ATan,
    "sigmoid": sj_surrogate.Sigmoid,
    "triangle": sj_surrogate.PiecewiseQuadratic,
    "rectangle": sj_surrogate.Rect,
}


def sj_lif(p: LIFParameters) -> sj_neuron.LIFNode:
    surrogate = SJ_SURROGATES[p.surrogate](**({} if p.alpha is None else {"alpha": p.alpha}))
    return sj_neuron.LIFNode(
        tau=p.tau,
        decay_input=p.decay_input,
        v_threshold=p.v_threshold,
        v_reset=p.v_reset,
        surrogate_function=surrogate,
        detach_reset=p.detach_reset,
        step_mode="m",
        store_v_seq=True,
    )


def currents(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """Currents around the thresholds in use: some neurons fire at every step, some never."""
    x = 0.7 + 1.5 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x.to(dtype)


def assert_same_as_spikingjelly(p: LIFParameters, x: torch.Tensor) -> None:
    ours_x, theirs_x = x.clone().requires_grad_(), x.clone().requires_grad_()
    ours = lif(ours_x, parameters=p)
    theirs = sj_lif(p)
    their_spikes = theirs(theirs_x)
    torch.testing.assert_close(ours.spikes, their_spikes, rtol=0, atol=0)
    torch.testing.assert_close(ours.potentials, theirs.v_seq, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.v, theirs.v, rtol=0, atol=1e-6)
    weight = currents(*x.shape, dtype=x.dtype, seed=1)
    (ours.spikes * weight).sum().backward()
    (their_spikes * weight).sum().backward()
    assert ours_x.grad.abs().sum() > 0 or p.surrogate in ("triangle", "rectangle")
    torch.testing.assert_close(ours_x.grad, theirs_x.grad, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("surrogate", SJ_SURROGATES)
@pytest.mark.parametrize("detach_reset", [True, False])
@pytest.mark.parametrize("decay_input", [True, False])
@pytest.mark.parametrize("v_reset", [0.0, None, -0.25])
def test_equals_spikingjelly(v_reset, decay_input, detach_reset, surrogate, dtype):
    for tau, v_threshold in [(4 / 3, 1.0), (2.0, 0.5), (1.05, 1.0), (20.0, 0.3)]:
        p = LIFParameters(tau, v_threshold, v_reset, decay_input, detach_reset, surrogate)
        assert_same_as_spikingjelly(p, currents(6, 3, 7, dtype=dtype))


@pytest.mark.parametrize("surrogate", SJ_SURROGATES)
def test_alpha_equals_spikingjelly(surrogate):
    for alpha in (0.7, 3.0):
        p = LIFParameters(detach_reset=False, surrogate=surrogate, alpha=alpha)
        assert_same_as_spikingjelly(p, currents(5, 2, 40, dtype=torch.float64))


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), min_size=2, max_size=5),
    tau=st.floats(1.01, 50),
    v_threshold=st.floats(0.1, 3),
    v_reset=st.one_of(st.none(), st.floats(-2, 0.05)),
    flags=st.tuples(st.booleans(), st.booleans()),
    surrogate=st.sampled_from(sorted(SURROGATES)),
)
def test_equals_spikingjelly_on_any_shape(shape, tau, v_threshold, v_reset, flags, surrogate):
    p = LIFParameters(tau, v_threshold, v_reset, *flags, surrogate)
    assert_same_as_spikingjelly(p, currents(*shape, dtype=torch.float64))


@pytest.mark.parametrize("name", SURROGATES)
def test_derivative_is_spikingjellys(name):
    x = torch.linspace(-3, 3, 601, dtype=torch.float64) + 1e-4
    for alpha in (None, 0.5, 5.0):
        a = x.clone().requires_grad_()
        b = x.clone().requires_grad_()
        spike(a, name, alpha).sum().backward()
        SJ_SURROGATES[name](**({} if alpha is None else {"alpha": alpha}))(b).sum().backward()
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["atan", "sigmoid", "triangle", "rectangle"])
def test_derivative_has_area_one(name):
    derivative, alpha = SURROGATES[name]
    x = torch.linspace(-2000, 2000, 4_000_001, dtype=torch.float64)
    assert torch.trapezoid(derivative(x, alpha), x).item() == pytest.approx(1, abs=2e-3)


def test_derivatives_by_hand():
    x = torch.tensor([0.0, 0.5, -0.25], dtype=torch.float64)

    def grad(name, alpha=None):
        y = x.clone().requires_grad_()
        spike(y, name, alpha).sum().backward()
        return y.grad.tolist()

    assert grad("atan") == pytest.approx([1, 1 / (1 + math.pi**2 / 4), 1 / (1 + math.pi**2 / 16)])
    assert grad("sigmoid")[0] == pytest.approx(1.0)
    assert grad("triangle") == pytest.approx([1.0, 0.5, 0.75])
    assert grad("rectangle") == pytest.approx([1.0, 0.0, 1.0])
    assert grad("rectangle", 0.5) == pytest.approx([0.5, 0.5, 0.5])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", SURROGATES)
def test_spike_is_heaviside_in_every_dtype(name, dtype):
    tiny = torch.finfo(dtype).tiny
    x = torch.tensor(
        [-1.0, -tiny, -0.0, 0.0, tiny, math.inf, -math.inf, math.nan], dtype=dtype, requires_grad=True
    )
    y = spike(x, name)
    assert y.dtype == dtype
    assert y.tolist() == [0, 0, 1, 1, 1, 1, 0, 0]
    y.sum().backward()
    assert x.grad.dtype == dtype
    assert (x.grad[1:5] > 0).all()
    assert x.grad[5:7].tolist() == [0, 0]


def test_hard_reset_by_hand():
    # tau = 4/3, decay_input: h = v/4 + 3x/4.
    x = torch.tensor([1.0, 1.0, 2.0, 0.0, 4 / 3]).reshape(5, 1)
    out = lif(x)
    #           h = 0.75  0.9375  1.734 -> reset  0  1.0 -> fires at the threshold itself
    assert out.spikes.flatten().tolist() == [0, 0, 1, 0, 1]
    assert out.potentials.flatten().tolist() == [0.75, 0.9375, 0.0, 0.0, 0.0]
    assert out.v.tolist() == [0.0]


def test_soft_reset_by_hand():
    # tau = 2, no decay of the input: h = v/2 + x; threshold 1 is subtracted.
    p = LIFParameters(tau=2.0, v_reset=None, decay_input=False)
    out = lif(torch.tensor([0.5, 0.75, 2.5, 0.0]).reshape(4, 1), parameters=p)
    #  h = 0.5, 1.0 (fires), 2.5 (fires, 1.5 left), 0.75
    assert out.spikes.flatten().tolist() == [0, 1, 1, 0]
    assert out.potentials.flatten().tolist() == [0.5, 0.0, 1.5, 0.75]


def test_soft_reset_by_another_amount_by_hand():
    # tau = 2, no decay of the input: h = v/2 + x; 2 is subtracted, which is 1 of the decayed potential.
    p = LIFParameters(tau=2.0, v_reset=None, decay_input=False, subtract=2.0)
    out = lif(torch.tensor([0.5, 0.75, 2.5, 0.0]).reshape(4, 1), parameters=p)
    #  h = 0.5, 1.0 (fires, −1 left), 2.0 (fires, 0 left), 0
    assert out.spikes.flatten().tolist() == [0, 1, 1, 0]
    assert out.potentials.flatten().tolist() == [0.5, -1.0, 0.0, 0.0]


@pytest.mark.parametrize("beta", [0.25, 0.875])
def test_soft_reset_of_the_decayed_potential_equals_snntorch(beta):
    """snnTorch's default takes θ from β·U: the same as θ/β from U."""
    snntorch = pytest.importorskip("snntorch")
    x = currents(8, 4, 60, dtype=torch.float64).requires_grad_()
    leaky = snntorch.Leaky(beta=beta, threshold=0.75, spike_grad=snntorch.surrogate.atan(alpha=2.0)).double()
    membrane, theirs = leaky.reset_mem(), []
    for current in x:
        fired, membrane = leaky(current, membrane)
        theirs.append(fired)
    theirs = torch.stack(theirs)
    weights = torch.rand(theirs.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (expected,) = torch.autograd.grad((theirs * weights).sum(), x)
    p = LIFParameters(1 / (1 - beta), 0.75, None, False, True, "atan", 2.0, subtract=0.75 / beta)
    mine = lif(x, parameters=p).spikes
    assert 0.05 < float(mine.detach().mean()) < 0.95
    assert torch.equal(mine, theirs)
    torch.testing.assert_close(
        torch.autograd.grad((mine * weights).sum(), x)[0], expected, rtol=1e-6, atol=1e-7
    )  # its spikes are float32


@pytest.mark.parametrize(("v_reset", "subtract"), [(0.0, 1.0), (None, 0.0), (None, -1.0), (None, float("nan"))])
def test_bad_soft_reset(v_reset, subtract):
    with pytest.raises(ConfigError, match="subtract"):
        LIFParameters(v_reset=v_reset, subtract=subtract)


def test_reset_potential_by_hand():
    # tau = 2, v_reset = -1: starts at -1 and decays towards it; h = v + (x - (v + 1)) / 2.
    p = LIFParameters(tau=2.0, v_threshold=0.5, v_reset=-1.0)
    out = lif(torch.tensor([2.0, 3.0, 1.0]).reshape(3, 1), parameters=p)
    #  h = -1 + 1 = 0;  0 + (3 - 1)/2 = 1 (fires);  -1 + 1/2
    assert out.spikes.flatten().tolist() == [0, 1, 0]
    assert out.potentials.flatten().tolist() == [0.0, -1.0, -0.5]


def test_detached_reset_gradient_by_hand():
    # Rectangle: u' = 1 within 1/2 of the threshold. h1 = 1.2 fires, h2 = 0.75 x2 + v1 / 4 = 0.9 does not.
    x = torch.tensor([[1.6], [1.2]], dtype=torch.float64)
    expected = {True: 0.75 * 1.0, False: 0.75 * (1.0 + 0.25 * (0.0 - 1.2))}
    for detach, gradient in expected.items():
        y = x.clone().requires_grad_()
        lif(y, parameters=LIFParameters(detach_reset=detach, surrogate="rectangle")).spikes.sum().backward()
        assert y.grad[0].item() == pytest.approx(gradient)
        assert y.grad[1].item() == pytest.approx(0.75)


@pytest.mark.parametrize("detach_reset", [True, False])
def test_hard_reset_of_infinity_is_no_nan(detach_reset):
    x = torch.tensor([[math.inf], [0.5], [2.0]])
    out = lif(x, parameters=LIFParameters(detach_reset=detach_reset))
    assert out.spikes.flatten().tolist() == [1, 0, 1]
    assert out.potentials.flatten().tolist() == [0, 0.375, 0]


@pytest.mark.parametrize("v_reset", [0.0, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_spikes_are_zeros_and_ones(dtype, v_reset):
    out = lif(currents(8, 4, 50, dtype=dtype), parameters=LIFParameters(v_reset=v_reset))
    assert out.spikes.dtype == out.potentials.dtype == dtype
    assert set(out.spikes.unique().tolist()) == {0.0, 1.0}


def test_v0_continues_a_run():
    x = currents(6, 2, 9)
    for p in (LIFParameters(), LIFParameters(v_reset=None)):
        whole = lif(x, parameters=p)
        first = lif(x[:2], parameters=p)
        second = lif(x[2:], first.v, p)
        assert torch.equal(torch.cat([first.spikes, second.spikes]), whole.spikes)
        assert torch.equal(second.v, whole.v)


def test_gradient_reaches_v0():
    v0 = torch.full((2, 3), 0.5, requires_grad=True)
    lif(currents(3, 2, 3), v0).spikes.sum().backward()
    assert v0.grad.abs().sum() > 0


def test_module_equals_function_and_is_stateless():
    x = currents(5, 3, 4, 4)
    layer = LIF(tau=2.0, v_threshold=0.5, v_reset=None)
    expected = lif(x, parameters=LIFParameters(tau=2.0, v_threshold=0.5, v_reset=None)).spikes
    assert torch.equal(layer(x), expected)
    assert torch.equal(layer(x), expected)
    assert layer.v is None


def test_stateful_module_goes_on_until_reset():
    x = currents(6, 2, 9)
    layer = LIF(stateful=True)
    whole = LIF()(x)
    assert torch.equal(torch.cat([layer(x[:2]), layer(x[2:])]), whole)
    assert torch.equal(layer.v, lif(x).v)
    layer.v = torch.ones(2, 9)
    assert not torch.equal(layer(x), whole)
    layer.reset()
    assert layer.v is None
    assert torch.equal(layer(x), whole)


def test_state_is_detached_and_not_saved():
    layer = LIF(stateful=True)
    x = currents(3, 2, 5).requires_grad_()
    for _ in range(2):
        layer(x).sum().backward()
    assert not layer.v.requires_grad
    assert layer.state_dict() == {}
    assert torch.equal(copy.deepcopy(layer).v, layer.v)


def test_state_of_another_shape_says_reset():
    layer = LIF(stateful=True)
    layer(currents(3, 2, 5))
    with pytest.raises(ShapeError, match=r"\[2, 5\].*\[3, 4, 5\].*reset\(\)"):
        layer(currents(3, 4, 5))


@pytest.mark.parametrize("shape", [(5,), (), (0, 3)])
def test_wrong_input_shape(shape):
    with pytest.raises(ShapeError, match=r"\[T, N, \*\] with T >= 1"):
        LIF()(torch.zeros(shape))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tau": 1.0}, "tau must be above 1"),
        ({"tau": math.inf}, "tau must be a finite number, got inf"),
        ({"tau": "2"}, "tau must be a finite number"),
        ({"tau": True}, "tau must be a finite number"),
        ({"v_threshold": math.nan}, "v_threshold must be a finite number"),
        ({"v_threshold": None}, "v_threshold must be a finite number"),
        ({"v_threshold": 0.0}, r"v_threshold \(0.0\) must be above v_reset \(0.0\)"),
        ({"v_reset": 2}, "must be above v_reset"),
        ({"decay_input": 1}, "decay_input must be true or false"),
        ({"detach_reset": "no"}, "detach_reset must be true or false"),
        ({"surrogate": "atna"}, "unknown surrogate 'atna'; did you mean 'atan'"),
        ({"surrogate": None}, "unknown surrogate"),
        ({"alpha": 0}, "alpha must be a finite number above 0"),
        ({"alpha": math.inf}, "alpha must be a finite number above 0"),
    ],
)
def test_bad_parameters(arguments, message):
    for make in (LIFParameters, LIF):
        with pytest.raises(ConfigError, match=message):
            make(**arguments)


def test_unknown_surrogate_of_spike():
    with pytest.raises(ConfigError, match="did you mean 'triangle'"):
        spike(torch.zeros(2), "triangel")


def test_config_and_repr_name_every_field():
    layer = LIF(2, 1.5, None, False, False, "sigmoid", alpha=3, stateful=True)
    assert layer.config == LIFParameters(2.0, 1.5, None, False, False, "sigmoid", 3)
    text = repr(layer)
    for part in ("tau=2.0", "v_threshold=1.5", "v_reset=None", "surrogate='sigmoid'", "alpha=3", "stateful=True"):
        assert part in text
    assert LIF.from_config(layer.config).config == layer.config


def test_soft_reset_takes_any_finite_threshold():
    for v_threshold in (-1.0, 0.0):
        assert LIFParameters(v_threshold=v_threshold, v_reset=None).v_threshold == v_threshold


def test_compiles_to_one_graph():
    layer = LIF(detach_reset=False)
    x = currents(3, 2, 5)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    layer(a).sum().backward()
    compiled(b).sum().backward()
    assert torch.equal(compiled(x), layer(x))
    torch.testing.assert_close(a.grad, b.grad)

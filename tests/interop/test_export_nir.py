"""NIR files: exact where NIR has the words, refused or declared where not; other people's simulators agree."""

import nir
import numpy as np
import pytest
import torch
from export_nets import noise, residual, small_vgg, sparse
from torch import nn

import ndsnn
from ndsnn.errors import ConfigError, ExportError
from ndsnn.interop.export.agreement import nir_agreement
from ndsnn.interop.export.folding import fold
from ndsnn.interop.export.nir import DEFAULT_DT, to_nir
from ndsnn.interop.export.simulation import simulate
from ndsnn.models import layers

NEURONS = [{}, {"tau": 2.0, "decay_input": False, "v_threshold": 0.8}]


def plain_net(**neuron):
    """A network that NIR can say all of: no max-pool."""
    return nn.Sequential(
        layers.Conv2d(2, 6, 3, padding=1, bias=False),
        layers.BatchNorm2d(6),
        layers.RepeatOverTime(5),
        ndsnn.LIF(**neuron),
        layers.Conv2d(6, 8, 3, stride=2, bias=True),
        ndsnn.LIF(**neuron),
        layers.Flatten(),
        layers.Linear(8 * 3 * 2, 12),
        ndsnn.LIF(**neuron),
        layers.Linear(12, 4, bias=False),
    )


def exported(net, shape, tmp_path, **options):
    network = fold(net, shape)
    made = to_nir(network, **options)
    made.write(tmp_path / "net.nir")
    return network, nir.read(tmp_path / "net.nir"), made


def agreements(net, shape, tmp_path, simulators, images=16, **options):
    network, _, _ = exported(net, shape, tmp_path, **options)
    x = noise(images, *shape)
    expected = simulate(network, x)
    assert all(0 < spikes.mean() < 1 for spikes in expected.spikes.values())
    return [nir_agreement(tmp_path / "net.nir", network, x, expected, name) for name in simulators]


def require_agreement(found, expected_layers, spikes=1.0):
    for agreement in found:
        assert len(agreement.spikes) == expected_layers, agreement.simulator
        assert min(agreement.spikes.values()) >= spikes, agreement
        assert agreement.predictions == 1.0, agreement
        assert agreement.largest_difference <= 1e-5 * max(agreement.largest_logit, 1), agreement


@pytest.mark.parametrize("neuron", NEURONS)
def test_two_simulators_agree_without_loss(tmp_path, neuron):
    net = sparse(plain_net(**neuron))
    require_agreement(agreements(net, (2, 8, 6), tmp_path, ["snntorch", "spikingjelly"]), 3)


def test_norse_agrees_where_r_is_1(tmp_path):
    pytest.importorskip("norse")
    require_agreement(agreements(sparse(plain_net()), (2, 8, 6), tmp_path, ["norse"]), 3)
    with pytest.raises(ExportError, match="takes R = 1"):
        agreements(sparse(plain_net(**NEURONS[1])), (2, 8, 6), tmp_path, ["norse"])


@pytest.mark.parametrize("neuron", NEURONS)
def test_residual_networks_agree_without_loss(tmp_path, neuron):
    net = sparse(residual(neuron=neuron))
    require_agreement(agreements(net, (3, 16, 16), tmp_path, ["snntorch", "spikingjelly"], 4), 18)


def test_another_reset_potential_is_v_leak_too(tmp_path):
    net = sparse(plain_net(v_reset=-0.25, tau=1.5))
    require_agreement(agreements(net, (2, 8, 6), tmp_path, ["spikingjelly"]), 3)


def test_max_pool_in_other_words_is_exact_in_steps(tmp_path):
    net = sparse(small_vgg())
    found = agreements(net, (1, 11, 9), tmp_path, ["snntorch", "spikingjelly"], allow_lossy=True)
    require_agreement(found, 3)


def test_lenet_reads_padded_images(tmp_path):
    net = sparse(ndsnn.models.lenet5(4, 3, 1))
    found = agreements(net, (1, 28, 28), tmp_path, ["snntorch", "spikingjelly", "norse"], 4, allow_lossy=True)
    require_agreement(found, 4)
    with pytest.raises(ExportError, match=r"features\.1.*even height"):
        exported(net, (1, 27, 28), tmp_path, allow_lossy=True)


def test_soft_reset_is_another_neuron(tmp_path):
    """What is declared as lossy is lossy: the agreement says how much."""
    net = sparse(plain_net(v_reset=None))
    with pytest.raises(ExportError, match=r"'3': NIR has no soft reset.*--allow-lossy"):
        exported(net, (2, 8, 6), tmp_path)
    (found,) = agreements(net, (2, 8, 6), tmp_path, ["spikingjelly"], allow_lossy=True)
    assert 0.5 < min(found.spikes.values()) < 1
    graph = nir.read(tmp_path / "net.nir")
    assert graph.metadata["lossy"].count("soft reset") == 3


def test_max_pool_is_refused_and_declared(tmp_path):
    net = sparse(small_vgg())
    with pytest.raises(ExportError, match=r"features\.4.*max-pool over 2×2.*--allow-lossy"):
        exported(net, (1, 8, 8), tmp_path)
    assert not (tmp_path / "net.nir").exists()
    _, graph, made = exported(net, (1, 8, 8), tmp_path, allow_lossy=True)
    assert [line.split(":")[0] for line in made.lossy] == ["features.4", "features.8"]
    assert graph.metadata["lossy"] == "; ".join(made.lossy)


@pytest.mark.parametrize(
    ("neuron", "r"), [({"tau": 2.0, "v_reset": -0.5}, 1.0), ({"tau": 2.0, "decay_input": False}, 2.0)]
)
def test_parameters_and_metadata(tmp_path, neuron, r):
    net = sparse(plain_net(**neuron))
    network, graph, _ = exported(net, (2, 8, 6), tmp_path, dt=1e-3)
    lif = graph.nodes["3"]
    assert lif.v_threshold.shape == (6, 8, 6)
    for name, value in (
        ("tau", 2e-3),
        ("r", r),
        ("v_leak", neuron.get("v_reset", 0.0)),
        ("v_reset", neuron.get("v_reset", 0.0)),
        ("v_threshold", 1.0),
    ):
        assert (getattr(lif, name) == value).all(), name
    assert (graph.metadata["dt"], graph.metadata["time_steps"], graph.metadata["lossy"]) == (1e-3, 5, "")
    weight = graph.nodes["0"].weight
    assert np.array_equal(weight, network.synapses()[0].dense())
    zeros = weight[weight == 0]
    assert len(zeros) > 0
    assert not np.signbit(zeros).any()
    assert isinstance(graph.nodes["9"], nir.Linear)
    assert isinstance(graph.nodes["7"], nir.Affine)


def test_one_euler_step_is_the_charge():
    """The mapping itself, by the formula of NIR and that of ndsnn, in numbers."""
    generator = np.random.default_rng(0)
    for neuron in (ndsnn.LIFParameters(3.0, 1.0, -0.5, True), ndsnn.LIFParameters(3.0, 1.0, 0.0, False)):
        net = sparse(plain_net(**{k: getattr(neuron, k) for k in ("tau", "v_reset", "decay_input")}))
        lif = to_nir(fold(net, (2, 8, 6))).graph.nodes["3"]
        for x in generator.uniform(-1, 1, 20):
            v = neuron.v_reset
            euler = v + DEFAULT_DT / lif.tau[0, 0, 0] * (lif.v_leak[0, 0, 0] - v + lif.r[0, 0, 0] * x)
            # One step from rest; below the threshold the potential after it is the charge.
            potential = ndsnn.lif(torch.tensor([[x]]), None, neuron).potentials.item()
            assert euler == pytest.approx(potential, abs=1e-6) or potential == neuron.v_reset


def test_a_kernel_that_is_not_square(tmp_path):
    net = plain_net()
    net[4] = layers.Conv2d(6, 8, (1, 3), stride=2, padding=(0, 1))
    net[7] = layers.Linear(8 * 4 * 3, 12)
    require_agreement(agreements(sparse(net), (2, 8, 6), tmp_path, ["snntorch", "spikingjelly"]), 3)


def test_windows_of_different_size_are_refused(tmp_path):
    with pytest.raises(ExportError, match=r"'pool' averages a map of 8×8 over windows of different size"):
        exported(sparse(ndsnn.models.lenet5(4, 2, 1)), (1, 44, 44), tmp_path, allow_lossy=True)


@pytest.mark.parametrize("dt", [0.0, -1.0, float("nan"), float("inf")])
def test_a_step_of_no_length(dt, tmp_path):
    with pytest.raises(ConfigError, match="dt"):
        exported(sparse(plain_net()), (2, 8, 6), tmp_path, dt=dt)


def test_a_potential_at_the_threshold(tmp_path):
    """docs/export.md: it fires here and in SpikingJelly, not where a simulator asks for v > ϑ as NIR does."""
    net = nn.Sequential(
        layers.RepeatOverTime(2),
        layers.Conv2d(1, 1, 1, bias=False),
        ndsnn.LIF(tau=2.0, decay_input=False),
        layers.Flatten(),
        layers.Linear(1, 1, bias=False),
    )
    for layer in (net[1], net[4]):
        nn.init.ones_(layer.weight)
    network, _, _ = exported(net, (1, 1, 1), tmp_path)
    x = torch.ones(1, 1, 1, 1)
    expected = simulate(network, x)
    assert expected.logits.flatten().tolist() == [1.0, 1.0]
    found = {
        name: nir_agreement(tmp_path / "net.nir", network, x, expected, name).spikes["2"]
        for name in ("spikingjelly", "snntorch")
    }
    # snnTorch is silent at h = 1, and then has h = ½ + 1.
    assert found == {"spikingjelly": 1.0, "snntorch": 0.5}

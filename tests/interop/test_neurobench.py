"""NeuroBench's metrics, counted natively, against its package on the dense export."""

import copy
import math

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import ndsnn
from ndsnn.interop.energy import energy_estimates
from ndsnn.interop.neurobench import NeuroBenchMeter, compressed_footprint, footprint, metric_lines
from ndsnn.losses import mean_step_cross_entropy, predict
from ndsnn.neurons import LIF
from ndsnn.training.evaluate import evaluate

IMAGES, BATCH = 12, 4


def networks():
    torch.manual_seed(0)
    yield "vgg", ndsnn.models.vgg([4, "M", 6, "M"], 5, 3, in_channels=2)
    yield "resnet19", ndsnn.models.resnet19(5, 2, in_channels=2, width=0.0625)
    yield "lenet5", ndsnn.models.lenet5(5, 2, in_channels=2)


NETWORKS = dict(networks())


def images(name):
    size = {"vgg": 8, "resnet19": 16, "lenet5": 28}[name]
    source = torch.Generator().manual_seed(3)
    return torch.randn(IMAGES, 2, size, size, generator=source), torch.randint(0, 5, (IMAGES,), generator=source)


def measured(net, x, y):
    meter = NeuroBenchMeter(net)
    batches = [(x[i : i + BATCH], y[i : i + BATCH]) for i in range(0, IMAGES, BATCH)]
    result = evaluate(net, batches, mean_step_cross_entropy, meter)
    return meter.metrics(result.accuracy, result.images), meter


def by_package(net, x, y):
    benchmarks = pytest.importorskip("neurobench.benchmarks")
    from neurobench.metrics.static import ConnectionSparsity, Footprint
    from neurobench.metrics.workload import ActivationSparsity, ClassificationAccuracy, SynapticOperations
    from neurobench.models import TorchModel

    model = TorchModel(net)
    model.add_activation_module(LIF)
    benchmark = benchmarks.Benchmark(
        model,
        DataLoader(TensorDataset(x, y), batch_size=BATCH),
        [],
        [predict],
        [
            [Footprint, ConnectionSparsity],
            [ClassificationAccuracy, ActivationSparsity, SynapticOperations],
        ],
    )
    with torch.no_grad():
        return benchmark.run(quiet=True)


@pytest.mark.parametrize("form", ["masked", "accelerated"])
@pytest.mark.parametrize("name", NETWORKS)
def test_as_the_package_counts(name, form):
    net = copy.deepcopy(NETWORKS[name])
    x, y = images(name)
    ndsnn.sparsify(net, 0.8, generator=torch.Generator().manual_seed(0))
    dense = ndsnn.to_dense(copy.deepcopy(net))
    if form == "accelerated":
        net = ndsnn.accelerate(net, backend="reference")
    mine, _ = measured(net, x, y)
    theirs = by_package(dense, x, y)
    own = mine.pop("ndsnn")
    assert set(mine) == set(theirs)
    assert mine["SynapticOperations"] == pytest.approx(theirs["SynapticOperations"], rel=1e-12)
    for key in ("Footprint", "ConnectionSparsity"):
        assert mine[key] == theirs[key]
    for key in ("ClassificationAccuracy", "ActivationSparsity"):
        assert mine[key] == pytest.approx(theirs[key], rel=1e-6)
    assert 0 < mine["SynapticOperations"]["Effective_ACs"] < own["ExecutedOperations"]
    assert own["ExecutedOperations"] < mine["SynapticOperations"]["Dense"]
    assert own["CompressedFootprint"] < mine["Footprint"]


def test_a_batch_without_fractions_counts_as_spikes():
    """The average pool makes fractions of one image and none of the other: MACs in its batch, ACs in the other."""
    net = torch.nn.Sequential(torch.nn.Linear(2, 3, bias=False))
    meter = NeuroBenchMeter(net)
    for x in (torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 1.0]])):
        with meter.counting():
            net(x)
    assert (meter.acs, meter.macs, meter.dense, meter.executed) == (3, 6, 12, 12)
    assert meter.total_operations(spiking=False) == 9, "of the whole, the layer's inputs are not spikes"


def test_footprints_by_hand():
    """Linear 4·3 with bias 3 floats, of which 5 weights live: 60 bytes dense; 5·(4 + 4) + 12 compressed."""
    net = torch.nn.Sequential(torch.nn.Linear(4, 3))
    ndsnn.sparsify(net, 7 / 12, distribution="uniform")
    assert int(net[0].weight.count_nonzero()) == 5
    assert footprint(net) == 60
    assert compressed_footprint(net) == 52


def test_energy_by_hand():
    table = energy_estimates(acs=1000, macs=10, dense=100)
    assert table["45nm_estimate"]["picojoules"] == pytest.approx(946)
    assert table["45nm_estimate"]["dense_picojoules"] == pytest.approx(460)
    assert table["loihi_estimate"]["picojoules"] == pytest.approx(23836)
    assert all(name.endswith("_estimate") and row["source"] for name, row in table.items())


def test_lines_for_a_person():
    assert list(metric_lines({"a": 1, "b": {"c": math.pi}})) == ["a: 1", "b:", "  c: 3.14159"]

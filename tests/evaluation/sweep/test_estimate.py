"""What a run will cost, against hand-computed numbers and against runs themselves."""

import math
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from tiny_sweep import BASE

from ndsnn.config import MethodConfig, TrainConfig
from ndsnn.config_parser import parse_settings
from ndsnn.evaluation.sweep import throughput
from ndsnn.evaluation.sweep.estimate import Estimate, estimate, network_use
from ndsnn.evaluation.sweep.mean_alive import mean_alive
from ndsnn.sparse.sparsify import sparsify
from ndsnn.training.build import build_model, method_settings, resolve_method
from ndsnn.training.run import train

TINY = parse_settings(BASE)
IMAGES = 1438 - 144
"""Training images of digits without a tenth for validation."""


def with_method(**method) -> TrainConfig:
    return replace(TINY, method=MethodConfig(**method))


def test_dense_training_of_a_small_network_by_hand():
    found = estimate(with_method(name="dense"))
    # conv 1→4 on 8×8, once for both steps, no gradient of its input; conv 4→8 on 4×4 and the classifier, T = 2.
    forward_and_weights = 2 * 36 * 64 + 2 * 288 * 16 * 2 + 2 * 80 * 2
    inputs = 288 * 16 * 2 + 80 * 2
    assert found.operations == (forward_and_weights + inputs) * IMAGES * 2
    assert found.neuron_steps == (4 * 64 + 8 * 16) * 2 * IMAGES * 2
    assert found.epochs == 2


def test_vgg16_has_the_multiply_adds_that_its_shapes_give():
    config = replace(TINY, model=replace(TINY.model, name="vgg16", layers=None, time_steps=1))
    use = network_use(config.model, 10, 3, (32, 32))
    plan = [(3, 64, 32), (64, 64, 32), (64, 128, 16), (128, 128, 16), (128, 256, 8), (256, 256, 8), (256, 256, 8)]
    plan += [(256, 512, 4), (512, 512, 4), (512, 512, 4), *[(512, 512, 2)] * 3]
    by_hand = sum(9 * a * b * side * side for a, b, side in plan) + 512 * 10
    assert sum(math.prod(layer.shape) * layer.uses for layer in use.layers.values()) == by_hand
    assert sum(math.prod(layer.shape) for layer in use.layers.values()) == 14_715_584


def test_constant_sparsity_costs_its_density():
    dense = mean_alive(with_method(name="dense"), {"a": (10, 10), "b": (20, 10)}, 11)
    sparse = mean_alive(with_method(name="set", final_sparsity=0.9), {"a": (10, 10), "b": (20, 10)}, 11)
    assert sum(dense.mean.values()) == 300
    assert sum(sparse.mean.values()) == 30


def test_snip_has_the_density_of_the_whole_network_in_each_layer():
    found = mean_alive(with_method(name="snip", final_sparsity=0.9), {"a": (10, 10), "b": (20, 10)}, 11)
    assert found.mean == {"a": pytest.approx(10), "b": pytest.approx(20)}
    assert (found.kept, found.epochs) == (30, with_method().epochs)


@pytest.mark.parametrize(
    "method",
    [
        {"name": "ndsnn", "initial_sparsity": 0.5, "final_sparsity": 0.9},
        {"name": "gmp", "final_sparsity": 0.9, "start": 13, "update_every": 7, "stop_fraction": 0.5},
        {"name": "admm", "final_sparsity": 0.9, "update_every": 9},
        {"name": "online", "final_sparsity": 0.9, "update_every": 9},
        {"name": "stdp", "final_sparsity": 0.9, "start": 13, "update_every": 7},
    ],
)
def test_the_ramp_is_what_the_method_does_step_by_step(method):
    config = replace(with_method(**method), epochs=20)
    net = build_model(config.model, 10, 1)
    kind = resolve_method(config.method.name)
    initial = config.method.initial_sparsity or 0.0
    sparsify(net, initial)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    real = kind(net, optimizer, 0.9, 11 * 20, **method_settings(config, kind))
    shapes = {layer.name: layer.shape for layer in real.layers}
    alive, total = sum(real.initial_counts.values()), 0
    for step in range(11 * 20):
        total += alive
        if step + 1 in real.rounds:
            alive = sum(real.target_counts(real.rounds.index(step + 1) + 1).values())
    expected = mean_alive(config, shapes, 11)
    # The method rounds each layer to whole weights in each round.
    assert sum(expected.mean.values()) == pytest.approx(total / 220, abs=len(shapes) / 2)
    assert expected.kept == alive


def test_lottery_rounds_are_added_up():
    config = replace(
        with_method(name="lth", final_sparsity=0.75, settings={"rounds": 2, "rewind_epoch": 1}), epochs=4
    )
    found = mean_alive(config, {"a": (10, 10)}, 11)
    # Round 0 dense for 4 epochs, then 50 % and 75 % for the 3 after the rewind point.
    assert found.epochs == 4 + 3 + 3
    assert found.mean["a"] == pytest.approx((4 * 100 + 3 * 50 + 3 * 25) / 10)
    assert found.runs == 3


def test_a_folder_of_images_cannot_be_estimated_without_reading_it():
    assert estimate(replace(TINY, data=replace(TINY.data, name="folder"))) is None


def test_the_estimate_holds_against_a_run(tmp_path):
    config = replace(with_method(name="ndsnn"), output=str(tmp_path / "run"), threads=1)
    summary = train(config, Console(quiet=True))
    found = estimate(config)
    # Forward passes only are counted there, and only what is not zero.
    counted = summary["costs"]["training_synaptic_operations"] + summary["costs"]["training_analog_operations"]
    assert 0 < counted < found.operations / 2
    kept = sum(path.stat().st_size for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert kept / 2 < found.disk_bytes < 2 * kept


def test_throughput_is_the_sum_of_both_parts():
    speed = throughput.Throughput(2.0, 3.0, "by hand")
    assert speed.seconds(Estimate(10, 100, 1, 0)) == 320


def test_the_probe_solves_for_both_constants(monkeypatch):
    times = iter([(5.0, 100.0, "native"), (1.0, 20.0, "native")])
    monkeypatch.setattr(throughput, "_step_seconds", lambda *_: next(times))
    speed = throughput.measure(1)
    neurons = network_use(throughput.PROBE_MODEL, 10, 3, throughput.PROBE_SIZE).neuron_steps
    assert speed.per_operation == pytest.approx(4 / 80)
    assert speed.per_neuron_step == pytest.approx(0.0, abs=1e-12)
    assert speed.seconds(Estimate(100, neurons, 1, 0)) == pytest.approx(5.0)


def test_the_probe_leaves_threads_and_random_state_alone():
    torch.manual_seed(3)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    speed = throughput.measure(1, "reference")
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert speed.per_operation > 0 or speed.per_neuron_step > 0
    assert "reference engine, 1 thread" in speed.source

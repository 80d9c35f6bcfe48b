"""The method of docs/methods.md is the code that stands there, and trains."""

import re
from pathlib import Path

import pytest
import torch
from small_nets import conv_net, given_step, named_net, optimizer_of, through_file, train_step

from ndsnn.errors import ConfigError
from ndsnn.sparse.methods import NDSNN, accepted_settings, methods
from ndsnn.sparse.sparsify import layer_report, sparsify, sparsity

PAGE = Path(__file__).resolve().parents[2] / "docs" / "methods.md"


@pytest.fixture
def example():
    """Run the code of the section "Write your own" and take it out of the registry afterwards."""
    text = PAGE.read_text(encoding="utf-8").split("## Write your own")[1]
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 2
    before = set(methods)
    space = {}
    exec(compile(blocks[0], str(PAGE), "exec"), space)
    yield space, blocks[1]
    for name in set(methods) - before:
        del methods._entries[name]


def test_the_example_is_registered_and_trains(example):
    assert "noisy-ndsnn" in methods
    method_class = methods["noisy-ndsnn"]
    assert issubclass(method_class, NDSNN)
    assert accepted_settings(method_class) == accepted_settings(NDSNN)
    net = sparsify(conv_net(), 0.5, generator=torch.Generator().manual_seed(0))
    optimizer = optimizer_of(net)
    method = method_class(net, optimizer, 0.9, 24, update_every=3)
    for step in range(24):
        train_step(net, optimizer, method, step)
        for layer in method.layers:
            assert not layer.weight[~layer.mask].any()
    assert method.finished
    assert sparsity(net) == pytest.approx(0.9, abs=1e-12)
    state = through_file(method.state_dict())
    assert state["method"] == "NoisyNDSNN"


def test_the_lines_that_use_it_run(example):
    space, use = example
    exec(compile(use, str(PAGE), "exec"), space)
    size = sum(row.weights for row in layer_report(space["net"]))
    assert sparsity(space["net"]) == pytest.approx(1 - round(0.05 * size) / size, abs=1e-12)


def test_its_growth_is_the_gradient_times_a_random_number(example):
    """Of two free places of gradient 100 and 0, the first always wins; of two equal ones, each does at times."""

    def born(seed, gradient):
        net = named_net({"layer": (1, 4)})
        sparsify(net, 0.5)
        net["layer"].sparsity_mask.copy_(torch.tensor([[True, True, False, False]]))
        optimizer = torch.optim.SGD(net.parameters(), 0.0)
        method = methods["noisy-ndsnn"](
            *(net, optimizer, 0.5, 1),
            update_every=1,
            stop_fraction=1.0,
            death_ratio=0.5,
            min_death_ratio=0.5,
            seed=seed,
        )
        given_step(net, optimizer, method, {"layer": torch.tensor([gradient])})
        return net["layer"].sparsity_mask[0].nonzero().flatten().tolist()[-1]

    assert {born(seed, [0.0, 0.0, 100.0, 0.0]) for seed in range(10)} == {2}
    assert {born(seed, [0.0, 0.0, -1.0, 1.0]) for seed in range(20)} == {2, 3}


def test_one_may_override_what_dies():
    """Dropping by −|w| kills the largest."""

    class DropLargest(NDSNN):
        def drop_scores(self, layer):
            return -super().drop_scores(layer)

    net = named_net({"layer": (1, 6)})
    sparsify(net, 0.0)
    with torch.no_grad():
        net["layer"].weight.copy_(torch.tensor([[1.0, -6.0, 3.0, 4.0, 5.0, 2.0]]))
    optimizer = torch.optim.SGD(net.parameters(), 0.0)
    method = DropLargest(net, optimizer, 0.5, 1, update_every=1, stop_fraction=1.0)
    given_step(net, optimizer, method, {"layer": torch.ones(1, 6)})
    assert net["layer"].weight.tolist() == [[1, 0, 3, 0, 0, 2]]


def test_a_name_cannot_be_taken_twice(example):
    with pytest.raises(ConfigError, match="noisy-ndsnn"):
        methods.register("noisy-ndsnn")(NDSNN)


def test_the_page_has_a_section_for_every_method():
    sections = re.findall(r"^## (.+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    named = {name for section in sections for name in re.findall(r"`([^`]+)`", section)}
    assert named == set(methods)

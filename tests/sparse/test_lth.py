"""Lottery tickets: which weights stay, and that everything but the masks is rewound, bit for bit."""

import copy

import numpy as np
import pytest
import torch
from small_nets import batch, conv_net, optimizer_of
from torch import nn

from ndsnn import LTH
from ndsnn.errors import ConfigError, SparsityError
from ndsnn.sparse import compress
from ndsnn.sparse.methods.global_pruning import global_counts, global_prune_masks
from ndsnn.sparse.methods.pruning.lth import round_sparsities
from ndsnn.sparse.sparsify import sparsify

# Kim et al. 2022, the sparsities of their rounds of 25 %.
PUBLISHED = (
    0.25,
    0.438,
    0.578,
    0.684,
    0.763,
    0.822,
    0.867,
    0.900,
    0.925,
    0.944,
    0.958,
    0.968,
    0.976,
    0.982,
    0.987,
)


def trained(net, optimizer, method, first, last):
    for number in range(first, last):
        x, y = batch(number)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
        method.step()


def test_the_published_sparsities():
    rounds = round_sparsities(0.99)
    assert rounds[0] == 0
    assert rounds[1:-1] == pytest.approx(PUBLISHED, abs=6e-4)
    assert rounds[-1] == 0.99
    assert [len(round_sparsities(final)) - 1 for final in (0.9, 0.95, 0.98, 0.99)] == [8, 11, 14, 16]
    # n rounds of equal parts: 1 − 0.01^(1/4) = 68.38 % each.
    assert round_sparsities(0.99, rounds=4) == pytest.approx((0, 0.683772, 0.9, 0.968377, 0.99), abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"prune_fraction": 0.0}, ConfigError),
        ({"prune_fraction": 1.0}, ConfigError),
        ({"rounds": 0}, ConfigError),
        ({"rounds": True}, ConfigError),
        ({"rounds": 2, "prune_fraction": 0.5}, ConfigError),
        ({"rewind_step": 10}, ConfigError),
        ({"rewind_step": -1}, ConfigError),
    ],
)
def test_settings_out_of_range(settings, error):
    net = conv_net()
    with pytest.raises(error):
        LTH(net, optimizer_of(net), 0.9, 10, **settings)


def test_a_sparse_network_is_refused():
    net = sparsify(conv_net(), 0.5)
    with pytest.raises(SparsityError, match="starts dense"):
        LTH(net, optimizer_of(net), 0.9, 10)
    with pytest.raises(SparsityError, match="prunes"):
        LTH(conv_net(), optimizer_of(net), 0.0, 10)


def test_global_pruning_by_hand():
    scores = {"b": torch.tensor([5.0, 1.0, 4.0]), "a": torch.tensor([0.1, 0.2]), "c": torch.tensor([3.0, 3.0])}
    # One of a has to stay; of the rest 5, 4 and the first 3.
    assert global_counts(scores, 4) == {"a": 1, "b": 2, "c": 1}
    assert global_counts(scores, 5, dense=["a"]) == {"a": 2, "b": 2, "c": 1}
    masks = {name: torch.ones_like(score, dtype=torch.bool) for name, score in scores.items()}
    kept = global_prune_masks(scores, masks, 4)
    assert {name: mask.tolist() for name, mask in kept.items()} == {
        "a": [False, True],
        "b": [True, False, True],
        "c": [False, True],
    }
    with pytest.raises(SparsityError, match="at least 3 and at most 7"):
        global_counts(scores, 2)


@pytest.mark.parametrize("form", ["masked", "compressed"])
@pytest.mark.parametrize("kind", ["momentum", "adam"])
@pytest.mark.parametrize("rewind_step", [0, 3])
def test_everything_but_the_masks_is_rewound(form, kind, rewind_step):
    """Weights, norms with their running statistics, biases and optimizer state are those of the rewind step."""
    net = sparsify(conv_net(), 0.0)
    if form == "compressed":
        compress(net)
    optimizer = optimizer_of(net, kind)
    method = LTH(net, optimizer, 0.6, 8, rounds=2, rewind_step=rewind_step)
    trained(net, optimizer, method, 0, rewind_step)
    then, then_optimizer = copy.deepcopy(net.state_dict()), copy.deepcopy(optimizer.state_dict()["state"])
    for number in (1, 2):
        trained(net, optimizer, method, rewind_step, 8)
        magnitude = np.concatenate([layer.active_values().abs().numpy() for layer in method.layers])
        threshold = np.sort(magnitude)[::-1][round(900 * (1 - method.sparsities[number])) - 1]
        largest = [layer.mask.clone() for layer in method.layers]
        for mask, layer in zip(largest, method.layers, strict=True):
            mask[mask.clone()] = layer.active_values().abs() >= threshold
        assert not torch.equal(net.state_dict()["1.running_var"], then["1.running_var"])
        method.next_round()
        assert method.steps_done == rewind_step
        assert all(torch.equal(mask, layer.mask) for mask, layer in zip(largest, method.layers, strict=True))
        now = net.state_dict()
        for key in ("1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked", "3.bias"):
            assert torch.equal(now[key], then[key]), key
        for index, layer in enumerate(method.layers):
            old = then[f"{layer.name}.weight"].flatten()[layer.mask.flatten()]
            assert torch.equal(layer.active_values(), old)
            place = [id(p) for p in optimizer.param_groups[0]["params"]].index(id(layer.weight))
            for name, value in then_optimizer.get(place, {}).items():
                if isinstance(value, torch.Tensor) and value.numel() == layer.size:
                    kept = layer.alive_part(optimizer.state[layer.weight][name]).flatten()
                    assert torch.equal(kept, value.flatten()[layer.mask.flatten()]), (index, name)
            assert bool(optimizer.state[layer.weight]) == bool(rewind_step)
    assert method.finished
    assert sum(layer.nnz for layer in method.layers) == 360
    with pytest.raises(SparsityError, match="all 2 prunings are done"):
        method.next_round()


def test_the_rewind_step_must_have_come():
    net = conv_net()
    optimizer = optimizer_of(net)
    method = LTH(net, optimizer, 0.6, 8, rounds=2, rewind_step=3)
    trained(net, optimizer, method, 0, 2)
    with pytest.raises(SparsityError, match="rewind step 3 is not reached"):
        method.next_round()

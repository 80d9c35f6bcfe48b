"""One round of each method worked out by hand.

The loss is Σ w·c, so the gradient of a weight is c; the learning rate is 0, so the weights stay as written.
"""

import pytest
import torch
from small_nets import given_step
from torch import nn

from ndsnn.sparse.methods import methods
from ndsnn.sparse.sparsify import Distribution, set_masks

KEEP = {"update_every": 1, "stop_fraction": 1.0}


def layer_with(weights, alive, shape=(3, 4)):
    """A linear layer with the written weights, of which those at the positions `alive` live."""
    layer = nn.Linear(shape[1], shape[0], bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weights).view(shape))
    mask = torch.zeros(len(weights), dtype=torch.bool)
    mask[list(alive)] = True
    return layer, mask.view(shape)


def single(name, weights, alive, final, total, *, shape=(3, 4), momentum=0.9, **settings):
    layer, mask = layer_with(weights, alive, shape)
    net = nn.ModuleDict({"layer": layer})
    set_masks(net, {"layer": mask}, Distribution())
    optimizer = torch.optim.SGD(net.parameters(), 0.0, momentum=momentum)
    return net, optimizer, methods[name](net, optimizer, final, total, **KEEP | settings)


def step(net, optimizer, method, gradient):
    return given_step(net, optimizer, method, {"layer": torch.tensor(gradient).view(net["layer"].weight.shape)})


def alive(method, layer=0):
    return set(torch.nonzero(method.layers[layer].mask.flatten()).flatten().tolist())


NDSNN_WEIGHTS = [0.8, -0.1, 0.3, -0.7, 0.05, 0.6, -0.2, 0.4, 0, 0, 0, 0]


def test_ndsnn_two_rounds():
    """12 places, 8 alive → 6; two rounds with d0 = 0.5, d_min = 0.25.

    Round 1: Eq. 4 6 + 2·(1/2)³ = 6.25 → 6. Eq. 5 d = 0.25 + 0.125·(1 + cos 90°) = 0.375. D = 0.375·8 = 3:
    the smallest of |w| are 0.05 (4), 0.1 (1), 0.2 (6). G = 6 − (8 − 3) = 1: of places 8 … 11 with
    |g| = 0.1, 0.5, 0.3, 0 it is 9. The dead 1, 4, 6 have larger gradients but may not come back.
    """
    net, optimizer, method = single(
        "ndsnn", NDSNN_WEIGHTS, range(8), 0.5, 2, death_ratio=0.5, min_death_ratio=0.25
    )
    gradient = [1, 2, 3, 4, 5, 6, 7, 8, 0.1, -0.5, 0.3, 0]
    update = step(net, optimizer, method, gradient)
    assert alive(method) == {0, 2, 3, 5, 7, 9}
    assert update == (1, 1, (("layer", 3, 1, 6),))
    weights = net["layer"].weight.flatten().tolist()
    assert weights == pytest.approx([0.8, 0, 0.3, -0.7, 0, 0.6, 0, 0.4, 0, 0, 0, 0])
    # The momentum after the first step is the gradient: that of the kept stays, of the dead and the born it is 0.
    momentum = optimizer.state[net["layer"].weight]["momentum_buffer"].flatten().tolist()
    assert momentum == [1, 0, 3, 4, 0, 6, 0, 8, 0, 0, 0, 0]
    # Round 2: target 6, d = 0.25, D = 1.5 → 2, G = 6 − (6 − 2) = 2. The smallest: the newborn 9 (0), 2 (0.3).
    # Of the inactive, 4 has 0.9 and 1, 6 and 8 tie at 0.2: the lowest, 1, is taken.
    gradient = [9, 0.2, 9, 9, -0.9, 9, 0.2, 9, -0.2, 9, 0, 0.1]
    assert step(net, optimizer, method, gradient) == (2, 2, (("layer", 2, 2, 6),))
    assert alive(method) == {0, 1, 3, 4, 5, 7}
    assert method.finished


def test_ndsnn_may_bring_back_the_dead_of_the_round():
    """As round 1 above, but of 1, 4, 6 (|g| = 2, 5, 7) and 8 … 11 the largest is 6: reborn with value 0."""
    net, optimizer, method = single(
        *("ndsnn", NDSNN_WEIGHTS, range(8), 0.5, 2),
        death_ratio=0.5,
        min_death_ratio=0.25,
        regrow_dropped=True,
    )
    step(net, optimizer, method, [1, 2, 3, 4, 5, 6, 7, 8, 0.1, -0.5, 0.3, 0])
    assert alive(method) == {0, 2, 3, 5, 6, 7}
    assert net["layer"].weight.flatten()[6] == 0
    assert optimizer.state[net["layer"].weight]["momentum_buffer"].flatten()[6] == 0


def test_the_scheduled_count_wins_over_the_death_ratio():
    """12 alive → 3 in one round at d = 0.1: D = 1.2 → 1, G = 3 − 11 < 0: nothing is born and 9 die."""
    weights = [0.12, 0.11, 0.10, 0.09, 0.08, 0.07, 0.06, 0.05, 0.04, 0.03, 0.02, 0.01]
    net, optimizer, method = single("ndsnn", weights, range(12), 0.75, 1, death_ratio=0.1, min_death_ratio=0.1)
    assert step(net, optimizer, method, [1.0] * 12) == (1, 1, (("layer", 9, 0, 3),))
    assert alive(method) == {0, 1, 2}


@pytest.mark.parametrize(("regrow", "dead", "left"), [(False, 1, set(range(12)) - {2}), (True, 6, None)])
def test_the_exchange_shrinks_to_the_free_places(regrow, dead, left):
    """11 of 12 stay alive at d = 0.5: D = 5.5 → 6, G = 6, but only place 11 is free: one dies, one is born.

    Where the dead are candidates, all six fit: the dead are 0 … 5, the best of 0 … 5 and 11 are all but 0.
    """
    weights = [0.3, 0.2, 0.1, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 0]
    net, optimizer, method = single(
        "rigl", weights, range(11), 0.08, 1, death_ratio=0.5, min_death_ratio=0.5, regrow_dropped=regrow
    )
    update = step(net, optimizer, method, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 9, 9, 9, 9, 9, 0.7])
    assert update == (1, 1, (("layer", dead, dead, 11),))
    assert alive(method) == (left or set(range(1, 12)))


@pytest.mark.parametrize(("ratio", "count", "dead"), [(0.25, 10, 3), (0.5, 5, 3), (0.5, 3, 2), (0.125, 4, 1)])
def test_half_a_death_is_rounded_up(ratio, count, dead):
    """0.25·10 = 2.5 → 3; 0.5·5 = 2.5 → 3; 0.5·3 = 1.5 → 2; 0.125·4 = 0.5 → 1."""
    net, optimizer, method = single(
        *("rigl", [1.0] * count + [0.0] * (20 - count), range(count), 1 - count / 20, 1),
        shape=(4, 5),
        death_ratio=ratio,
        min_death_ratio=ratio,
    )
    update = step(net, optimizer, method, [1.0] * 20)
    assert update.layers == (("layer", dead, dead, count),)
    # All tie: the lowest places die and, of the others, the lowest are born.
    assert alive(method) == set(range(dead, count + dead))


RIGL_WEIGHTS = [0.1, -0.2, 0.3, -0.4, 0.5, -0.6, 0, 0, 0, 0, 0, 0]
RIGL_GRADIENT = [5, -4, 1, 1, 1, 1, 0.5, -0.9, 0.1, 0.7, 0, 0.2]


def test_rigl():
    """6 alive at d = 1/3: the two smallest, 0 and 1, die; of 6 … 11 the largest |g| are 7 (0.9) and 9 (0.7)."""
    net, optimizer, method = single(
        "rigl", RIGL_WEIGHTS, range(6), 0.5, 1, death_ratio=1 / 3, min_death_ratio=1 / 3
    )
    assert step(net, optimizer, method, RIGL_GRADIENT) == (1, 1, (("layer", 2, 2, 6),))
    assert alive(method) == {2, 3, 4, 5, 7, 9}
    kept = net["layer"].weight.flatten().tolist()
    assert kept == pytest.approx([0, 0, 0.3, -0.4, 0.5, -0.6, 0, 0, 0, 0, 0, 0])


def test_rigl_may_bring_back_the_dead():
    """With the dead as candidates 0 (|g| = 5) and 1 (4) win: the mask is the old one, their values are 0."""
    net, optimizer, method = single(
        "rigl", RIGL_WEIGHTS, range(6), 0.5, 1, death_ratio=1 / 3, min_death_ratio=1 / 3, regrow_dropped=True
    )
    step(net, optimizer, method, RIGL_GRADIENT)
    assert alive(method) == {0, 1, 2, 3, 4, 5}
    kept = net["layer"].weight.flatten().tolist()
    assert kept == pytest.approx([0, 0, 0.3, -0.4, 0.5, -0.6, 0, 0, 0, 0, 0, 0])
    momentum = optimizer.state[net["layer"].weight]["momentum_buffer"].flatten().tolist()
    assert momentum == [0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0]


def test_set(monkeypatch):
    """As RigL, but the places with the largest random number are born: 8 (0.8) and 11 (0.6)."""
    numbers = torch.tensor([0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.1, 0.2, 0.8, 0.3, 0.4, 0.6], dtype=torch.float64)
    monkeypatch.setattr(
        "ndsnn.sparse.methods.random_growth.random_scores", lambda key, positions: numbers[positions]
    )
    net, optimizer, method = single(
        "set", RIGL_WEIGHTS, range(6), 0.5, 1, death_ratio=1 / 3, min_death_ratio=1 / 3
    )
    assert step(net, optimizer, method, RIGL_GRADIENT) == (1, 1, (("layer", 2, 2, 6),))
    assert alive(method) == {2, 3, 4, 5, 8, 11}


def test_set_may_bring_back_the_dead(monkeypatch):
    """The candidates are 0, 1 and 6 … 11; the largest numbers are those of 1 (0.95) and 0 (0.9)."""
    numbers = torch.tensor([0.9, 0.95, 1, 1, 1, 1, 0.1, 0.2, 0.8, 0.3, 0.4, 0.6], dtype=torch.float64)
    monkeypatch.setattr(
        "ndsnn.sparse.methods.random_growth.random_scores", lambda key, positions: numbers[positions]
    )
    net, optimizer, method = single(
        "set", RIGL_WEIGHTS, range(6), 0.5, 1, death_ratio=1 / 3, min_death_ratio=1 / 3, regrow_dropped=True
    )
    step(net, optimizer, method, RIGL_GRADIENT)
    assert alive(method) == {0, 1, 2, 3, 4, 5}
    assert net["layer"].weight.flatten()[:2].tolist() == [0, 0]


def test_gmp_from_dense():
    """12 → 3 in two rounds: 3 + 9/8 = 4.125 → 4, then 3. The smallest |w| go, ties from the lowest place on."""
    layer, _ = layer_with([0.5, -0.5, 0.9, 0.1, -0.1, 0.2, 0.3, -0.8, 0.2, 0.7, 0.1, 0.2], range(12))
    net = nn.ModuleDict({"layer": layer})
    optimizer = torch.optim.SGD(net.parameters(), 0.0)
    method = methods["gmp"](net, optimizer, 0.75, 2, **KEEP)
    assert alive(method) == set(range(12))
    assert step(net, optimizer, method, [1.0] * 12) == (1, 1, (("layer", 8, 0, 4),))
    assert alive(method) == {1, 2, 7, 9}  # 0.9, 0.8, 0.7 and the second of the two 0.5
    assert step(net, optimizer, method, [1.0] * 12) == (2, 2, (("layer", 1, 0, 3),))
    assert alive(method) == {2, 7, 9}


def granet(weights_a, weights_b, final, total, **settings):
    a, _ = layer_with(weights_a, (), (2, 2))
    b, _ = layer_with(weights_b, (), (2, 4))
    net = nn.ModuleDict({"a": a, "b": b})
    optimizer = torch.optim.SGD(net.parameters(), 0.0)
    return net, optimizer, methods["granet"](net, optimizer, final, total, **KEEP | settings)


def test_granet_two_layers():
    """12 → 6 in two rounds at d = 0.25.

    Round 1: 6 + 6/8 = 6.75 → 7. The seven largest of both layers are 0.9, 0.8 (a) and 0.7, 0.6, 0.5, 0.07, 0.06
    (b). Growth would be one in each, but no place is free in a dense layer.
    Round 2: the six largest: 0.9, 0.8 (a), 0.7, 0.6, 0.5, 0.07 (b). a: 2 → 2, growth 0.25·2 = 0.5 → 1: place 1
    (0.8) dies, of places 2 and 3 with |g| 0.1 and 0.3, 3 is born. b: 5 → 4, growth 0.25·4 = 1: 6 and 7 (0.06,
    0.07) die, of 3, 4, 5 with |g| 0.2, 0.8, 0.4, 4 is born.
    """
    net, optimizer, method = granet(
        *([0.9, 0.8, 0.01, 0.02], [0.5, 0.6, 0.7, 0.03, 0.04, 0.05, 0.06, 0.07], 0.5, 2),
        death_ratio=0.25,
        min_death_ratio=0.25,
    )
    gradients = {
        "a": torch.tensor([[9, 9], [-0.1, 0.3]]),
        "b": torch.tensor([[9, 9, 9, 0.2], [-0.8, 0.4, 9, 9]]),
    }
    update = given_step(net, optimizer, method, gradients)
    assert update.layers == (("a", 2, 0, 2), ("b", 3, 0, 5))
    assert (alive(method, 0), alive(method, 1)) == ({0, 1}, {0, 1, 2, 6, 7})
    update = given_step(net, optimizer, method, gradients)
    assert update.layers == (("a", 1, 1, 2), ("b", 2, 1, 4))
    assert (alive(method, 0), alive(method, 1)) == ({0, 3}, {0, 1, 2, 4})


def test_granet_keeps_one_weight_in_every_layer():
    """The four largest weights are all in b; a keeps its largest, b its best three."""
    net, optimizer, method = granet(
        *([0.01, 0.02, 0.03, 0.01], [0.5, 0.6, 0.7, 0.8, 0.9, 0.4, 0.3, 0.2], 2 / 3, 1),
        death_ratio=0.0,
        min_death_ratio=0.0,
    )
    given_step(net, optimizer, method, {"a": torch.ones(2, 2), "b": torch.ones(2, 4)})
    assert (alive(method, 0), alive(method, 1)) == ({2}, {2, 3, 4})


@pytest.mark.parametrize(("exploration", "born"), [(0.0, 0), (0.1, 0), (0.43, 0), (0.44, 10), (1.0, 10)])
def test_dst_ee_prefers_places_it_has_not_tried(exploration, born):
    """6 alive, d = 1/6: one dies and one is born, at steps 2 and 4; ε = 1.

    Round 1 (t = 2): 0 dies. No free place has been alive: the bonus c·ln 2/(0 + 1) is the same for all and 7 of
    |g| = 0.9 is born. Alive so far: 0 in one topology, 1 … 5 in two, 7 in one.
    Round 2 (t = 4): 7 (value 0) dies. Candidates 0 (alive once), 6, 8 … 11 (never): 0 has |g| = 0.9 and the bonus
    c·ln 4/2 = 0.693·c, 10 has |g| = 0.6 and c·ln 4 = 1.386·c. c = 0.1: 0.969 > 0.739; c = 1: 1.593 < 1.986.
    They are equal at c = 0.3/0.693 = 0.433.
    """
    net, optimizer, method = single(
        *("dst-ee", RIGL_WEIGHTS, range(6), 0.5, 4),
        death_ratio=1 / 6,
        min_death_ratio=1 / 6,
        update_every=2,
        exploration=exploration,
        epsilon=1.0,
    )
    assert step(net, optimizer, method, RIGL_GRADIENT) is None
    assert step(net, optimizer, method, RIGL_GRADIENT) == (2, 1, (("layer", 1, 1, 6),))
    assert alive(method) == {1, 2, 3, 4, 5, 7}
    assert method.times_active["layer"].tolist() == [1, 2, 2, 2, 2, 2, 0, 1, 0, 0, 0, 0]
    second = [0.9, 9, 9, 9, 9, 9, 0.1, 9, 0.2, 0.3, -0.6, 0.0]
    step(net, optimizer, method, second)
    assert step(net, optimizer, method, second) == (4, 2, (("layer", 1, 1, 6),))
    assert alive(method) == {1, 2, 3, 4, 5, born}


def test_dst_ee_divides_by_tried_plus_epsilon():
    """As round 2 above at c = 1, ε = 9: ln 4·(1/10) and ln 4·(1/9) differ by 0.015 only: 0 wins with 0.9."""
    net, optimizer, method = single(
        *("dst-ee", RIGL_WEIGHTS, range(6), 0.5, 4),
        death_ratio=1 / 6,
        min_death_ratio=1 / 6,
        update_every=2,
        exploration=1.0,
        epsilon=9.0,
    )
    for _ in range(2):
        step(net, optimizer, method, RIGL_GRADIENT)
    for _ in range(2):
        step(net, optimizer, method, [0.9, 9, 9, 9, 9, 9, 0.1, 9, 0.2, 0.3, -0.6, 0.0])
    assert alive(method) == {0, 1, 2, 3, 4, 5}


@pytest.mark.parametrize("name", ["static", "dense"])
def test_methods_without_rounds_change_nothing(name):
    layer, mask = layer_with(RIGL_WEIGHTS, range(6))
    net = nn.ModuleDict({"layer": layer})
    if name == "static":
        set_masks(net, {"layer": mask}, Distribution())
    optimizer = torch.optim.SGD(net.parameters(), 0.0)
    method = methods[name](net, optimizer, 0.5 if name == "static" else 0.0, 4)
    expected = set(range(6 if name == "static" else 12))
    for _ in range(4):
        assert step(net, optimizer, method, RIGL_GRADIENT) is None
        assert alive(method) == expected
    assert method.rounds == ()
    assert method.finished


def test_rounds_come_at_t0_plus_q_intervals_and_no_others():
    """t0 = 3, ΔT = 4, until 80 % of 20 steps: rounds after steps 7, 11 and 15."""
    net, optimizer, method = single(
        "rigl", RIGL_WEIGHTS, range(6), 0.5, 20, start=3, update_every=4, stop_fraction=0.8
    )
    assert method.rounds == (7, 11, 15)
    seen = {}
    for number in range(1, 21):
        before = alive(method)
        update = step(net, optimizer, method, RIGL_GRADIENT)
        if update is None:
            assert alive(method) == before
            assert method.current_round is None
        else:
            assert method.current_round == update.round
            seen[number] = update.round
        assert method.finished == (number >= 15)
    assert seen == {7: 1, 11: 2, 15: 3}

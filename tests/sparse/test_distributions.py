"""ERK, ER and uniform: the published densities, exact sums and an independent solution."""

import math

import brute_force
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from small_nets import named_net

from ndsnn.errors import ConfigError, SparsityError
from ndsnn.sparse.distributions import layer_counts
from ndsnn.sparse.sparsify import Distribution, layer_report, sparsify

VGG16, RESNET19 = brute_force.vgg16_shapes(), brute_force.resnet19_shapes()


def densities(shapes, sparsity, **kwargs):
    counts = layer_counts(shapes, sparsity, **kwargs)
    return {name: counts[name] / math.prod(shape) for name, shape in shapes.items()}


def test_the_shape_tables_are_the_networks_of_the_paper():
    assert sum(map(math.prod, VGG16.values())) == 14_715_584
    assert sum(map(math.prod, RESNET19.values())) == 12_619_968
    assert (len(VGG16), len(RESNET19)) == (14, 22)


@pytest.mark.parametrize("classes", [10, 100])
def test_erk_vgg16_at_90_percent_leaves_first_conv_and_classifier_dense(classes):
    found = densities(brute_force.vgg16_shapes(classes=classes), 0.9)
    assert {name for name, density in found.items() if density == 1} == {"conv00", "fc"}


def test_erk_vgg16_at_99_percent_with_100_classes():
    found = densities(brute_force.vgg16_shapes(classes=100), 0.99)
    assert max(found.values()) < 1
    assert found["conv00"] == pytest.approx(0.723, abs=5e-4)
    assert found["fc"] == pytest.approx(0.205, abs=1e-3)
    for name in ("conv08", "conv09", "conv10", "conv11", "conv12"):
        assert found[name] == pytest.approx(0.0075, abs=5e-5)


def test_erk_resnet19_at_99_percent_with_100_classes():
    found = densities(brute_force.resnet19_shapes(classes=100), 0.99)
    assert found["stem"] == pytest.approx(0.490, abs=5e-4)
    assert found["fc2"] == pytest.approx(0.161, abs=5e-4)
    for name in ("stage2_0_conv2", "stage2_1_conv1", "stage2_1_conv2"):
        assert found[name] == pytest.approx(0.0051, abs=5e-5)


def test_erk_vgg16_at_99_percent_with_10_classes():
    """The classifier's raw density is 522/5120, 2.4 times that of conv0 (73/1728): it is dense from ε = 9.8 on.

    Without it 147,156 − 5,120 = 142,036 weights are left for Σ dims = 8,017: ε = 17.72.
    """
    found = densities(VGG16, 0.99)
    assert found["fc"] == 1
    assert found["conv00"] == pytest.approx(17.72 * 73 / 1728, abs=5e-4)
    assert found["conv12"] == pytest.approx(17.72 * 1030 / 2_359_296, abs=5e-6)


@pytest.mark.parametrize("shapes", [VGG16, RESNET19], ids=["vgg16", "resnet19"])
@pytest.mark.parametrize("sparsity", [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99])
def test_erk_counts_of_the_papers_networks_by_bisection(shapes, sparsity):
    assert layer_counts(shapes, sparsity) == brute_force.erk_counts(shapes, sparsity)


@pytest.mark.parametrize("shapes", [VGG16, RESNET19], ids=["vgg16", "resnet19"])
@pytest.mark.parametrize(("initial", "final"), brute_force.PAIRS)
def test_no_layer_is_denser_at_the_end_than_at_the_start(shapes, initial, final):
    before, after = layer_counts(shapes, initial), layer_counts(shapes, final)
    assert all(after[name] <= before[name] for name in shapes)


dims = st.integers(1, 24)
shape = st.one_of(
    st.tuples(dims, dims), st.builds(lambda o, i, k: (o, i, k, k), dims, dims, st.sampled_from([1, 3, 5]))
)
tables = st.lists(shape, min_size=1, max_size=8).map(lambda s: {f"l{i}": dims for i, dims in enumerate(s)})
sparsities = st.integers(0, 999).map(lambda n: n / 1000)
distributions = st.sampled_from(["erk", "er", "uniform"])


def counts_or_assume(shapes, sparsity, distribution):
    try:
        return layer_counts(shapes, sparsity, distribution)
    except SparsityError as error:
        assume("no weight in layer" not in str(error))
        raise


@given(tables, sparsities, distributions)
@settings(max_examples=300, deadline=None)
def test_the_sum_is_exact_and_every_layer_fits(shapes, sparsity, distribution):
    counts = counts_or_assume(shapes, sparsity, distribution)
    total = sum(map(math.prod, shapes.values()))
    kept_times_thousand = total * (1000 - round(1000 * sparsity))
    assert sum(counts.values()) == (2 * kept_times_thousand + 1000) // 2000
    assert all(1 <= counts[name] <= math.prod(shapes[name]) for name in shapes)


@given(tables, sparsities, distributions, st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_the_order_of_layers_does_not_matter(shapes, sparsity, distribution, random):
    counts = counts_or_assume(shapes, sparsity, distribution)
    names = list(shapes)
    random.shuffle(names)
    assert layer_counts({name: shapes[name] for name in names}, sparsity, distribution) == counts


@given(tables, sparsities)
@settings(max_examples=200, deadline=None)
def test_erk_agrees_with_bisection_up_to_rounding(shapes, sparsity):
    counts = counts_or_assume(shapes, sparsity, "erk")
    expected, _ = brute_force.erk_densities(shapes, sparsity)
    for name, dims in shapes.items():
        assert abs(counts[name] - expected[name] * math.prod(dims)) < 1 + 1e-6


def test_uniform_gives_every_layer_the_same_density():
    assert layer_counts({"a": (10, 10), "b": (20, 5, 3, 3)}, 0.9, "uniform") == {"a": 10, "b": 90}


def test_er_ignores_the_kernel():
    """Both a and b have (n_out + n_in)/(n_out·n_in) = 0.2; c has 0.1: densities 2 : 2 : 1.

    Sizes 100, 900, 400: kept 0.1·1400 = 140 = ε(20 + 180 + 40), so 0.583·(20, 180, 40) = 11.67, 105, 23.33.
    """
    shapes = {"a": (10, 10), "b": (10, 10, 3, 3), "c": (20, 20)}
    assert layer_counts(shapes, 0.9, "er") == {"a": 12, "b": 105, "c": 23}


def test_erk_counts_by_hand_with_one_dense_layer():
    """Sizes 4 and 96; budget 10. a: ε·4, b: ε·20 → ε = 10/24, a 1.67 (density 0.42), b 8.33. At budget 48: ε = 2
    would give a 8 of 4: a is dense, b takes 44."""
    shapes = {"a": (2, 2), "b": (8, 12)}
    assert layer_counts(shapes, 0.9) == {"a": 2, "b": 8}
    assert layer_counts(shapes, 0.52) == {"a": 4, "b": 44}


def test_ties_of_the_fraction_go_by_name():
    """Three equal layers share 10: 3.33 each, the one left over goes to the first name."""
    assert layer_counts({"b": (5, 5), "c": (5, 5), "a": (5, 5)}, 1 - 10 / 75) == {"b": 3, "c": 3, "a": 4}


def test_dense_layers_by_pattern():
    shapes = {"block.conv1": (8, 8, 3, 3), "block.conv2": (8, 8, 3, 3), "head": (10, 8)}
    counts = Distribution("erk", ("head", "*conv1")).counts(shapes, 0.4)
    assert counts["head"] == 80
    assert counts["block.conv1"] == 576
    assert sum(counts.values()) == 739  # 1232 · 0.6 = 739.2


def test_a_pattern_that_matches_nothing_is_named():
    with pytest.raises(SparsityError, match="haed"):
        Distribution("erk", ("haed",)).counts({"head": (10, 8)}, 0.5)
    net = named_net({"head": (10, 8)})
    with pytest.raises(SparsityError, match="haed"):
        sparsify(net, 0.5, dense_layers=["haed"])
    assert layer_report(net)[0].alive == 80
    assert "sparsity_mask" not in dict(net.named_buffers())


def test_dense_layers_over_the_budget():
    with pytest.raises(SparsityError, match="dense layers hold 80 weights, more than the 18"):
        layer_counts({"a": (10, 8), "b": (10, 10)}, 0.9, dense_layers=["a"])


def test_an_empty_layer_is_named():
    with pytest.raises(SparsityError, match="'tiny'"):
        layer_counts({"tiny": (1, 2), "big": (100, 100)}, 0.99, "uniform")


@pytest.mark.parametrize("sparsity", [1.0, -0.1, 90, float("nan"), "0.9", None, True])
def test_sparsity_out_of_range(sparsity):
    with pytest.raises(SparsityError, match="fraction of zeros"):
        layer_counts({"a": (4, 4)}, sparsity)


def test_an_unknown_distribution_names_the_nearest():
    with pytest.raises(ConfigError, match="'uniform'"):
        layer_counts({"a": (4, 4)}, 0.5, "unifrom")


def test_the_written_decimal_counts_not_its_binary_neighbour():
    """0.7 of 10 is 3 kept, although 10·(1 − 0.7) is 3.0000000000000004 and 1 − 0.3 is below 0.7."""
    assert layer_counts({"a": (5, 2)}, 0.7) == {"a": 3}
    assert layer_counts({"a": (5, 1)}, 0.9) == {"a": 1}  # 0.5, half up


def test_sparsify_takes_these_counts():
    net = named_net(brute_force.resnet19_shapes(reduce=16))
    sparsify(net, 0.95, generator=torch.Generator().manual_seed(0))
    expected = brute_force.erk_counts(brute_force.resnet19_shapes(reduce=16), 0.95)
    assert {row.name: row.alive for row in layer_report(net)} == expected

"""The layer shapes of the two networks, and ERK and Eq. 4–9 once more in float64 and plain sorts.

Nothing of ndsnn is imported: the library is held against this.
"""

import math

import numpy as np


def vgg16_shapes(reduce=1, classes=10):
    """Weight shapes of VGG-16; channels are divided by `reduce`."""
    shapes, before = {}, 3
    for i, channels in enumerate([64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]):
        shapes[f"conv{i:02d}"] = (channels // reduce, before, 3, 3)
        before = channels // reduce
    shapes["fc"] = (classes, before)
    return shapes


def resnet19_shapes(reduce=1, classes=10):
    """Weight shapes of ResNet-19; channels are divided by `reduce`."""
    shapes, before = {"stem": (64 // reduce, 3, 3, 3)}, 64 // reduce
    for stage, (channels, blocks) in enumerate([(128 // reduce, 3), (256 // reduce, 3), (512 // reduce, 2)]):
        for block in range(blocks):
            path = f"stage{stage}_{block}"
            shapes[f"{path}_conv1"] = (channels, before, 3, 3)
            shapes[f"{path}_conv2"] = (channels, channels, 3, 3)
            if block == 0:
                shapes[f"{path}_shortcut"] = (channels, before, 1, 1)
            before = channels
    shapes["fc1"] = (256 // reduce, before)
    shapes["fc2"] = (classes, 256 // reduce)
    return shapes


NETWORKS = {"vgg16": vgg16_shapes, "resnet19": resnet19_shapes}
PAIRS = [(i, f) for i in (0.5, 0.6, 0.7, 0.8, 0.9) for f in (0.9, 0.95, 0.98, 0.99) if i <= f]


def half_up(value):
    """Nearest integer, halves up."""
    return math.floor(value + 0.5)


def erk_densities(shapes, sparsity):
    """Solve Σ min(1, ε·raw_l)·N_l = budget for ε by bisection."""
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    raw = {name: sum(shape) / sizes[name] for name, shape in shapes.items()}
    budget = half_up(sum(sizes.values()) * (1 - sparsity) + 1e-6)
    low, high = 0.0, 1 / min(raw.values())
    for _ in range(200):
        middle = (low + high) / 2
        if sum(min(1.0, middle * raw[name]) * sizes[name] for name in shapes) < budget:
            low = middle
        else:
            high = middle
    return {name: min(1.0, high * raw[name]) for name in shapes}, budget


def erk_counts(shapes, sparsity):
    """Round the densities to counts of the exact sum: the largest fractions up, ties by name."""
    densities, budget = erk_densities(shapes, sparsity)
    counts, fractions = {}, {}
    free = [name for name in shapes if densities[name] < 1 - 1e-9]
    for name in set(shapes) - set(free):
        counts[name] = math.prod(shapes[name])
    left = budget - sum(counts.values())
    share = sum(sum(shapes[name]) for name in free)
    for name in free:
        exact = left * sum(shapes[name]) / share
        counts[name] = math.floor(exact)
        fractions[name] = exact - counts[name]
    for name in sorted(free, key=lambda name: (-fractions[name], name))[: budget - sum(counts.values())]:
        counts[name] += 1
    return counts


def scheduled_count(size, initial, final, q, rounds):
    """Eq. 4: N(1 − θ(q)); 1e-7 is far above float64's error and far below the steps of 1/n³."""
    theta_i, theta_f = 1 - initial / size, 1 - final / size
    theta = theta_f + (theta_i - theta_f) * (1 - q / rounds) ** 3
    return half_up(size * (1 - theta) + 1e-7)


def death_ratio(d0, d_min, q, rounds):
    """Eq. 5."""
    return d_min + 0.5 * (d0 - d_min) * (1 + math.cos(math.pi * q / rounds))


def exchange(size, alive, target, ratio, regrow=False):
    """Eq. 6 and 8: how many die and how many are born."""
    die = half_up(ratio * alive)
    born = target - (alive - die)
    if born < 0:
        born, die = 0, alive - target
    free = size - alive
    if not regrow and born > free:
        born, die = free, alive + free - target
    return die, born


def rewire(weights, mask, gradient, die, born, regrow=False):
    """Eq. 7 and 9: the smallest |w| die, the largest |g| of the inactive are born; ties by lower index.

    Args:
        weights: Float64 [N].
        mask: Bool [N].
        gradient: Float64 [N].
        die: Number of deaths.
        born: Number of births.
        regrow: Whether the dead of this round are candidates.

    Returns:
        The new mask, the dead and the born, both in order of rank.
    """
    alive = np.flatnonzero(mask)
    dead = alive[np.argsort(np.abs(weights[alive]), kind="stable")][:die]
    after = mask.copy()
    after[dead] = False
    candidates = np.flatnonzero(~after if regrow else ~mask)
    newborn = candidates[np.argsort(-np.abs(gradient[candidates]), kind="stable")][:born]
    after[newborn] = True
    return after, dead, newborn

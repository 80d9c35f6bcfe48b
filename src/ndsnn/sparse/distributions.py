"""How many weights each layer keeps: ERK, ER and uniform, with exact integer counts.

The budget K = round(total · (1 − sparsity)) is split over the layers in proportion to a size measure a_l:

    erk      a_l = Σ dims(l)                     dims = (n_out, n_in, *kernel)      Evci et al. 2020
    er       a_l = (n_out + n_in) · Π kernel(l)                                     Mocanu et al. 2018
    uniform  a_l = Π dims(l)

so that density_l = ε · a_l / Π dims(l). While ε would push a layer above density 1, all layers of the highest
density become dense and ε is solved again. All arithmetic is in integers: the counts sum to K exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from fractions import Fraction

from ndsnn.errors import ConfigError, SparsityError, unknown_name

Shape = Sequence[int]

DISTRIBUTIONS: dict[str, Callable[[Shape], int]] = {
    "erk": lambda dims: sum(dims),
    "er": lambda dims: (dims[0] + dims[1]) * math.prod(dims[2:]),
    "uniform": lambda dims: math.prod(dims),
}


def check_sparsity(sparsity: float, name: str = "sparsity") -> Fraction:
    """Return `sparsity` as the exact decimal fraction that was written.

    Raises:
        SparsityError: It is not a number in [0, 1).
    """
    if isinstance(sparsity, bool) or not isinstance(sparsity, (int, float)) or not 0 <= sparsity < 1:
        raise SparsityError(f"{name} is {sparsity!r}; it must be a fraction of zeros in [0, 1), such as 0.95")
    return Fraction(str(float(sparsity)))


def alive_budget(total: int, sparsity: float) -> int:
    """Return the number of weights of `total` that stay alive at `sparsity`, rounded to nearest."""
    return round_half_up(total * (1 - check_sparsity(sparsity)))


def round_half_up(value: Fraction) -> int:
    """Return the integer nearest to `value`; halves go up."""
    return math.floor(value + Fraction(1, 2))


def layer_counts(
    shapes: Mapping[str, Shape],
    sparsity: float,
    distribution: str = "erk",
    dense_layers: Collection[str] = (),
) -> dict[str, int]:
    """Split the alive weights of a network over its layers (ERK: Evci et al. 2020).

    The result does not depend on the order of `shapes`.

    Args:
        shapes: Weight shape (n_out, n_in, *kernel) of each layer by name.
        sparsity: Overall fraction of zeros in [0, 1), dense layers counted in.
        distribution: "erk", "er" or "uniform".
        dense_layers: Names of layers that keep all their weights.

    Returns:
        Alive weights per layer; they sum to round(total · (1 − sparsity)) exactly.

    Raises:
        ConfigError: Unknown distribution.
        SparsityError: Sparsity out of range, dense layers alone exceed the budget, or a layer is left empty.
    """
    if distribution not in DISTRIBUTIONS:
        raise ConfigError(unknown_name("distribution", distribution, DISTRIBUTIONS))
    measure = {name: DISTRIBUTIONS[distribution](shape) for name, shape in shapes.items()}
    size = {name: math.prod(shape) for name, shape in shapes.items()}
    budget = alive_budget(sum(size.values()), sparsity)
    saturated = _saturated_layers(measure, size, budget, set(dense_layers))
    free = {name: measure[name] for name in shapes if name not in saturated}
    counts = {name: size[name] for name in saturated}
    counts |= _largest_remainder(free, budget - sum(counts.values()))
    empty = sorted(name for name in shapes if counts[name] == 0)
    if empty:
        raise SparsityError(
            f"sparsity {sparsity} leaves no weight in layer {empty[0]!r} ({size[empty[0]]} weights); "
            f"lower the sparsity or name the layer in dense_layers"
        )
    return {name: counts[name] for name in shapes}


def _saturated_layers(
    measure: Mapping[str, int], size: Mapping[str, int], budget: int, dense: set[str]
) -> set[str]:
    """Return the layers that are dense: the given ones and those that ε would push above density 1."""
    if budget < sum(size[name] for name in dense):
        raise SparsityError(
            f"the dense layers hold {sum(size[n] for n in dense)} weights, more than the {budget} that may stay "
            f"alive; make fewer layers dense or lower the sparsity"
        )
    saturated = set(dense)
    while True:
        free = [name for name in measure if name not in saturated]
        share = sum(measure[name] for name in free)
        left = budget - sum(size[name] for name in saturated)
        if not any(left * measure[name] > share * size[name] for name in free):
            return saturated
        raw = {name: Fraction(measure[name], size[name]) for name in free}
        highest = max(raw.values())
        saturated |= {name for name in free if raw[name] == highest}


def _largest_remainder(measure: Mapping[str, int], budget: int) -> dict[str, int]:
    """Split `budget` in proportion to `measure`; the largest fractions are rounded up, ties go by name."""
    share = sum(measure.values())
    if not share:
        return {}
    counts = {name: budget * part // share for name, part in measure.items()}
    by_fraction = sorted(measure, key=lambda name: (-(budget * measure[name] % share), name))
    for name in by_fraction[: budget - sum(counts.values())]:
        counts[name] += 1
    return counts

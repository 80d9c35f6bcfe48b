"""How methods, data sets and networks are called in a report, and what each method looks like in every figure.

A method has one colour everywhere, in a shade for light and one for dark backgrounds, and a dash and a marker of
its own beside it, so that no curve is told apart by its colour alone. Methods that are not listed get the free
looks in the order of their names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class Look(NamedTuple):
    """What a method looks like.

    Args:
        light: Colour on a light background.
        dark: Colour on a dark one.
        dash: Lengths of strokes and gaps, in line widths; empty for a solid line.
        marker: matplotlib's sign of its points.
    """

    light: str
    dark: str
    dash: tuple[float, ...]
    marker: str


METHOD_NAMES = {
    "dense": "Dense",
    "lth": "LTH",
    "admm": "ADMM",
    "set": "SET",
    "rigl": "RigL",
    "static": "Static",
    "snip": "SNIP",
    "gmp": "GMP",
    "granet": "GraNet",
    "stdp": "STDP pruning",
    "online": "Online pruning",
    "dst-ee": "DST-EE",
    "ndsnn": "NDSNN",
    "ndsnn-random": "NDSNN, random growth",
    "ndsnn-lamp": "NDSNN + LAMP",
}
"""Names of known methods, in the order in which tables list them; others follow."""

DATA_NAMES = {
    "digits": "Digits",
    "fashion-mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "tiny-imagenet": "Tiny-ImageNet",
}

MODEL_NAMES = {
    "vgg": "VGG",
    "vgg16": "VGG-16",
    "resnet19": "ResNet-19",
    "resnet19_tdbn": "ResNet-19 (tdBN)",
    "lenet5": "LeNet-5",
}

LOOKS = {
    "ndsnn": Look("#0b6cc0", "#5fb3f3", (), "o"),
    "dense": Look("#55585e", "#d5d9de", (1, 1.6), "s"),
    "lth": Look("#c94f00", "#ff8a47", (6, 2), "D"),
    "set": Look("#00875f", "#35c79a", (4, 1.5, 1, 1.5), "^"),
    "rigl": Look("#b8408a", "#f58ac8", (3, 1.5), "v"),
    "granet": Look("#604a00", "#f0d264", (8, 2, 1, 2), "P"),
    "dst-ee": Look("#4b2bb0", "#a48bff", (5, 1.5, 1, 1.5, 1, 1.5), "X"),
    "admm": Look("#8f1d2c", "#ff8f96", (2, 1), "h"),
    "gmp": Look("#00707f", "#4fd0de", (10, 3), "<"),
    "static": Look("#75604b", "#cdb598", (1, 3), ">"),
    "snip": Look("#3d6b1f", "#a5d67d", (6, 2, 2, 2), "p"),
    "stdp": Look("#84349c", "#dc9cf0", (3, 3), "*"),
    "ndsnn-lamp": Look("#0a2a4d", "#d6ebff", (14, 2), "H"),
    "ndsnn-random": Look("#3a5f8f", "#9cc3ea", (1, 1, 3, 1), "8"),
    "online": Look("#a3415b", "#f7a3b7", (9, 1.5, 1, 1.5, 1, 1.5), "d"),
}

FREE_LOOKS = (
    Look("#b3261e", "#ff9d94", (12, 2), "*"),
    Look("#0f5f78", "#86c9dc", (2, 2, 6, 2), "H"),
    Look("#5f6b00", "#c9d65a", (1, 1, 4, 1), "p"),
    Look("#6d4c7d", "#cfaee0", (3, 1, 1, 3), "<"),
)


def method_name(method: str) -> str:
    """Return how a method is called in a report."""
    return METHOD_NAMES.get(method, method)


def method_order(method: str) -> tuple[int, str]:
    """Return what methods are sorted by."""
    names = list(METHOD_NAMES)
    return (names.index(method) if method in names else len(names), method)


def looks(methods: Iterable[str]) -> dict[str, Look]:
    """Return the look of each method of a report."""
    unknown = sorted(set(methods) - LOOKS.keys())
    own = {name: FREE_LOOKS[place % len(FREE_LOOKS)] for place, name in enumerate(unknown)}
    return {name: LOOKS[name] if name in LOOKS else own[name] for name in sorted(set(methods), key=method_order)}


def network_name(settings: Mapping[str, Any]) -> str:
    """Return how the network of a run is called: its name, its layers where they are its own, and T."""
    name = MODEL_NAMES.get(settings["model.name"], settings["model.name"])
    layers = settings["model.layers"]
    if layers is not None:
        name += " " + "-".join(map(str, layers))
    return f"{name}, T = {settings['model.time_steps']}"


def data_name(settings: Mapping[str, Any]) -> str:
    """Return how the data set of a run is called."""
    return DATA_NAMES.get(settings["data.name"], settings["data.name"])


def setting_text(key: str, value: Any) -> str:
    """Return a setting for a person: its name without its section, and its value."""
    if value is None:
        text = "by default"
    elif isinstance(value, tuple):
        text = "-".join(map(str, value)) or "none"
    elif isinstance(value, bool):
        text = "yes" if value else "no"
    else:
        text = f"{value:g}" if isinstance(value, float) else str(value)
    name = key.removeprefix("method.settings.").removeprefix("method.").removeprefix("model.")
    return f"{name.replace('_', ' ')} {text}"


def percent(fraction: float) -> str:
    """Return a sparsity as a person writes it: as many decimals as it needs, at most two."""
    return f"{100 * fraction:.2f}".rstrip("0").rstrip(".") + " %"

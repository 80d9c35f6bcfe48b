"""What all builders of networks share: checked arguments, neurons, norms, initial weights, and the way back."""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, ParamSpec, TypeVar

from torch import nn

from ndsnn.errors import ConfigError, unknown_name
from ndsnn.models.layers import BatchNorm2d, ThresholdBatchNorm2d
from ndsnn.neurons import LIF, LIFParameters
from ndsnn.registry import Registry

Neuron = nn.Module | LIFParameters | Mapping[str, Any] | Callable[[], nn.Module] | None
"""A neuron to put in every place: see `NeuronFactory`."""

NORMS = ("bn", "tdbn")
"""Names of the norms: batch norm, and threshold-dependent batch norm."""

MODELS: Registry[Callable[..., nn.Module]] = Registry("model")
"""The builders by name."""

P = ParamSpec("P")
Net = TypeVar("Net", bound=nn.Module)


def require_integer(name: str, value: object, minimum: int = 1) -> int:
    """Return `value` if it is an integer of at least `minimum`.

    Raises:
        ConfigError: It is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ConfigError(f"{name} must be an integer of at least {minimum}, got {value!r}")
    return value


def scaled(channels: int, width: float) -> int:
    """Return max(1, round(channels · width)).

    Raises:
        ConfigError: `width` is not a finite number above 0.
    """
    if isinstance(width, bool) or not isinstance(width, int | float) or not 0 < width < math.inf:
        raise ConfigError(f"width must be a finite number above 0, got {width!r}")
    return max(1, round(channels * width))


class NeuronFactory:
    """Makes a new neuron layer at every call.

    Args:
        neuron: None for `LIF()`; `LIFParameters`, or a mapping of `LIF`'s arguments; a module, which is copied; or
            a callable without arguments that returns a module.

    Attributes:
        config: JSON-able description that makes the same neuron again, None for the default.
        rebuildable: Whether `config` says it all, which it can't of a foreign module or a callable.

    Raises:
        ConfigError: `neuron` is nothing of that kind.
    """

    def __init__(self, neuron: Neuron) -> None:
        self.config: dict[str, Any] | None = None
        self.rebuildable = True
        self._make: Callable[[], nn.Module]
        if neuron is None:
            self._make = LIF
            return
        if isinstance(neuron, Mapping):
            neuron = _lif_from_mapping(neuron)
        elif isinstance(neuron, LIFParameters):
            neuron = LIF.from_config(neuron)
        if isinstance(neuron, nn.Module):
            self._make = functools.partial(copy.deepcopy, neuron)
        elif callable(neuron):
            self._make = neuron
        else:
            raise ConfigError(f"neuron must be an LIF, LIFParameters, a module or a callable, got {neuron!r}")
        self.rebuildable = type(neuron) is LIF
        if isinstance(neuron, LIF) and self.rebuildable:
            self.config = asdict(neuron.config) | ({"stateful": True} if neuron.stateful else {})

    def __call__(self) -> nn.Module:
        """Return a new neuron layer without state.

        Raises:
            ConfigError: The user's callable returned something that is no module.
        """
        made = self._make()
        if not isinstance(made, nn.Module):
            raise ConfigError(f"the neuron callable must return a module, got {made!r}")
        if isinstance(made, LIF):
            made.reset()
        return made


def _lif_from_mapping(arguments: Mapping[str, Any]) -> LIF:
    known = inspect.signature(LIF).parameters
    for name in arguments:
        if name not in known:
            raise ConfigError(unknown_name("neuron setting", str(name), known))
    return LIF(**arguments)


def norm_factory(norm: str, neuron: NeuronFactory) -> Callable[..., BatchNorm2d]:
    """Return the maker of norms, called as `(channels)` or `(channels, alpha=…)`.

    Args:
        norm: "bn", or "tdbn" with the threshold of the neurons: that of `LIF.config`, or else of an attribute
            `v_threshold` as other frameworks' neurons have.
        neuron: Maker of the neurons behind.

    Raises:
        ConfigError: The name is unknown, or tdbn cannot tell the neuron's threshold.
    """
    if norm not in NORMS:
        raise ConfigError(unknown_name("norm", str(norm), NORMS))
    if norm == "bn":
        return lambda channels, alpha=1.0: BatchNorm2d(channels)
    sample = neuron()
    threshold = sample.config.v_threshold if isinstance(sample, LIF) else getattr(sample, "v_threshold", None)
    if threshold is None:
        raise ConfigError(f"norm 'tdbn' needs a neuron with a v_threshold; {type(sample).__name__} has none")
    return lambda channels, alpha=1.0: ThresholdBatchNorm2d(channels, alpha, float(threshold))


def initialise(net: nn.Module, readout: nn.Linear) -> None:
    """Draw the first weights from torch's global generator.

    Convolutions and linear layers with neurons behind them: kaiming normal, fan out. The readout: N(0, 0.01²),
    which in front of neurons would leave all of them silent. Biases 0. Norms keep γ = 1, β = 0.

    Args:
        net: The network, changed in place.
        readout: Its last layer.
    """
    for module in net.modules():
        if module is readout:
            nn.init.normal_(readout.weight, 0.0, 0.01)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def buildable(name: str) -> Callable[[Callable[P, Net]], Callable[P, Net]]:
    """Return a decorator that files a builder in `MODELS` and has its networks remember how they were built.

    The network gets an attribute `build_config`, {"name": name, "kwargs": {…}}, from which `build` makes it again.
    It is JSON-able; "neuron" is None or a dict of LIF's arguments. It is None if the neuron was a foreign module
    or a callable, which a name can't bring back.

    Args:
        name: The builder's name.
    """

    def decorate(builder: Callable[P, Net]) -> Callable[P, Net]:
        signature = inspect.signature(builder)

        @functools.wraps(builder)
        def build_and_remember(*args: P.args, **kwargs: P.kwargs) -> Net:
            net = builder(*args, **kwargs)
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            neuron = NeuronFactory(bound.arguments["neuron"])
            settings = {key: list(v) if isinstance(v, tuple) else v for key, v in bound.arguments.items()}
            settings["neuron"] = neuron.config
            net.build_config = {"name": name, "kwargs": copy.deepcopy(settings)} if neuron.rebuildable else None  # type: ignore[assignment]
            return net

        MODELS.register(name)(build_and_remember)
        return build_and_remember

    return decorate


def build(build_config: Mapping[str, Any]) -> nn.Module:
    """Build a network from the `build_config` of another one; the weights are drawn anew.

    Args:
        build_config: {"name": a key of `MODELS`, "kwargs": the builder's arguments}.

    Returns:
        The network.

    Raises:
        ConfigError: The name or an argument is unknown, missing or out of range.
    """
    if not isinstance(build_config, Mapping) or set(build_config) != {"name", "kwargs"}:
        raise ConfigError(f'a build_config has the keys "name" and "kwargs", got {build_config!r}')
    name, kwargs = build_config["name"], build_config["kwargs"]
    if not isinstance(name, str) or not isinstance(kwargs, Mapping):
        raise ConfigError(f"a build_config holds a model's name and its arguments, got {build_config!r}")
    builder = MODELS[name]
    parameters = inspect.signature(builder).parameters
    for key in kwargs:
        if key not in parameters:
            raise ConfigError(unknown_name(f"{name} argument", str(key), parameters))
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in kwargs:
            raise ConfigError(f"model {name!r} needs the argument {key!r}")
    return builder(**kwargs)

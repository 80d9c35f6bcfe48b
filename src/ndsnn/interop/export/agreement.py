"""Does an exported file compute what the network computes? Asked of other people's simulators."""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ndsnn.errors import ExportError, MissingDependencyError
from ndsnn.interop.export.network import FoldedNetwork
from ndsnn.interop.export.nir import DEFAULT_DT
from ndsnn.interop.export.simulation import Simulation


@dataclass(frozen=True)
class Agreement:
    """How a run of an exported file compares with `simulate` on the same input.

    Args:
        simulator: What ran it.
        version: Of that.
        images: How many.
        largest_difference: max |logits − logits|.
        largest_logit: max |logits|, to hold that against.
        predictions: Fraction of images of the same class by the mean over steps.
        spikes: Fraction of equal spikes (and silences) of each layer of neurons; empty where they cannot be seen.
        rates: Spikes per neuron and step of each layer in `simulate`.
    """

    simulator: str
    version: str
    images: int
    largest_difference: float
    largest_logit: float
    predictions: float
    spikes: dict[str, float]
    rates: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """Return the figures as JSON-able values."""
        return asdict(self)


def onnx_agreement(path: Path, x: Tensor, expected: Simulation) -> Agreement:
    """Run an ONNX file in onnxruntime.

    Args:
        path: The file.
        x: Input of the network.
        expected: What `simulate` made of it.

    Raises:
        MissingDependencyError: onnxruntime is not there.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError("to run an ONNX file takes onnxruntime: pip install onnxruntime") from error
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    logits = torch.from_numpy(session.run(None, {given.name: x.numpy()})[0])
    return _compare("onnxruntime", onnxruntime.__version__, logits, {}, expected)


def nir_agreement(
    path: Path, network: FoldedNetwork, x: Tensor, expected: Simulation, simulator: str, dt: float = DEFAULT_DT
) -> Agreement:
    """Run a NIR file in another simulator, step by step.

    Args:
        path: The file.
        network: What it was made of.
        x: Input of the network.
        expected: What `simulate` made of it.
        simulator: A key of `SIMULATORS`.
        dt: Seconds of a step.

    Raises:
        MissingDependencyError: The simulator is not there.
        ExportError: It is known to take the graph for another one.
        Exception: Whatever the simulator raises where it cannot import or run the graph.
    """
    from importlib.metadata import version

    try:
        load = SIMULATORS[simulator]
        with _quiet():
            module = load(path, dt)
    except ImportError as error:
        raise MissingDependencyError(f"{simulator} is not installed: pip install {simulator}") from error
    logits, spikes = _run(module, x, network)
    return _compare(simulator, version(simulator), logits, spikes, expected)


def _snntorch(path: Path, dt: float) -> nn.Module:
    import nir

    if dt != DEFAULT_DT:
        raise ExportError(f"snnTorch imports with a step of {DEFAULT_DT} s only, not {dt}")
    module = importlib.import_module("snntorch.import_nir")
    net: nn.Module = module.import_from_nir(nir.read(path))
    return net


def _spikingjelly(path: Path, dt: float) -> nn.Module:
    import nir

    module = importlib.import_module("spikingjelly.activation_based.nir_exchange.from_nir")
    net: nn.Module = module.import_from_nir(nir.read(path), dt=dt)
    return net


def _norse(path: Path, dt: float) -> nn.Module:
    import nir

    graph = nir.read(path)
    # Norse 1.1 leaves out and ignores all this without an error.
    for name, node in graph.nodes.items():
        if isinstance(node, nir.AvgPool2d):
            raise ExportError(f"Norse has no import of the average pool {name!r}")
        if isinstance(node, nir.LIF) and ((node.r != 1).any() or node.v_reset.any()):
            raise ExportError(f"Norse takes R = 1 and v_reset = 0 whatever the neuron {name!r} has")
    net: nn.Module = importlib.import_module("norse.torch").from_nir(graph, dt=dt)
    return net


SIMULATORS: dict[str, Callable[[Path, float], nn.Module]] = {
    "snntorch": _snntorch,
    "spikingjelly": _spikingjelly,
    "norse": _norse,
}
"""How to import a NIR file, by the name of the package."""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what importers print off the standard output."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


@torch.no_grad()
def _run(module: nn.Module, x: Tensor, network: FoldedNetwork) -> tuple[Tensor, dict[str, Tensor]]:
    """Return logits [T, N, *] and what every part of an imported graph gave [T, N, *], by its name."""
    seen: dict[str, list[Tensor]] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda part, given, result: seen.setdefault(name, []).append(_tensor(result))

    hooks = [part.register_forward_hook(keep(name)) for name, part in module.named_children()]
    state: Any = None
    logits = []
    try:
        with _quiet():
            for t in range(network.time_steps):
                step = x[t] if network.events else x
                result = module(step) if state is None else module(step, state)
                if isinstance(result, tuple):
                    state = result[1]
                logits.append(_tensor(result))
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(logits), {name: torch.stack(steps) for name, steps in seen.items()}


def _tensor(result: Any) -> Tensor:
    tensor: Tensor = result[0] if isinstance(result, tuple) else result
    return tensor.detach().clone()


def _compare(
    simulator: str, version: str, logits: Tensor, parts: dict[str, Tensor], expected: Simulation
) -> Agreement:
    spikes = {}
    for path, own in expected.spikes.items():
        other = parts.get(path.replace(".", "_"))
        if other is not None:
            spikes[path] = float((other.flatten(2) == own.flatten(2)).double().mean())
    same = logits.mean(0).argmax(1) == expected.logits.mean(0).argmax(1)
    return Agreement(
        simulator,
        version,
        logits.shape[1],
        float((logits - expected.logits).abs().max()),
        float(expected.logits.abs().max()),
        float(same.float().mean()),
        spikes,
        {path: float(own.mean()) for path, own in expected.spikes.items()},
    )

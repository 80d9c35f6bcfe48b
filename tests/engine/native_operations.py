"""Every operation of the native back end once, on maps of one choice."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from native_layers import Layer, random, whole_or_normal
from native_sides import NativeSide
from torch import Tensor

from ndsnn.engine.ops import Affine, InputTerm, MapShape
from ndsnn.neurons import LIFParameters

NEURON = LIFParameters(2.0, 1.0, 0.0, detach_reset=False, surrogate="rectangle", alpha=0.5)
"""With whole numbers in, all that comes out of it and of its backward pass is without rounding."""


@dataclass(frozen=True)
class Operation:
    """One call.

    Args:
        run: Makes it; returns all it returns and all it has written.
        written: The maps it writes.
        clean: Whether lanes without a sample must be 0 there: in spikes and gradients.
    """

    run: Callable[[], list[Tensor]]
    written: tuple[Any, ...] = ()
    clean: bool = True


@dataclass(frozen=True)
class Scene:
    """The maps that the operations work on: C channels in and out, H × W.

    Args:
        side: Back end.
        layer: A layer with as many channels in as out, so that it works in place.
        others: The same with other weights and input: strided, and those for which kernels go by spikes.
    """

    side: NativeSide
    layer: Layer
    others: dict[str, Layer]

    def values(self, steps: int, size: tuple[int, int], seed: int) -> Tensor:
        shape = (steps, self.layer.samples, self.layer.outputs, *size)
        return whole_or_normal(shape, self.layer.whole, random(seed))

    def empty(self, steps: int, size: tuple[int, int], spikes: bool = False) -> Any:
        return self.side.empty(MapShape(steps, self.layer.outputs, *size), spikes)


def operations(
    whole: bool, samples: int = 11, size: tuple[int, int] = (9, 11), isa: str | None = None
) -> tuple[NativeSide, dict[str, Operation]]:
    """Return a back end and what can be called on it, by name; the arena is large enough for all."""
    layer = Layer(12, 12, size=size, steps=3, samples=samples, whole=whole, density=0.1)
    side = NativeSide(layer.steps, samples, layer.isa if isa is None else isa, nbytes=2**23)
    others = {
        "strided": replace(layer, stride=2, seed=1, density=1.0, rate=None),
        "half dense": replace(layer, seed=2, density=0.5, rate=0.02),
        "dense": replace(layer, seed=3, density=1.0, rate=0.02),
    }
    scene = Scene(side, layer, others)
    found: dict[str, Operation] = {}
    for part in (_currents, _synapses, _neurons, _max_pools, _averages, _copies):
        found.update(part(scene))
    return side, found


def _currents(scene: Scene) -> dict[str, Operation]:
    backend, kept = scene.side.backend, scene.empty(scene.layer.steps, scene.layer.size)
    current, stored = (scene.layer.connected().on(scene.side, map_) for map_ in (None, kept))
    others = {name: layer.connected().on(scene.side) for name, layer in scene.others.items()}
    return {
        **{f"statistics, {name}": _statistics(backend, one) for name, one in others.items()},
        "statistics": _statistics(backend, current),
        "statistics, stored": Operation(
            lambda: [*backend.statistics(stored), backend.unload(kept)], (kept,), False
        ),
        "evaluate": Operation(lambda: [backend.evaluate(current)]),
    }


def _statistics(backend: Any, current: Any) -> Operation:
    return Operation(lambda: [*backend.statistics(current)])


def _synapses(scene: Scene) -> dict[str, Operation]:
    """All layers, with and without a gradient of the source; in place."""
    backend, steps, found = scene.side.backend, scene.layer.steps, {}

    def operation(layer: Layer, into: Any, accumulate: bool, in_place: bool = False) -> Operation:
        current = layer.connected().on(scene.side)
        values = scene.values(steps, layer.out_size, 3)
        grad_x = scene.side.floats(values)
        affine = tuple(whole_or_normal((3, layer.outputs), layer.whole, random(4)).double())
        before = scene.values(steps, layer.size, 5)
        into = grad_x if in_place else into

        def run() -> list[Tensor]:
            pieces: list[Tensor] = []
            if in_place or accumulate:
                backend.load(values if in_place else before, into)
            weights = backend.synapse_backward(
                current, grad_x, affine, into, accumulate, lambda _, piece: pieces.append(piece)
            )
            return [weights, *pieces, *([] if into is None else [backend.unload(into)])]

        return Operation(run, () if into is None else (into,))

    for name, layer in (("layer", scene.layer), *scene.others.items()):
        found[f"synapse_backward, {name}"] = operation(layer, scene.empty(steps, layer.size), False)
        found[f"synapse_backward, {name}, accumulate"] = operation(layer, scene.empty(steps, layer.size), True)
        found[f"synapse_backward, {name}, weights only"] = operation(layer, None, False)
    found["synapse_backward, in place"] = operation(scene.layer, None, False, in_place=True)
    return found


def _neurons(scene: Scene) -> dict[str, Operation]:
    """All kinds of input, without and with a pool."""
    backend, steps, size, found = scene.side.backend, scene.layer.steps, scene.layer.size, {}
    channels = scene.layer.outputs
    affine = Affine(torch.full((channels,), 0.5, dtype=torch.float64), torch.zeros(channels, dtype=torch.float64))
    kept = scene.empty(steps, size)
    dense = scene.others["dense"].connected()
    computed, stored = (InputTerm(dense.on(scene.side, map_), affine) for map_ in (None, kept))
    backend.statistics(stored.value)
    sparse = InputTerm(scene.layer.connected().on(scene.side), affine)
    spikes = scene.side.spikes((scene.values(steps, size, 6) > 1).float())
    terms_by_name = {
        "once": [InputTerm(scene.side.floats(scene.values(1, size, 7)), None)],
        "computed": [computed],
        "two": [sparse, stored],
        "with spikes": [stored, InputTerm(spikes, None)],
        "several": [sparse, computed, InputTerm(spikes, None)],
    }

    def forward(terms: list[InputTerm], pool: int, out: Any) -> Callable[[], list[Tensor]]:
        return lambda: [
            torch.tensor(backend.neuron_forward(terms, NEURON, pool, out)),
            backend.unload(out),
        ]

    def backward(terms: list[InputTerm], pool: int, grad_out: Any, into: Any) -> Callable[[], list[Tensor]]:
        def run() -> list[Tensor]:
            result = backend.neuron_backward(terms, NEURON, pool, grad_out, into)
            sums = [part for part in result.sum_gx_y if part is not None]
            return [result.sum_gx, *sums, backend.unload(into)]

        return run

    for name, terms in terms_by_name.items():
        for pool in (1, 3):
            pooled = (size[0] // pool, size[1] // pool)
            out = scene.empty(steps, pooled, spikes=True)
            found[f"neuron_forward, {name}, pool {pool}"] = Operation(forward(terms, pool, out), (out,))
            into = scene.empty(1 if name == "once" else steps, size)
            grad_out = scene.side.floats(scene.values(steps, pooled, 8))
            found[f"neuron_backward, {name}, pool {pool}"] = Operation(
                backward(terms, pool, grad_out, into), (into,)
            )
    return found


def _max_pools(scene: Scene) -> dict[str, Operation]:
    backend, steps, size = scene.side.backend, scene.layer.steps, scene.layer.size
    pooled = (size[0] // 2, size[1] // 2)
    source = scene.side.spikes((scene.values(steps, size, 10) > 1).float())
    out, into = scene.empty(steps, pooled, spikes=True), scene.empty(steps, size)
    grad = scene.side.floats(scene.values(steps, pooled, 11))

    def forward() -> list[Tensor]:
        backend.max_pool(source, 2, out)
        return [backend.unload(out)]

    def backward() -> list[Tensor]:
        backend.max_pool_backward(source, 2, grad, into, False)
        return [backend.unload(into)]

    return {"max_pool": Operation(forward, (out,)), "max_pool_backward": Operation(backward, (into,))}


def _averages(scene: Scene) -> dict[str, Operation]:
    backend, steps, size, found = scene.side.backend, scene.layer.steps, scene.layer.size, {}
    source = scene.side.spikes((scene.values(steps, size, 12) > 1).float())

    def forward(side: int, out: Any) -> Callable[[], list[Tensor]]:
        def run() -> list[Tensor]:
            backend.avg_pool(source, out, side)
            return [backend.unload(out)]

        return run

    def backward(side: int, grad: Any, into: Any) -> Callable[[], list[Tensor]]:
        def run() -> list[Tensor]:
            backend.avg_pool_backward(grad, into, side, False)
            return [backend.unload(into)]

        return run

    for side, pooled in ((3, (size[0] // 3, size[1] // 3)), (0, (3, 5))):
        out, into = scene.empty(steps, pooled), scene.empty(steps, size)
        found[f"avg_pool {side}"] = Operation(forward(side, out), (out,), False)
        grad = scene.side.floats(scene.values(steps, pooled, 13))
        found[f"avg_pool_backward {side}"] = Operation(backward(side, grad, into), (into,))
    return found


def _copies(scene: Scene) -> dict[str, Operation]:
    backend, steps, size = scene.side.backend, scene.layer.steps, scene.layer.size
    values = scene.values(steps, size, 14)
    source, into, loaded = scene.side.floats(values), scene.side.floats(values), scene.empty(steps, size)

    def add() -> list[Tensor]:
        backend.load(values, into)
        backend.add(source, into)
        return [backend.unload(into)]

    def load() -> list[Tensor]:
        backend.load(values, loaded)
        return [backend.unload(loaded)]

    return {
        "add": Operation(add, (into,)),
        "load": Operation(load, (loaded,)),
        "counts": Operation(lambda: [backend.counts(source)]),
    }

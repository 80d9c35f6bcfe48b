"""`ndsnn bench`: on this machine, the engine against dense torch, in time and memory, and layer by layer."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from ndsnn.engine.backends import PRECISIONS, choose_backend
from ndsnn.engine.executor import MEMORY_MODES
from ndsnn.engine.module import Accelerated
from ndsnn.engine.native import instruction_set
from ndsnn.errors import ConfigError, unknown_name
from ndsnn.evaluation.bench.layers import LayerBench
from ndsnn.evaluation.bench.limits import Limits, probe_limits
from ndsnn.evaluation.bench.memory import MemoryRequest, peak_growth_mb, require_measurable
from ndsnn.evaluation.bench.nets import (
    Activity,
    Contestant,
    Workload,
    dense_firing_rate,
    engine_activity,
    require_model,
)
from ndsnn.evaluation.bench.timing import fastest, interleaved, ratio
from ndsnn.sparse.distributions import check_sparsity
from ndsnn.training.machine import machine, versions

FORMAT_ROUNDS = 3
"""Rounds that decide which memory format the dense network runs in."""

_PEAK_KEYS = (
    "dense_peak_mb",
    "engine_peak_mb",
    "memory_ratio",
    "engine_recompute_peak_mb",
    "recompute_memory_ratio",
)

Say = Callable[[str], None]
"""Is told what is being measured."""

_RANGES = {"batch": (1, 4096), "time_steps": (1, 1000), "rounds": (1, 10000), "image_size": (8, 4096)}
_RANGES |= {"threads": (1, 4096), "seed": (0, 2**63 - 1)}


@dataclass(frozen=True)
class BenchOptions:
    """What to measure.

    Args:
        models: Names of networks.
        batches: Batch sizes N.
        time_steps: T.
        sparsities: Fractions of zeros of the engine's networks.
        memory: Of the engine, as in `ndsnn.accelerate`.
        precision: Of the engine, as in `ndsnn.accelerate`.
        threads: Of torch and the engine; None takes torch's own number.
        rounds: Rounds of which the median counts.
        width: Factor on the numbers of channels.
        image_size: Height and width of the images.
        seed: Of weights, connections and images.
        layers: Whether the kernels of every layer are timed alone, at the largest batch.
        peaks: Whether the growth of memory is measured.

    Raises:
        ConfigError: A setting is unknown or out of range.
        SparsityError: A sparsity is out of range.
    """

    models: tuple[str, ...] = ("vgg16", "resnet19")
    batches: tuple[int, ...] = (32, 64)
    time_steps: int = 5
    sparsities: tuple[float, ...] = (0.0, 0.9, 0.95, 0.98, 0.99)
    memory: str = "auto"
    precision: str = "fp32"
    threads: int | None = None
    rounds: int = 5
    width: float = 1.0
    image_size: int = 32
    seed: int = 0
    layers: bool = True
    peaks: bool = True

    def __post_init__(self) -> None:
        for model in self.models:
            require_model(model)
        if self.memory not in MEMORY_MODES:
            raise ConfigError(unknown_name("memory mode", self.memory, MEMORY_MODES))
        if self.precision not in PRECISIONS:
            raise ConfigError(unknown_name("precision", self.precision, PRECISIONS))
        for sparsity in self.sparsities:
            check_sparsity(sparsity)
        values = {name: getattr(self, name) for name in ("time_steps", "rounds", "image_size", "threads", "seed")}
        for name, value in [*values.items(), *(("batch", batch) for batch in self.batches)]:
            lowest, highest = _RANGES[name]
            if value is not None and not lowest <= value <= highest:
                raise ConfigError(f"{name} is {value}; it must be from {lowest} to {highest}")

    def workloads(self) -> Iterator[Workload]:
        """Yield every network with every batch, once."""
        for model in dict.fromkeys(self.models):
            for batch in dict.fromkeys(self.batches):
                yield Workload(model, batch, self.time_steps, self.width, self.image_size, self.seed)


def run_bench(options: BenchOptions, say: Say) -> dict[str, Any]:
    """Measure everything that was asked for.

    Args:
        options: What.
        say: Is told what is being measured.

    Returns:
        "machine" with its limits, "threads", and "cases", one for each network, batch and sparsity; all JSON-able.

    Raises:
        MissingDependencyError: The native engine is not available here.
        ConfigError: A setting is out of range, the environment asks for another back end, or memory can't be
            measured here.
        SparsityError: A network can't have a sparsity.
    """
    choose_backend("native", options.precision, torch.float32)
    if options.peaks:
        require_measurable()
    for workload in options.workloads():
        for sparsity in options.sparsities:
            workload.check(sparsity)
    with _threads(options.threads):
        isa = instruction_set()
        say("limits of the machine")
        limits = probe_limits(isa)
        about = machine() | versions() | {"isa": isa} | asdict(limits)
        cases = [
            case for workload in options.workloads() for case in _Bench(options, workload, limits, say).cases()
        ]
        return {"machine": about, "threads": torch.get_num_threads(), "cases": cases}


class _Bench:
    """Measures one network at one batch size."""

    def __init__(self, options: BenchOptions, workload: Workload, limits: Limits, say: Say) -> None:
        self.options, self.workload, self.limits = options, workload, limits
        self.sparsities = tuple(dict.fromkeys(options.sparsities))
        self._say = say

    def cases(self) -> list[dict[str, Any]]:
        """Return a case for every sparsity."""
        cases, dense_format = self._timed()
        if self.options.peaks:
            self._measure_memory(cases, dense_format)
        return cases

    def say(self, what: str) -> None:
        """Tell what is being measured."""
        self._say(f"{self.workload.model}, batch {self.workload.batch}: {what}")

    def _timed(self) -> tuple[list[dict[str, Any]], str]:
        """Return the cases without memory, and the format in which the dense network trains faster."""
        dense, step_format, inference_format = self._dense()
        self.say("building the engine's networks")
        engines = {s: self._engine(s) for s in self.sparsities}
        self.say(f"training steps of {1 + len(engines)} contestants, rounds: {self.options.rounds}")
        steps = _race(dense[step_format], engines, Contestant.step, self.options.rounds)
        dense_rate = dense_firing_rate(dense[step_format])
        activities = {sparsity: engine_activity(one) for sparsity, one in engines.items()}
        layers = {sparsity: self._layers(sparsity, one, activities[sparsity]) for sparsity, one in engines.items()}
        for one in (dense[inference_format], *engines.values()):
            one.net.eval()
        self.say(f"inference of {1 + len(engines)} contestants, rounds: {self.options.rounds}")
        inferences = _race(dense[inference_format], engines, Contestant.infer, self.options.rounds)
        cases = [
            self._settings(sparsity)
            | _compared(steps, sparsity, "step", "speedup")
            | _compared(inferences, sparsity, "inference", "inference_speedup")
            | dict.fromkeys(_PEAK_KEYS)
            | {"dense_format": step_format, "dense_inference_format": inference_format}
            | {"firing_rate": activities[sparsity].firing_rate, "dense_firing_rate": dense_rate}
            | {"layers": layers[sparsity]}
            for sparsity in engines
        ]
        return cases, step_format

    def _dense(self) -> tuple[dict[str, Contestant], str, str]:
        """Return the dense networks by memory format, and the formats of the faster training and inference.

        Each has taken a training step, so that its norms have their statistics.
        """
        formats = self.workload.formats()
        self.say(f"dense torch, {' and '.join(formats)}")
        dense = {name: self.workload.dense(name) for name in formats}
        step_format = fastest({name: one.step for name, one in dense.items()}, FORMAT_ROUNDS)
        for one in dense.values():
            one.net.eval()
        inference_format = fastest({name: one.infer for name, one in dense.items()}, FORMAT_ROUNDS)
        dense[step_format].net.train()
        return {name: dense[name] for name in {step_format, inference_format}}, step_format, inference_format

    def _engine(self, sparsity: float) -> Contestant:
        return self.workload.engine(sparsity, self.options.memory, self.options.precision)

    def _layers(self, sparsity: float, contestant: Contestant, activity: Activity) -> list[dict[str, Any]]:
        """Return the layers' rows if they are wanted, which they are at the largest batch."""
        options = self.options
        if not options.layers or self.workload.batch != max(options.batches):
            return []
        self.say(f"kernels of every layer at sparsity {sparsity:g}")
        assert isinstance(contestant.net, Accelerated)
        bench = LayerBench(contestant.net, self.workload, activity, self.limits, options.rounds, options.precision)
        return bench.rows()

    def _settings(self, sparsity: float) -> dict[str, Any]:
        options, workload = self.options, self.workload
        return {
            "model": workload.model,
            "batch": workload.batch,
            "time_steps": workload.time_steps,
            "sparsity": sparsity,
            "width": workload.width,
            "image_size": workload.image_size,
            "seed": workload.seed,
            "memory": options.memory,
            "precision": options.precision,
            "rounds": options.rounds,
        }

    def _measure_memory(self, cases: list[dict[str, Any]], dense_format: str) -> None:
        """Fill the cases' peaks in."""
        # What the other processes find free decides how the engine runs with memory "auto".
        gc.collect()
        threads = torch.get_num_threads()
        self.say("memory of dense torch")
        dense = peak_growth_mb(MemoryRequest(self.workload, threads, dense_format))
        for case in cases:
            peaks = {}
            for memory in dict.fromkeys((self.options.memory, "recompute")):
                self.say(f"memory of the engine at sparsity {case['sparsity']:g}, {memory}")
                peaks[memory] = peak_growth_mb(
                    MemoryRequest(self.workload, threads, None, case["sparsity"], memory, self.options.precision)
                )
            asked, recompute = peaks[self.options.memory], peaks["recompute"]
            case |= dict(zip(_PEAK_KEYS, (dense, asked, dense / asked, recompute, dense / recompute), strict=True))


def _race(
    dense: Contestant, engines: dict[float, Contestant], run: Callable[[Contestant], None], rounds: int
) -> dict[float | None, list[float]]:
    """Return the seconds of every round by sparsity, with None for the dense network."""
    everyone: list[tuple[float | None, Contestant]] = [(None, dense), *engines.items()]
    return interleaved({sparsity: partial(run, one) for sparsity, one in everyone}, rounds)


def _compared(
    seconds: Mapping[float | None, list[float]], sparsity: float, what: str, speedup: str
) -> dict[str, float]:
    """Return the medians of dense network and engine, and how many times faster the engine is."""
    faster = ratio(seconds[None], seconds[sparsity])
    return {
        f"dense_{what}_s": statistics.median(seconds[None]),
        f"engine_{what}_s": statistics.median(seconds[sparsity]),
        speedup: faster.median,
        f"{speedup}_min": faster.lowest,
        f"{speedup}_max": faster.highest,
    }


@contextmanager
def _threads(wanted: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(before if wanted is None else wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)

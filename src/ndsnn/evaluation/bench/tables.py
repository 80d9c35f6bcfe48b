"""Tables of a bench for people."""

from __future__ import annotations

from itertools import groupby
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table


def print_bench(result: dict[str, Any], console: Console) -> None:
    """Print what `run_bench` measured: the machine, times and memory of each network, and its layers."""
    console.print(_machine_line(result), highlight=False)
    for model, cases in groupby(result["cases"], key=lambda case: case["model"]):
        of_model = list(cases)
        console.print(_times(model, of_model))
        if of_model[0]["engine_peak_mb"] is not None:
            console.print(_peaks(of_model))
        for case in of_model:
            if case["layers"]:
                console.print(_layers(case))
    if any(case["layers"] for case in result["cases"]):
        console.print(
            "limit: share of the time that the kernel could not do without, by arithmetic (a) or memory (m); "
            "above 100% where caches held the data\n",
            highlight=False,
        )


def _machine_line(result: dict[str, Any]) -> str:
    machine, first = result["machine"], result["cases"][0]
    return (
        f"{machine['processor']}, {machine['cores']} cores, {result['threads']} threads, {machine['isa']}, "
        f"torch {machine['torch']}, ndsnn {machine['ndsnn']}\n"
        f"at best {machine['fma_gmacs']:.1f} GMAC/s, {machine['read_gbs']:.1f} GB/s read, "
        f"{machine['write_gbs']:.1f} GB/s copied\n"
        f"T = {first['time_steps']}, {first['image_size']}×{first['image_size']} images, "
        f"width {first['width']:g}, seed {first['seed']}, {first['precision']}, memory {first['memory']}; "
        f"medians of n = {first['rounds']} interleaved rounds (lowest – highest)"
    )


def _times(model: str, cases: list[dict[str, Any]]) -> Table:
    title = f"{model}: seconds of a training step (forward, loss, backward) and of inference"
    table = _table(title, "batch", "sparsity", "firing\nrate")
    for what in ("step", "inference"):
        _columns(table, f"dense\n{what}", f"engine\n{what}", "faster", "(from – to)")
    for case in cases:
        table.add_row(
            str(case["batch"]),
            f"{case['sparsity']:.1%}",
            f"{case['firing_rate']:.3f}",
            *_compared(case, "step", "speedup"),
            *_compared(case, "inference", "inference_speedup"),
        )
    used = sorted({f"{case['dense_format']} for steps, {case['dense_inference_format']} else" for case in cases})
    rate = cases[0]["dense_firing_rate"]
    table.caption = f"dense torch in its faster format ({'; '.join(used)}); its firing rate is {rate:.3f}"
    return table


def _compared(case: dict[str, Any], what: str, speedup: str) -> list[str]:
    return [
        f"{case[f'dense_{what}_s']:.4g}",
        f"{case[f'engine_{what}_s']:.4g}",
        f"{case[speedup]:.2f}×",
        f"({case[f'{speedup}_min']:.2f} – {case[f'{speedup}_max']:.2f})",
    ]


def _peaks(cases: list[dict[str, Any]]) -> Table:
    table = _table(
        f"{cases[0]['model']}: growth of memory in a training step, MB (10⁶ bytes)",
        *("batch", "sparsity", "dense"),
        *(f"engine,\n{cases[0]['memory']}", "smaller", "engine,\nrecompute", "smaller"),
    )
    for case in cases:
        table.add_row(
            str(case["batch"]),
            f"{case['sparsity']:.1%}",
            f"{case['dense_peak_mb']:.1f}",
            f"{case['engine_peak_mb']:.1f}",
            f"{case['memory_ratio']:.1f}×",
            f"{case['engine_recompute_peak_mb']:.1f}",
            f"{case['recompute_memory_ratio']:.1f}×",
        )
    return table


def _layers(case: dict[str, Any]) -> Table:
    table = _table(f"{case['model']}: kernels alone, batch {case['batch']}, sparsity {case['sparsity']:.1%}")
    _columns(table, "layer", "shape", justify="left")
    _columns(table, "density", "forward\nms", "\nGMAC/s", "\nlimit", "backward\nms", "\nGMAC/s", "\nlimit")
    _columns(table, "neurons\nms", "\nlimit", "back\nms", "\nlimit")
    for row in case["layers"]:
        table.add_row(
            row["name"],
            "×".join(map(str, row["shape"])),
            f"{row['density']:.1%}",
            *(cell for way in ("forward", "backward") for cell in _synapse_cells(row, way)),
            *(cell for way in ("neuron_forward", "neuron_backward") for cell in _neuron_cells(row, way)),
        )
    return table


def _synapse_cells(row: dict[str, Any], way: str) -> tuple[str, str, str]:
    return _short(row[f"{way}_ms"]), _short(row[f"{way}_gmacs"]), _limit(row, way)


def _neuron_cells(row: dict[str, Any], way: str) -> tuple[str, str]:
    if row["neuron"] is None:
        return "", ""
    return _short(row[f"{way}_ms"]), _limit(row, way)


def _limit(row: dict[str, Any], way: str) -> str:
    return f"{row[f'{way}_share']:.0%} {row[f'{way}_limit'][0]}"


def _short(value: float) -> str:
    """Return three digits, or two decimals of what is below 1."""
    return f"{value:.2f}" if value < 1 else f"{value:.3g}"


def _table(title: str, *headings: str) -> Table:
    table = Table(box=box.SIMPLE, title=title, title_justify="left", caption_justify="left", padding=0)
    _columns(table, *headings)
    return table


def _columns(table: Table, *headings: str, justify: Literal["left", "right"] = "right") -> None:
    for heading in headings:
        table.add_column(heading, justify=justify, no_wrap=True)

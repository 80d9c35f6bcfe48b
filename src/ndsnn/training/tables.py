"""Tables for people: layers, a finished run, data sets."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ndsnn.parsing import printable


def print_layers(found: dict[str, Any], console: Console) -> None:
    """Print what `inspect_path` found: a row per layer, then the run's figures if it is finished."""
    table = Table(box=box.SIMPLE, title=_plain(found["path"]), title_justify="left", padding=(0, 1, 0, 0))
    for heading in ("layer", "shape", "weights", "alive", "sparsity", "firing", "ops/image", "share"):
        table.add_column(heading, justify="left" if heading in ("layer", "shape") else "right", no_wrap=True)
    for row in found["layers"]:
        table.add_row(*map(_plain, _layer_cells(row)))
    weights = sum(row["weights"] for row in found["layers"])
    alive = sum(row["alive"] for row in found["layers"])
    operations = [row["operations"] for row in found["layers"] if "operations" in row]
    total = f"{sum(operations):,.0f}" if operations else ""
    table.add_section()
    table.add_row("all", "", f"{weights:,}", f"{alive:,}", f"{1 - alive / max(weights, 1):.3%}", "", total, "")
    console.print(table)
    if operations:
        console.print(
            "firing: spikes per neuron and step behind the layer; ops: alive connections reached by non-zero "
            "inputs, additions or (*) multiply-adds\n",
            highlight=False,
        )
    if "summary" in found:
        print_summary(found["summary"], console)


def print_summary(summary: dict[str, Any], console: Console) -> None:
    """Print the figures of a finished run."""
    costs, machine = summary["costs"], summary["machine"]
    relative = costs["relative_training_cost"]
    rows = {
        "test accuracy": f"{summary['test_accuracy']:.2%} after the last epoch, {_best(summary)} "
        f"(n = {summary['images']['test']}, seed {summary['seed']})",
        "sparsity": f"{summary['initial_sparsity']:.2%} → {summary['final_sparsity']:.2%}",
        "firing rate": f"{costs['test_firing_rate']:.4f} spikes per neuron and step",
        "per image": f"{costs['synaptic_operations_per_image']:,.0f} synaptic operations, "
        f"{costs['analog_operations_per_image']:,.0f} multiply-adds on analog input",
        "training cost": "relative to dense unknown (give --dense_run)"
        if relative is None
        else f"{relative:.2%} of dense (spike rate × density)",
        "memory footprint": f"{costs['memory_footprint_bytes'] / 1e6:.2f} MB by the paper's formula, "
        f"{summary['peak_memory_mb']:.0f} MB peak of the process",
        "time": f"{summary['seconds']:.1f} s training, {summary['epochs']} epochs, "
        f"{_engine(summary)}, {machine['threads']} threads, {machine['processor']}",
    }
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, text in rows.items():
        table.add_row(name, _plain(text))
    console.print(table)


def print_data_sets(rows: list[dict[str, Any]], console: Console) -> None:
    """Print a row per data set: size, state, and where it is looked for or how to get it."""
    table = Table(box=box.SIMPLE)
    for heading in ("name", "training", "test", "classes", "size", "state"):
        table.add_column(heading, no_wrap=True)
    for row in rows:
        about = row["about"]
        size = "" if about.size is None else f"{about.channels}×{about.size[0]}×{about.size[1]}"
        numbers = ("" if n is None else f"{n:,}" for n in (about.train_images, about.test_images, about.classes))
        table.add_row(row["name"], *numbers, size, row["state"])
    console.print(table)
    for row in rows:
        places = ", ".join(row["where"]) or "the folder that --root names"
        text = f"in {places}" if row["state"] == "ready" else f"looked for in {places}. {row['how_to_get']}"
        console.print(f"{row['name']}: {text}", highlight=False, markup=False, soft_wrap=True)


def _plain(text: str) -> Text:
    """Return a text that a file gave as one that is neither markup nor control codes."""
    return Text(printable(text))


def _engine(summary: dict[str, Any]) -> str:
    """Name what computed a run; the first ones, which do not say, had the reference."""
    isa = summary.get("instruction_set")
    return f"{summary.get('engine', 'reference')} engine" + (f" ({isa})" if isa else "")


def _best(summary: dict[str, Any]) -> str:
    if summary["best_epoch"] is None:
        return "no epoch at the final sparsity"
    return f"{summary['best_test_accuracy']:.2%} at epoch {summary['best_epoch']}, the best by validation"


def _layer_cells(row: dict[str, Any]) -> list[str]:
    rate, operations = row.get("firing_rate"), row.get("operations")
    kind = "*" if row.get("operation") == "multiply-add" else " "
    return [
        row["name"],
        "×".join(map(str, row["shape"])),
        f"{row['weights']:,}",
        f"{row['alive']:,}",
        f"{row['sparsity']:.3%}",
        "" if rate is None else f"{rate:.4f}",
        "" if operations is None else f"{operations:,.0f}{kind}",
        f"{row['share_of_operations']:.1%}" if "share_of_operations" in row else "",
    ]

"""Run directories with known numbers, for tests of reports: written by formula, not trained."""

import json
import math
from dataclasses import replace
from pathlib import Path

import yaml

from ndsnn.config import DataConfig, MethodConfig, ModelConfig, TrainConfig, to_plain

LAYERS = (("features.0", [16, 1, 3, 3]), ("features.4", [32, 16, 3, 3]), ("classifier", [10, 512]))
FASHION = TrainConfig(
    data=DataConfig("fashion-mnist"),
    model=ModelConfig("vgg", time_steps=5, layers=(16, "M", 32, "M")),
    epochs=4,
    batch_size=128,
)
PAPER = TrainConfig(data=DataConfig("cifar10"), model=ModelConfig("vgg16", time_steps=5), epochs=4, batch_size=128)


def with_method(
    base: TrainConfig, name: str, final: float, initial: float | None = None, **changes
) -> TrainConfig:
    """A run of a method: θi is θf where it is not said, and 0 for what starts dense."""
    if initial is None:
        initial = 0.0 if name in ("lth", "gmp", "granet", "admm") else final
    settings = changes.pop("settings", {})
    return replace(base, method=MethodConfig(name, initial, final, settings=settings), **changes)


def dense_rate(epoch: int) -> float:
    """R_d of every synthetic dense run."""
    return 0.2 - 0.01 * epoch


def write_run(
    path: Path,
    config: TrainConfig,
    accuracy: float,
    best: float | None = None,
    seconds: float = 100.0,
    rounds: list[dict] | None = None,
    stated_cost: float | None = None,
    memory: float = 500.0,
    rate: float = 0.1,
    threads: int = 2,
) -> Path:
    """Write a finished run; θ falls in even steps, every epoch fires at `rate` (a dense one at `dense_rate`)."""
    (path / "checkpoints").mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(to_plain(config)))
    length = config.epochs if rounds is None else sum(entry["epochs"] for entry in rounds)
    metrics = metric_rows(config, length, accuracy, rate, rounds)
    write_rows(path / "metrics.jsonl", metrics)
    write_rows(path / "topology.jsonl", topology_rows(config))
    summary = {
        "config": to_plain(config),
        "seed": config.seed,
        "method": config.method.name,
        "initial_sparsity": config.method.initial_sparsity,
        "final_sparsity": config.method.final_sparsity,
        "epochs": length,
        "steps": 10 * length,
        "test_accuracy": accuracy,
        "val_accuracy": accuracy,
        "best_epoch": None if best is None else length,
        "best_test_accuracy": best,
        "best_val_accuracy": best,
        "images": {"train": 54000, "validation": 6000, "test": 10000},
        "layers": layer_rows(config, rate),
        "costs": {
            "relative_training_cost": stated_cost,
            "training_synaptic_operations": sum(row["synaptic_operations"] for row in metrics),
        },
        "seconds": seconds,
        "peak_memory_mb": memory,
        "engine": "native",
        "instruction_set": "avx2",
        "versions": {"ndsnn": "0.1.0"},
        "machine": {"processor": "Test Chip", "threads": threads},
    }
    if rounds is not None:
        summary["rounds"] = rounds
    (path / "summary.json").write_text(json.dumps(summary))
    return path


def metric_rows(config, length, accuracy, rate, rounds):
    start, end = config.method.initial_sparsity, config.method.final_sparsity
    places = [(entry, epoch) for entry in rounds or [] for epoch in range(1, entry["epochs"] + 1)]
    rows = []
    for epoch in range(1, length + 1):
        sparsity = start + (end - start) * epoch / length
        extra = {}
        if places:
            entry, within = places[epoch - 1]
            sparsity = entry["sparsity"]
            extra = {"round": entry["round"], "round_epoch": within}
        rows.append(
            {
                "epoch": epoch,
                "step": 10 * epoch,
                "train_loss": 2 / epoch,
                "train_accuracy": accuracy * (1 - math.exp(-epoch)),
                "val_loss": 2 / epoch,
                "val_accuracy": accuracy * (1 - math.exp(-epoch)),
                "sparsity": sparsity,
                "mean_sparsity": sparsity,
                "firing_rate": dense_rate(epoch) if config.method.name == "dense" else rate,
                "synaptic_operations": round(1e9 * (1 - sparsity)),
                "analog_operations": 10**8,
                "relative_cost": 1.0 if config.method.name == "dense" else None,
                "lr": 0.1,
                "seconds": 1.0,
                "images_per_second": 1000.0,
                "peak_memory_mb": 500.0,
                **extra,
            }
        )
    return rows


def topology_rows(config):
    if config.method.name not in ("ndsnn", "set", "gmp"):
        return []
    rows = []
    for update in range(1, 6):
        for name, shape in LAYERS:
            weights = math.prod(shape)
            grown = 0 if config.method.name == "gmp" else weights // (20 + 4 * update)
            died = weights // (12 + 3 * update)
            row = {"step": 8 * update, "round": update, "layer": name, "dropped": died, "grown": grown}
            rows.append(row | {"nnz": weights // (2 * update)})
    return rows


def layer_rows(config, rate):
    rows = []
    for place, (name, shape) in enumerate(LAYERS):
        weights = math.prod(shape)
        sparsity = config.method.final_sparsity * (0.2 + 0.35 * place)
        alive = round(weights * (1 - sparsity))
        rows.append(
            {
                "name": name,
                "shape": shape,
                "weights": weights,
                "alive": alive,
                "sparsity": 1 - alive / weights,
                "firing_rate": None if name == "classifier" else rate * (1 + place),
                "operations": 1000.0,
                "operation": "add",
                "share_of_operations": 1 / 3,
            }
        )
    return rows


def write_rows(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def lottery_rounds(accuracies: list[float], epochs: int = 4, seconds: float = 50.0) -> list[dict]:
    """The rounds of an LTH run that prunes 25 % of the survivors each time, round 0 dense."""
    return [
        {
            "round": number,
            "sparsity": 1 - 0.75**number,
            "epochs": epochs,
            "test_accuracy": accuracy,
            "val_accuracy": accuracy,
            "best_test_accuracy": accuracy,
            "best_val_accuracy": accuracy,
            "seconds": seconds,
        }
        for number, accuracy in enumerate(accuracies)
    ]


STUDY_METHODS = {"set": 0.0, "rigl": 0.2, "granet": 0.5, "dst-ee": 0.4, "lth": -0.6, "ndsnn": 1.1}
"""Points above a base accuracy, by method."""


def write_study(root: Path, seeds: int = 3) -> Path:
    """Write a whole study: every table and figure has its runs, two runs have a problem."""
    networks = {
        "vgg": FASHION,
        "t2": replace(FASHION, model=replace(FASHION.model, time_steps=2)),
        "paper": PAPER,
    }
    for seed in range(seeds):
        noise = 0.001 * math.sin(7 * seed + 1)
        for name, base in networks.items():
            dense = replace(base, method=MethodConfig("dense", 0.0, 0.0), seed=seed)
            write_run(root / name / f"dense-{seed}", dense, 0.925 + noise, 0.926 + noise, 400)
            for final in (0.95, 0.99):
                for place, (method, gain) in enumerate(STUDY_METHODS.items()):
                    initial = 0.7 if method == "ndsnn" else None
                    config = with_method(base, method, final, initial, seed=seed)
                    budget = {"budgeted": True} if method == "lth" else {}
                    config = replace(config, method=replace(config.method, settings=budget))
                    reached = (
                        0.92 - 0.35 * (final - 0.9) + 0.01 * gain + noise * (1 + 0.3 * math.cos(seed + place))
                    )
                    path = root / name / f"{method}-{final}-{seed}"
                    cost = None if name != "paper" else 0.02 * (1 + place)
                    write_run(path, config, reached, reached + 0.001, 60 + 5 * place, None, cost, 300, 0.08)
        for initial in (0.5, 0.6, 0.8, 0.9):
            config = with_method(PAPER, "ndsnn", 0.95, initial, seed=seed)
            write_run(root / "initial" / f"{initial}-{seed}", config, 0.913 - 0.01 * initial + noise)
        lenet = replace(PAPER, model=ModelConfig("lenet5", time_steps=5))
        write_run(
            root / "lenet" / f"dense-{seed}",
            replace(lenet, method=MethodConfig("dense", 0.0, 0.0), seed=seed),
            0.89,
        )
        for final in (0.4, 0.6):
            write_run(
                root / "lenet" / f"admm-{final}-{seed}", with_method(lenet, "admm", final, seed=seed), 0.88 + noise
            )
    unfinished = write_run(root / "vgg" / "unfinished", with_method(FASHION, "set", 0.9, seed=99), 0.5)
    (unfinished / "summary.json").unlink()
    broken = write_run(root / "vgg" / "broken", with_method(FASHION, "set", 0.9, seed=98), 0.5)
    (broken / "summary.json").write_text('{"config": {')
    return root

"""A summary.json with all that reports and tables read of it."""

from ndsnn.config import TrainConfig, to_plain

LAYER = {"name": "a", "shape": [2, 2], "weights": 4, "alive": 1, "sparsity": 0.75}


def summary() -> dict:
    """A summary.json with what reports and tables read."""
    figures = dict.fromkeys(
        ("test_accuracy", "val_accuracy", "best_test_accuracy", "best_val_accuracy", "initial_sparsity"), 0.5
    )
    costs = ("test_firing_rate", "synaptic_operations_per_image", "analog_operations_per_image")
    return figures | {
        "config": to_plain(TrainConfig(epochs=2)),
        "final_sparsity": 0.95,
        "epochs": 2,
        "seed": 0,
        "best_epoch": 2,
        "seconds": 1.5,
        "peak_memory_mb": 300,
        "images": {"train": 10, "validation": 1, "test": 2},
        "costs": dict.fromkeys((*costs, "memory_footprint_bytes", "relative_training_cost"), 1.0),
        "machine": {"threads": 1, "processor": "p"},
        "layers": [LAYER | {"firing_rate": 0.1, "operations": 3.0, "share_of_operations": 1.0}],
    }

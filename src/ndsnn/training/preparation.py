"""What a method chooses by a few images before the first step."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ndsnn import data
from ndsnn.config import TrainConfig
from ndsnn.sparse.methods import SparseTraining, TopologyUpdate


def choose_connections(
    method: SparseTraining,
    images: data.SplitData,
    config: TrainConfig,
    criterion: Callable[[Tensor, Tensor], Tensor],
) -> TopologyUpdate | None:
    """Show a method as many training images of each class as it asks for, without augmentation.

    Which images depends on the seed alone.

    Returns:
        What changed, or None where it asks for none.
    """
    if not method.images_per_class:
        return None
    batches = data.balanced_batches(
        images.train,
        config.batch_size,
        per_class=method.images_per_class,
        seed=config.seed,
        mean=images.mean,
        std=images.std,
    )
    return method.prepare(batches, criterion)

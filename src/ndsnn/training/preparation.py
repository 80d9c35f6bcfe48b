"""What a method chooses by a few images before the first step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from torch import Tensor

from ndsnn import data
from ndsnn.config import TrainConfig
from ndsnn.sparse.methods import SparseTraining, TopologyUpdate
from ndsnn.training.device import Placed


def choose_connections(
    method: SparseTraining,
    images: data.SplitData,
    config: TrainConfig,
    criterion: Callable[[Tensor, Tensor], Tensor],
    before_batch: Callable[[], None] = lambda: None,
) -> TopologyUpdate | None:
    """Show a method as many training images of each class as it asks for, without augmentation.

    Which images depends on the seed alone.

    Args:
        method: The method.
        images: The data set.
        config: The settings.
        criterion: Loss of logits and labels.
        before_batch: Called before each batch; what it raises ends the choice.

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
    placed = Placed(config)
    return method.prepare((placed(x, y) for x, y in _announced(batches, before_batch)), criterion)


def _announced(
    batches: Iterable[tuple[Tensor, Tensor]], before_batch: Callable[[], None]
) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in batches:
        before_batch()
        yield batch

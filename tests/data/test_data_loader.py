import gc
import threading
import time

import pytest
import torch
from test_data_augment import random_images

from ndsnn.data import (
    Augmentation,
    ImageSet,
    balanced_batches,
    batches,
    epoch_order,
    evaluation_batches,
    normalise,
    num_batches,
)
from ndsnn.errors import ConfigError

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.2, 0.3)
RECIPE = Augmentation(MEAN, STD, crop_padding=2, flip=True, cutout=4)


@pytest.fixture
def data():
    return ImageSet(random_images(50, 3, 8, 8), torch.arange(50))


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "ndsnn-batches"]


def run(data, **changes):
    return list(batches(data, 8, **{"seed": 5, "epoch": 2, "augmentation": RECIPE, **changes}))


def equal(left, right) -> bool:
    return len(left) == len(right) and all(
        torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("prefetch", [True, False])
@pytest.mark.parametrize("start", [0, 1, 3, 6, 7])
def test_resumed_batches_are_bit_equal(data, prefetch, start):
    assert equal(run(data, start_batch=start, prefetch=prefetch), run(data, prefetch=not prefetch)[start:])


def test_every_image_once_with_its_own_label(data):
    plain = Augmentation(MEAN, STD)
    seen = run(data, augmentation=plain)
    labels = torch.cat([y for _, y in seen])
    assert torch.equal(labels.sort().values, torch.arange(50))
    assert torch.equal(torch.cat([x for x, _ in seen]), normalise(data.images[labels], MEAN, STD))


def test_order_depends_on_seed_and_epoch_only(data):
    orders = {
        (seed, epoch): tuple(epoch_order(50, seed, epoch).tolist()) for seed in (0, 1, 11) for epoch in (0, 1, 11)
    }
    assert len(set(orders.values())) == 9
    torch.manual_seed(1)
    assert tuple(epoch_order(50, 0, 1).tolist()) == orders[0, 1]
    assert [y.tolist() for _, y in run(data)] == [part.tolist() for part in epoch_order(50, 5, 2).split(8)]


def test_augmentation_differs_from_batch_to_batch_and_epoch_to_epoch():
    same = ImageSet(
        random_images(1, 3, 8, 8).expand(16, -1, -1, -1).contiguous(), torch.zeros(16, dtype=torch.int64)
    )
    (first, _), (second, _) = run(same)
    (other, _), _ = run(same, epoch=3)
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)


def test_global_generator_is_left_alone(data):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    run(data)
    assert torch.equal(torch.get_rng_state(), state)


def test_last_batch(data):
    assert [len(y) for _, y in run(data)] == [8] * 6 + [2]
    assert [len(y) for _, y in run(data, drop_last=True)] == [8] * 6
    assert (num_batches(50, 8), num_batches(50, 8, drop_last=True), num_batches(48, 8)) == (7, 6, 6)


def test_thread_ends_when_the_consumer_stops_early(data):
    iterator = batches(data, 2, seed=0, epoch=0, augmentation=RECIPE)
    next(iterator)
    assert len(workers()) == 1
    iterator.close()
    assert not workers()


def test_thread_ends_when_the_iterator_is_dropped(data):
    for _ in batches(data, 2, seed=0, epoch=0, augmentation=RECIPE):
        break
    gc.collect()
    assert not workers()


def test_thread_ends_after_the_last_batch(data):
    run(data)
    assert not workers()


class _Failing(Augmentation):
    def __call__(self, images, generator):
        if len(images) < 8:
            raise RuntimeError("the last batch is bad")
        return super().__call__(images, generator)


@pytest.mark.parametrize("prefetch", [True, False])
def test_exception_arrives_where_its_batch_was_wanted(data, prefetch):
    iterator = batches(data, 8, seed=0, epoch=0, augmentation=_Failing(MEAN, STD), prefetch=prefetch)
    for _ in range(6):
        next(iterator)
    with pytest.raises(RuntimeError, match="the last batch is bad"):
        next(iterator)
    assert not workers()


def test_prefetches_ahead_but_not_without_bound(data):
    made = []

    class Counting(Augmentation):
        def __call__(self, images, generator):
            made.append(len(images))
            return super().__call__(images, generator)

    iterator = batches(data, 1, seed=0, epoch=0, augmentation=Counting(MEAN, STD))
    next(iterator)
    for _ in range(100):
        if len(made) >= 4:
            break
        time.sleep(0.01)
    time.sleep(0.05)
    assert 2 <= len(made) <= 4
    iterator.close()


def test_evaluation_is_in_order_and_complete(data):
    seen = list(evaluation_batches(data, 16, mean=MEAN, std=STD))
    assert [len(y) for _, y in seen] == [16, 16, 16, 2]
    assert torch.equal(torch.cat([y for _, y in seen]), data.labels)
    assert torch.equal(torch.cat([x for x, _ in seen]), normalise(data.images, MEAN, STD))


@pytest.mark.parametrize("changes", [{"start_batch": 8}, {"start_batch": -1}])
def test_bad_start(data, changes):
    with pytest.raises(ConfigError, match="start_batch"):
        run(data, **changes)


def test_bad_batch_size_is_noticed_at_the_call(data):
    with pytest.raises(ConfigError, match="batch_size"):
        batches(data, 0, seed=0, epoch=0, augmentation=RECIPE)
    with pytest.raises(ConfigError, match="batch_size"):
        evaluation_batches(data, 0, mean=MEAN, std=STD)


def labelled(*counts):
    """Images that show their own number, of so many in each class, shuffled."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(3))]
    numbers = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1)
    return ImageSet(numbers.expand(-1, 1, 2, 2).contiguous(), labels)


def balanced(data, batch_size, per_class=4, seed=0):
    found = list(balanced_batches(data, batch_size, per_class=per_class, seed=seed, mean=(0.0,), std=(1.0,)))
    return [((x[:, 0, 0, 0] * 255).round().int().tolist(), y.tolist()) for x, y in found]


def test_balanced_batches_have_the_classes_in_turn():
    data = labelled(20, 30, 10)
    found = balanced(data, 5)
    assert [len(y) for _, y in found] == [4, 4, 4]
    assert [label for _, y in found for label in y] == [0, 1, 2] * 4
    numbers = [number for x, _ in found for number in x]
    assert len(set(numbers)) == 12
    assert [int(data.labels[number]) for number in numbers] == [0, 1, 2] * 4
    assert balanced(data, 12)[0][0] == numbers
    assert balanced(data, 5) == found
    assert balanced(data, 5, seed=1) != found


def test_a_class_of_few_images_gives_all_it_has():
    ((numbers, labels),) = balanced(labelled(3, 0, 1), 32)
    assert labels == [0, 2, 0, 0]
    assert sorted(numbers) == [0, 1, 2, 3]


def test_balanced_batches_check_their_arguments():
    with pytest.raises(ConfigError, match="per_class"):
        balanced(labelled(3), 2, per_class=0)
    with pytest.raises(ConfigError, match="batch_size"):
        balanced(labelled(3), 0)

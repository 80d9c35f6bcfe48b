import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as tv

from ndsnn.data import Augmentation, default_augmentation, normalise
from ndsnn.data.augment import Draws
from ndsnn.errors import ConfigError, ShapeError

MEAN, STD = (0.4913, 0.4821, 0.4465), (0.2023, 0.1994, 0.2010)


def random_images(count: int, channels: int = 3, height: int = 32, width: int = 32, seed: int = 0) -> torch.Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, channels, height, width), generator=source, dtype=torch.uint8)


def reference(image: torch.Tensor, recipe: Augmentation, draws: Draws, index: int) -> torch.Tensor:
    """One image, by torchvision and a plain loop, in the published order."""
    height, width = image.shape[1:]
    if draws.top is not None and draws.left is not None:
        padded = tv.pad(image, [recipe.crop_padding] * 4)
        image = tv.crop(padded, int(draws.top[index]), int(draws.left[index]), height, width)
    if draws.flip is not None and draws.flip[index]:
        image = tv.horizontal_flip(image)
    result = tv.normalize(tv.to_dtype(image, torch.float32, scale=True), list(recipe.mean), list(recipe.std))
    if draws.row is not None and draws.column is not None:
        half = recipe.cutout // 2
        row, column = int(draws.row[index]), int(draws.column[index])
        for y in range(max(row - half, 0), min(row + half, height)):
            for x in range(max(column - half, 0), min(column + half, width)):
                result[:, y, x] = 0
    return result


@settings(max_examples=40, deadline=None)
@given(
    padding=st.integers(0, 5),
    flip=st.booleans(),
    cutout=st.integers(0, 20),
    channels=st.sampled_from([1, 3]),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    seed=st.integers(0, 2**40),
)
def test_equals_torchvision_for_the_same_draws(padding, flip, cutout, channels, height, width, seed):
    recipe = Augmentation(MEAN[:channels], STD[:channels], padding, flip, cutout)
    images = random_images(6, channels, height, width, seed)
    before = images.clone()
    draws = recipe.draw(6, height, width, torch.Generator().manual_seed(seed))
    result = recipe.apply(images, draws)
    expected = torch.stack([reference(image, recipe, draws, index) for index, image in enumerate(images)])
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=2e-6)
    assert result.dtype == torch.float32
    assert result.is_contiguous()
    assert torch.equal(images, before)


def test_golden_values_by_hand():
    # The window at (0, 1) of the padded image is a black row, then 0 and 255; mirrored 255 and 0. Normalised, -2
    # is black and 2 is white. Cutout around (0, 0) covers that pixel alone.
    recipe = Augmentation((0.5,), (0.25,), crop_padding=1, flip=True, cutout=2)
    image = torch.tensor([[[[0, 255], [51, 102]]]], dtype=torch.uint8)
    one = torch.tensor([1])
    draws = Draws(
        top=torch.tensor([0]), left=one, flip=torch.tensor([True]), row=torch.tensor([0]), column=one * 0
    )
    expected = torch.tensor([[[[0.0, -2.0], [2.0, -2.0]]]])
    torch.testing.assert_close(recipe.apply(image, draws), expected, rtol=0, atol=1e-6)


def test_draws_cover_their_whole_range_evenly():
    recipe = Augmentation(MEAN, STD, crop_padding=4, flip=True, cutout=16)
    draws = recipe.draw(20000, 32, 24, torch.Generator().manual_seed(1))
    for values, bound in ((draws.top, 9), (draws.left, 9), (draws.row, 32), (draws.column, 24)):
        counts = np.bincount(values.numpy(), minlength=bound)
        assert len(counts) == bound
        assert abs(counts * bound / 20000 - 1).max() < 0.2
    assert abs(draws.flip.double().mean() - 0.5) < 0.02


def test_same_generator_state_same_result():
    recipe = default_augmentation("cifar10", MEAN, STD)
    images = random_images(16)
    first, again, other = (recipe(images, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_number_of_threads_does_not_matter():
    recipe = default_augmentation("cifar10", MEAN, STD)
    images = random_images(128)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(recipe(images, torch.Generator().manual_seed(0)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


def test_normalise_alone():
    images = random_images(4)
    expected = tv.normalize(images.float() / 255, list(MEAN), list(STD))
    torch.testing.assert_close(normalise(images, MEAN, STD), expected, rtol=1e-5, atol=2e-6)
    assert torch.equal(Augmentation(MEAN, STD)(images, torch.Generator()), normalise(images, MEAN, STD))


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("cifar10", (4, True, 16)),
        ("cifar100", (4, True, 16)),
        ("tiny-imagenet", (8, True, 0)),
        ("fashion-mnist", (2, True, 0)),
        ("digits", (1, False, 0)),
        ("folder", (0, False, 0)),
    ],
)
def test_recipes(name, recipe):
    made = default_augmentation(name, MEAN, STD)
    assert (made.crop_padding, made.flip, made.cutout) == recipe
    assert (made.mean, made.std) == (MEAN, STD)


@pytest.mark.parametrize(
    "arguments",
    [((0.5,), (0.0,)), ((0.5,), (0.2, 0.2)), ((), ()), ((0.5,), (0.2,), -1), ((0.5,), (0.2,), 0, False, -2)],
)
def test_bad_settings(arguments):
    with pytest.raises(ConfigError):
        Augmentation(*arguments)


@pytest.mark.parametrize("images", [random_images(2, 1), random_images(2).float(), random_images(2)[0]])
def test_bad_shapes(images):
    recipe = default_augmentation("cifar10", MEAN, STD)
    with pytest.raises(ShapeError):
        recipe(images, torch.Generator())
    with pytest.raises(ShapeError):
        normalise(images, MEAN, STD)

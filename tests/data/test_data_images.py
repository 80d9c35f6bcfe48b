import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ndsnn.data.images import ImageSet, channel_statistics, fingerprint, parse_size, resize, split_rows
from ndsnn.errors import ConfigError, ShapeError


@settings(max_examples=50, deadline=None)
@given(count=st.integers(2, 500), fraction=st.floats(0.01, 0.99), seed=st.integers(0, 2**60))
def test_split_is_a_partition(count, fraction, seed):
    held_out = round(count * fraction)
    if not 0 < held_out < count:
        with pytest.raises(ConfigError, match="validation_fraction"):
            split_rows(count, fraction, seed)
        return
    train, validation = split_rows(count, fraction, seed)
    assert len(validation) == held_out
    assert sorted(train.tolist() + validation.tolist()) == list(range(count))


def test_split_is_fixed_for_ever():
    # Positions of the three smallest of the first ten raw values of PCG64(0).
    assert split_rows(10, 0.3, 0)[1].tolist() == [3, 2, 1]
    assert split_rows(60000, 0.1, 0)[1].shape == (6000,)


def test_split_ignores_global_seeds():
    parts = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        parts.append(split_rows(100, 0.1, 7))
    assert torch.equal(parts[0][0], parts[1][0])
    assert not torch.equal(parts[0][1], split_rows(100, 0.1, 8)[1])


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_fraction_out_of_range(fraction):
    with pytest.raises(ConfigError, match="strictly between 0 and 1"):
        split_rows(100, fraction, 0)


def test_negative_seed():
    with pytest.raises(ConfigError, match="split_seed"):
        split_rows(100, 0.1, -1)


def make_set(value: int = 0) -> ImageSet:
    return ImageSet(torch.full((4, 1, 2, 2), value, dtype=torch.uint8), torch.arange(4))


def test_fingerprint_notices_every_change():
    base = fingerprint(make_set(), make_set(1), 0)
    assert base == fingerprint(make_set(), make_set(1), 0)
    pixel = make_set()
    pixel.images[3, 0, 1, 1] = 1
    label = ImageSet(make_set().images, torch.tensor([0, 1, 3, 2]))
    shape = ImageSet(make_set().images.view(4, 1, 1, 4), torch.arange(4))
    others = [fingerprint(part, make_set(1), 0) for part in (pixel, label, shape)]
    others += [fingerprint(make_set(), make_set(2), 0), fingerprint(make_set(), make_set(1), 1)]
    assert len({base, *others}) == 6
    assert len(base) == 64


def test_statistics_equal_numpy():
    images = torch.randint(256, (7, 3, 5, 4), dtype=torch.uint8)
    scaled = images.numpy() / 255
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, scaled.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, scaled.std((0, 2, 3)), rtol=1e-10)
    assert channel_statistics(torch.zeros(1, 1, 2, 2, dtype=torch.uint8)) == ((0.0,), (1 / 255,))


def test_resize():
    images = torch.tensor([[[[0, 100]]]], dtype=torch.uint8)
    assert resize(images, (1, 4)).tolist() == [[[[0, 25, 75, 100]]]]
    assert resize(images, None) is images
    assert resize(images, (1, 2)) is images
    shrunk = resize(torch.tensor([[[[0, 0, 255, 255]]]], dtype=torch.uint8).expand(1, 1, 4, 4), (2, 2))
    assert shrunk[0, 0, 0, 0] < 40
    assert shrunk[0, 0, 0, 1] > 215


def test_resize_over_several_chunks():
    images = torch.arange(5000).remainder(256).to(torch.uint8).view(-1, 1, 1, 1)
    assert torch.equal(resize(images, (2, 2)), images.expand(-1, 1, 2, 2))


def test_sizes():
    assert parse_size(8) == (8, 8)
    assert parse_size((4, 6)) == (4, 6)
    assert parse_size(None) is None
    for bad in (0, -1, (1, 2, 3), (3, 0), (2.0, 2)):
        with pytest.raises(ConfigError, match="image_size"):
            parse_size(bad)


def test_wrong_tensors_are_refused():
    with pytest.raises(ShapeError):
        ImageSet(torch.zeros(2, 1, 2, 2), torch.arange(2))
    with pytest.raises(ShapeError):
        ImageSet(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.arange(3))

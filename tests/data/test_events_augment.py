import numpy as np
import pytest
import torch

from ndsnn.data import EventAugmentation
from ndsnn.data.events.augment import EventDraws
from ndsnn.data.events.frames import as_inputs
from ndsnn.errors import ConfigError, ShapeError

NOTHING = EventDraws(None, None, None, None, None)


@pytest.fixture
def counts():
    random = np.random.default_rng(0)
    return torch.from_numpy(random.integers(0, 5, (6, 3, 2, 7, 9), dtype=np.uint8))


def draw_and_apply(augmentation, counts, seed=0):
    return augmentation(counts, torch.Generator().manual_seed(seed))


def test_nothing_is_the_counts_with_time_in_front(counts):
    before = counts.clone()
    out = draw_and_apply(EventAugmentation(), counts)
    assert out.dtype == torch.float32
    assert out.is_contiguous()
    assert torch.equal(out, counts.transpose(0, 1).float())
    assert torch.equal(counts, before)
    wide = torch.from_numpy(counts.numpy().astype(np.uint16) * 1000)
    assert torch.equal(draw_and_apply(EventAugmentation(), wide), out * 1000)
    assert torch.equal(as_inputs(counts.numpy()), out)


def test_flip_by_hand(counts):
    flip = np.array([True, False, True, False, False, True])
    out = EventAugmentation(flip=True).apply(counts, NOTHING._replace(flip=flip))
    for row, mirrored in enumerate(flip):
        expected = counts[row].flip(-1) if mirrored else counts[row]
        assert torch.equal(out[:, row], expected.float())


@pytest.mark.parametrize("name", ["roll", "shift"])
def test_roll_and_shift_against_torch(counts, name):
    offsets = np.array([[0, 0], [2, -3], [-2, 3], [1, 0], [0, -8], [-6, 8]])
    out = EventAugmentation(**{name: 8}).apply(counts, NOTHING._replace(**{name: offsets}))
    for row, (down, right) in enumerate(offsets):
        expected = counts[row].roll((int(down), int(right)), (-2, -1)).float()
        if name == "shift":
            rows, columns = torch.arange(7), torch.arange(9)
            inside_y = (rows - down >= 0) & (rows - down < 7)
            inside_x = (columns - right >= 0) & (columns - right < 9)
            expected *= inside_y[:, None] & inside_x[None, :]
        assert torch.equal(out[:, row], expected)


def test_cutout_by_hand(counts):
    ones = torch.ones_like(counts)
    centres = np.array([[3, 4], [0, 0], [6, 8], [3, 4], [3, 4], [3, 4]])
    out = EventAugmentation(cutout=4).apply(ones, NOTHING._replace(cutout=centres))
    expected = torch.ones(7, 9)
    expected[1:5, 2:6] = 0
    assert torch.equal(out[1, 0, 1], expected)
    assert (ones - out.transpose(0, 1)).sum((1, 2, 3, 4)).tolist()[:3] == [16 * 6, 4 * 6, 9 * 6]


def test_drop_takes_events_one_by_one():
    counts = torch.full((2, 2, 1, 50, 50), 8, dtype=torch.uint8)
    counts[:, :, :, :10] = 0
    out = draw_and_apply(EventAugmentation(drop=0.25), counts)
    assert out[..., :10, :].count_nonzero() == 0
    kept = out[..., 10:, :]
    # Binomial(8, 3/4) over 8,000 places: mean 6, variance 1.5.
    assert abs(float(kept.mean()) - 6) < 0.1
    assert abs(float(kept.var()) - 1.5) < 0.15
    assert kept.max() <= 8


def test_the_generator_decides_everything(counts):
    augmentation = EventAugmentation(flip=True, roll=3, drop=0.5, cutout=4)
    first, again, other = (draw_and_apply(augmentation, counts, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_draws_cover_their_range_and_a_single_row_moves_in_x_only():
    draws = EventAugmentation(flip=True, shift=2, cutout=2).draw(2000, 7, 9, torch.Generator().manual_seed(0))
    assert set(draws.shift[:, 0]) == set(draws.shift[:, 1]) == {-2, -1, 0, 1, 2}
    assert (set(draws.cutout[:, 0]), set(draws.cutout[:, 1])) == (set(range(7)), set(range(9)))
    assert 0.4 < draws.flip.mean() < 0.6
    row = EventAugmentation(shift=20).draw(500, 1, 700, torch.Generator().manual_seed(0))
    assert set(row.shift[:, 0]) == {0}
    assert (row.shift[:, 1].min(), row.shift[:, 1].max()) == (-20, 20)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"roll": -1}, "roll must be"),
        ({"shift": 1.5}, "shift must be"),
        ({"cutout": True}, "cutout must be"),
        ({"drop": 1.0}, "drop must be"),
        ({"drop": float("nan")}, "drop must be"),
        ({"roll": 1, "shift": 1}, "exclude each other"),
    ],
)
def test_settings_out_of_range(changes, words):
    with pytest.raises(ConfigError, match=words):
        EventAugmentation(**changes)


def test_other_tensors_are_refused(counts):
    for wrong in (counts.float(), counts[0]):
        with pytest.raises(ShapeError, match=r"\[N,T,C,H,W\]"):
            draw_and_apply(EventAugmentation(), wrong)

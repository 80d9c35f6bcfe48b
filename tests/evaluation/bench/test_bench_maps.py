"""Maps filled at random hold what they should, and don't share bytes."""

import pytest
import torch
from tiny_bench import needs_native

from ndsnn.engine.ops import MapShape, Role

pytestmark = needs_native

SHAPE = MapShape(3, 6, 9, 7)


@pytest.fixture
def maps():
    from ndsnn.evaluation.bench.maps import RandomMaps

    return RandomMaps(time_steps=3, samples=19, precision="fp32", seed=1)


def test_spikes_fire_at_the_rate_asked_for(maps):
    for rate in (0.0, 0.1, 1.0):
        values = maps.backend.unload(maps.spikes(SHAPE, rate))
        assert values.shape == (3, 19, 6, 9, 7)
        assert set(values.unique().tolist()) <= {0.0, 1.0}
        # Of 21,546 draws.
        assert float(values.mean()) == pytest.approx(rate, abs=0.02)
        assert float(values[-1].mean()) == pytest.approx(rate, abs=0.03), "no step fires more than another"


def test_floats_are_normal_or_zero(maps):
    values = maps.backend.unload(maps.floats(SHAPE, 0.25))
    assert float((values != 0).float().mean()) == pytest.approx(0.25, abs=0.02)
    assert float(values[values != 0].std()) == pytest.approx(1.0, abs=0.1)
    assert bool((maps.backend.unload(maps.floats(SHAPE)) != 0).all())


def test_maps_do_not_share_bytes(maps):
    first = maps.floats(SHAPE)
    before = maps.backend.unload(first)
    maps.backend.load(torch.zeros(3, 19, 6, 9, 7), maps.empty(SHAPE, Role.VALUES))
    maps.floats(SHAPE)
    maps.spikes(SHAPE, 0.5)
    assert torch.equal(maps.backend.unload(first), before)

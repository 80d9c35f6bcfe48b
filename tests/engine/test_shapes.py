import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ndsnn import models
from ndsnn.engine.graph import AvgPool, Flatten, MaxPool, Neuron, Readout, Synapse
from ndsnn.engine.lowering import lower
from ndsnn.engine.ops import MapShape
from ndsnn.engine.shapes import current_shape, current_shapes, infer_shapes, integrated_shape
from ndsnn.errors import ShapeError
from ndsnn.models import layers as ln
from ndsnn.neurons import LIF


def shape_of(output):
    """Shape of a module's output [T, N, C, H, W] or [T, N, F], or [N, C, H, W] of an image; N is `BATCH`."""
    steps = output.shape[0] if output.shape[1] == BATCH else 1
    axes = output.shape[2:] if output.shape[1] == BATCH else output.shape[1:]
    return MapShape(steps, *(axes if len(axes) == 3 else (*axes, 1, 1)))


# A number of samples that is no number of channels in the networks here.
BATCH = 11


def check_against_the_run(net, x):
    """Compare every value and every current with what the modules return in a run."""
    plan = lower(net)
    steps = x.shape[0] if x.ndim == 5 else plan.time_steps
    shapes = infer_shapes(plan, steps, *x.shape[-3:], events=x.ndim == 5)
    seen = {}
    for path, module in net.named_modules():
        module.register_forward_hook(lambda _m, _i, output, path=path: seen.update({path: shape_of(output)}))
    with torch.no_grad():
        net(x)
    currents = current_shapes(plan, shapes)
    assert set(currents) == {synapse.layer for synapse in plan.synapses()}
    for layer, shape in currents.items():
        assert shape == seen[layer], layer
    checked = 0
    for node, shape in zip(plan.nodes, shapes, strict=True):
        if isinstance(node, Neuron):
            summed = integrated_shape(node, shapes)
            assert (steps, summed.channels, summed.height, summed.width) == (
                seen[node.path].steps,
                seen[node.path].channels,
                seen[node.path].height,
                seen[node.path].width,
            )
            assert shape == seen[node.pool_path or node.path]
        elif isinstance(node, MaxPool | AvgPool | Flatten):
            assert shape == seen[node.path]
        elif isinstance(node, Readout):
            assert shape == seen[node.term.synapse.layer] == seen[""]
        checked += 1
    assert checked == len(plan.nodes)
    return shapes


SMALL = {
    "vgg": {"layers": [4, "M", 6, 6, "M"]},
    "vgg16": {"width": 0.03},
    "resnet19": {"width": 0.03},
    "resnet19_tdbn": {"width": 0.03},
    "lenet5": {"width": 0.5},
}


@pytest.mark.parametrize("events", [False, True])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (32, 32), (19, 34)])
@pytest.mark.parametrize("name", sorted(SMALL))
def test_shapes_are_those_of_a_run(name, height, width, events):
    net = models.MODELS[name](num_classes=7, time_steps=3, in_channels=2, **SMALL[name])
    shapes = check_against_the_run(net, torch.randn(*([3] if events else []), BATCH, 2, height, width))
    assert shapes[0].steps == (3 if events else 1)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_shapes_of_any_chain_of_layers(data):
    steps, channels = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    height, width = data.draw(st.integers(7, 20)), data.draw(st.integers(7, 20))
    layers = [ln.RepeatOverTime(steps)] if data.draw(st.booleans()) else []
    repeats = [] if layers else [ln.RepeatOverTime(steps)]
    inputs = channels
    for _ in range(data.draw(st.integers(1, 3))):
        kernel = data.draw(st.sampled_from([(1, 1), (3, 3), (3, 1), (5, 3)]))
        padding = tuple(data.draw(st.integers(k // 2, k // 2 + 1)) for k in kernel)
        outputs = data.draw(st.integers(1, 5))
        layers += [ln.Conv2d(inputs, outputs, kernel, data.draw(st.integers(1, 2)), padding), *repeats, LIF()]
        if data.draw(st.booleans()):
            layers.append(ln.MaxPool2d(data.draw(st.integers(1, 3))))
        inputs, repeats = outputs, []
    size = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    layers += [ln.AdaptiveAvgPool2d(size), ln.Flatten(), ln.Linear(inputs * size[0] * size[1], 3)]
    events = data.draw(st.booleans())
    check_against_the_run(
        nn.Sequential(*layers), torch.zeros(*([steps] if events else []), BATCH, channels, height, width)
    )


def test_golden_shapes_of_an_image_and_of_events():
    plan = lower(models.lenet5(time_steps=4))
    behind = (
        MapShape(4, 6, 14, 14),
        MapShape(4, 16, 5, 5),
        MapShape(4, 16, 5, 5),
        MapShape(4, 400, 1, 1),
        MapShape(4, 120, 1, 1),
        MapShape(4, 84, 1, 1),
        MapShape(4, 10, 1, 1),
    )
    assert infer_shapes(plan, 4, 3, 28, 30, events=False) == (MapShape(1, 3, 32, 32), *behind)
    assert infer_shapes(plan, 4, 3, 28, 30, events=True) == (MapShape(4, 3, 32, 32), *behind)
    currents = current_shapes(plan, infer_shapes(plan, 4, 3, 28, 30, events=False))
    assert currents["features.1"] == MapShape(1, 6, 28, 28)
    assert currents["features.6"] == MapShape(4, 16, 10, 10)


def test_a_repeated_source_has_all_steps():
    net = nn.Sequential(ln.RepeatOverTime(3), ln.Conv2d(2, 4, 1), LIF(), ln.Conv2d(4, 2, 1))
    assert infer_shapes(lower(net), 3, 2, 5, 6, events=False)[0] == MapShape(3, 2, 5, 6)


def test_short_axes():
    pools = [ln.MaxPool2d(3), nn.MaxPool2d(3), nn.AvgPool2d(3)]
    for pool in pools:
        net = nn.Sequential(ln.RepeatOverTime(2), ln.Conv2d(1, 1, 1), LIF(), pool, ln.Conv2d(1, 1, 1))
        assert infer_shapes(lower(net), 2, 1, 7, 5, events=False)[-1] == MapShape(2, 1, 2, 1)
        if pool is pools[0]:
            assert infer_shapes(lower(net), 2, 1, 7, 2, events=False)[-1] == MapShape(2, 1, 2, 1)
            continue
        with pytest.raises(ShapeError, match=r"layer '3' expects a map of at least 3×3, got .* 7×2, 2 steps"):
            infer_shapes(lower(net), 2, 1, 7, 2, events=False)
        with pytest.raises(RuntimeError):
            pool(torch.zeros(1, 1, 7, 2))


def block(shortcut):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(ln.Conv2d(2, 4, 1), ln.RepeatOverTime(2), LIF())
            self.conv, self.shortcut, self.lif = ln.Conv2d(4, 4, 3), shortcut, LIF()
            self.readout = ln.Conv2d(4, 3, 1)

        def forward(self, x):
            y = self.stem(x)
            return self.readout(self.lif(self.conv(y) + self.shortcut(y)))

    return Net()


@pytest.mark.parametrize(
    ("net", "given", "message"),
    [
        (models.vgg([4]), (5, 2, 8, 8), r"layer 'features.0' expects 3 channels or features, got 2 in a map"),
        (models.vgg([4]), (4, 3, 8, 8), r"built with time_steps=5, but the input has 4 steps"),
        (models.vgg([4]), (5, 3, 0, 8), r"at least 1, got \(5, 3, 0, 8\)"),
        (
            nn.Sequential(ln.RepeatOverTime(2), ln.Conv2d(1, 2, 5, padding=1), LIF(), ln.Conv2d(2, 1, 1)),
            (2, 1, 9, 2),
            r"layer '1' with kernel \(5, 5\) and padding \(1, 1\) expects a larger map, got .* 9×2",
        ),
        (
            nn.Sequential(ln.RepeatOverTime(2), ln.Flatten(), ln.Linear(8, 2)),
            (2, 1, 3, 3),
            r"layer '2' expects 8 channels or features, got 9",
        ),
        (
            block(nn.Identity()),
            (2, 2, 6, 6),
            r"layer 'lif' sums .* 4 channels, 4×4, 2 steps .* 6×6, 2 steps of one",
        ),
        (block(ln.Conv2d(4, 1, 3)), (2, 2, 6, 6), r"layer 'lif' sums .* 1 channels, 4×4, 2 steps of 'shortcut'"),
    ],
)
def test_shapes_that_do_not_fit(net, given, message):
    with pytest.raises(ShapeError, match=message):
        infer_shapes(lower(net), *given, events=False)


def test_a_network_for_events_takes_no_image():
    plan = lower(nn.Sequential(ln.Conv2d(1, 1, 1), LIF(), ln.Conv2d(1, 1, 1)))
    assert infer_shapes(plan, 6, 1, 2, 2, events=True)[-1] == MapShape(6, 1, 2, 2)
    with pytest.raises(ShapeError, match="no RepeatOverTime, so it expects events"):
        infer_shapes(plan, 6, 1, 2, 2, events=False)


@pytest.mark.parametrize("size", [1, 4, 5, 8])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("kernel", "padding"), [((1, 1), (0, 0)), ((3, 3), (1, 1)), ((5, 3), (2, 0))])
def test_current_shape_is_torchs(size, stride, kernel, padding):
    conv = nn.Conv2d(2, 3, kernel, stride, padding)
    synapse = Synapse("conv", 3, 2, kernel, stride, padding)
    expected = conv(torch.zeros(1, 2, size, size + 2)).shape
    assert current_shape(synapse, MapShape(4, 2, size, size + 2)) == MapShape(4, *expected[1:])

"""Pieces of the C export by themselves: lists, memory, integers, unusual networks, errors."""

import json
import shutil

import numpy as np
import pytest
import torch
from c_programs import SANITIZERS, build, observe
from torch import nn

import ndsnn
from ndsnn.errors import ExportError
from ndsnn.interop.export.c import floats, generate, plan_program, quantize, run_integers, write_c
from ndsnn.interop.export.c.connections import connections_of
from ndsnn.interop.export.c.memory import bytes_per_place, plan_memory
from ndsnn.interop.export.c.program import Drive, OrPool, Population, Source
from ndsnn.interop.export.c.source import PixelScale
from ndsnn.interop.export.folding import fold
from ndsnn.models import layers as ln
from ndsnn.neurons import LIF

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")


def conv_drive(weight):
    source = Source("spikes", 0, (weight.shape[1], 9, 9))
    return Drive(source, "conv", "conv", weight, np.zeros(0))


def decoded(drive, lists):
    """The dense weight that the lists say, read as the C code reads them."""
    weight = np.zeros(drive.weight.shape, lists.weight.dtype)
    outputs = len(weight)
    if drive.kind == "conv":
        places = [
            (c, y, x)
            for c in range(weight.shape[1])
            for y in range(weight.shape[2])
            for x in range(weight.shape[3])
        ]
        lengths = lists.count
        at = {c: int(first) for c, first in enumerate(lists.start)}
    else:
        _, channels, height, width = weight.shape
        places = [(c, y, x) for y in range(height) for x in range(width) for c in range(channels)]
        lengths = np.diff(lists.start.astype(np.int64))
        at = {}
    entry = 0
    for place, length in zip(places, lengths, strict=True):
        if at and place[1:] == (0, 0):
            assert entry == at[place[0]]
        output = 0
        for _ in range(int(length)):
            output += int(lists.delta[entry])
            assert output < outputs
            weight[(output, *place)] += lists.weight[entry]
            entry += 1
    assert entry == len(lists.delta) == len(lists.weight)
    return weight


class TestConnections:
    def test_golden(self):
        weight = np.zeros((4, 2, 1, 2), np.float32)
        weight[1, 0, 0, 0], weight[3, 0, 0, 0], weight[0, 1, 0, 1], weight[2, 1, 0, 1] = 5, 6, 7, 8
        lists = connections_of(conv_drive(weight))
        assert lists.start.tolist() == [0, 2]
        assert lists.count.tolist() == [2, 0, 0, 2]
        assert lists.delta.tolist() == [1, 2, 0, 2]
        assert lists.weight.tolist() == [5, 6, 7, 8]
        assert (lists.weight_bytes, lists.index_bytes, lists.alive) == (16, 2 + 4 + 4, 4)

    @pytest.mark.parametrize("kind", ["conv", "linear"])
    @pytest.mark.parametrize("channels", [5, 256, 700])
    @pytest.mark.parametrize("density", [0.002, 0.1, 1.0, 0.0])
    @pytest.mark.parametrize("dtype", [np.float32, np.int8])
    def test_lists_hold_the_weights(self, kind, channels, density, dtype):
        random = np.random.default_rng(0)
        weight = random.integers(1, 100, (channels, 6, 3, 2)) * (random.random((channels, 6, 3, 2)) < density)
        drive = Drive(Source("spikes", 0, (6, 3, 2)), "x", kind, weight.astype(dtype), np.zeros(0))
        lists = connections_of(drive)
        np.testing.assert_array_equal(decoded(drive, lists), weight)
        assert lists.alive == np.count_nonzero(weight)

    def test_far_distances_take_the_cheaper_way(self):
        few = np.zeros((700, 1, 1, 1), np.float32)
        few[[10, 20, 40, 690]] = 1
        # Bridging 690 − 40 = 255 + 255 + 140 takes two entries of 5 bytes; uint16_t takes 4 bytes more.
        assert connections_of(conv_drive(few)).delta.tolist() == [10, 10, 20, 650]
        many = np.zeros((700, 1, 1, 1), np.float32)
        many[::2] = 1
        many[10:300] = 0
        lists = connections_of(conv_drive(many))
        assert lists.delta.dtype == np.uint8
        assert lists.delta.tolist()[4:8] == [2, 255, 37, 2]
        assert lists.weight.tolist()[4:8] == [1, 0, 1, 1]


class Odd(nn.Module):
    """Whatever the models of ndsnn have not: sums of all kinds of maps, pools read twice, a conv as readout."""

    def __init__(self, steps=4):
        super().__init__()
        self.repeat = ln.RepeatOverTime(steps)
        self.a, self.b, self.c, self.d = (LIF(v_threshold=0.3, v_reset=r) for r in (None, 0.0, None, -0.1))
        self.down = ln.Conv2d(3, 3, 3, stride=2, padding=1)
        self.grid = ln.AdaptiveAvgPool2d((4, 5))
        self.quarter = ln.AdaptiveAvgPool2d((3, 2))
        self.column = ln.AdaptiveAvgPool2d((2, 1))
        self.pool = ln.MaxPool2d(2)
        self.p, self.q, self.r, self.out = (
            ln.Conv2d(3, c, k, padding=k // 2) for c, k in ((3, 1), (3, 1), (3, 1), (2, 3))
        )
        self.same = ln.AdaptiveAvgPool2d((2, 2))

    def forward(self, x):
        a = self.a(self.repeat(x))
        b = self.b(self.down(a) + self.grid(a))
        averaged = self.quarter(b)
        c = self.c(self.p(self.pool(b)) + self.q(self.same(averaged)))
        d = self.d(self.r(self.column(averaged)) + self.column(c))
        return self.out(d)


class Perceptron(nn.Sequential):
    def __init__(self, neuron, steps=4):
        super().__init__(
            ln.RepeatOverTime(steps), ln.Flatten(), ln.Linear(2 * 3 * 4, 9), neuron, ln.Linear(9, 3, bias=False)
        )


@needs_gcc
@pytest.mark.parametrize("kind", ["fp32", "int8"])
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (Odd, (3, 7, 9)),
        (lambda: Perceptron(LIF(v_threshold=0.3)), (2, 3, 4)),
        # Nearly nothing leaks, so potentials grow for as long as the inputs push them.
        (lambda: Perceptron(LIF(tau=1000.0, v_reset=None, decay_input=False), steps=300), (2, 3, 4)),
    ],
)
def test_unusual_networks(make, shape, kind, tmp_path):
    torch.manual_seed(3)
    net = make().eval()
    planned = plan_program(fold(net, shape))
    x = 2 * torch.randn(4, *shape)
    if kind == "fp32":
        program, (logits, spikes) = floats(planned), observe(net, x)
    else:
        program = quantize(planned, 3.0)
        expected = run_integers(program, x)
        logits, spikes = expected.logits, np.stack(list(expected.spikes.values()), 1)
        near, _ = observe(net, x.clamp(-3, 3))
        assert np.abs(logits - near).mean() < 0.1 * np.abs(near).mean()
    ran = build(program, tmp_path, flags=SANITIZERS).run(x.numpy())
    np.testing.assert_array_equal(ran.spikes, spikes)
    assert (ran.spikes > 0).all(1).any()
    np.testing.assert_allclose(ran.logits, logits, atol=2e-5 if kind == "fp32" else 0, rtol=0)


def test_memory_is_never_given_twice():
    torch.manual_seed(0)
    for net, shape in ((Odd(), (3, 7, 9)), (ndsnn.models.resnet19(width=0.05), (3, 16, 16))):
        program = floats(plan_program(fold(net.eval(), shape)))
        memory = plan_memory(program)
        owners = {"spikes": [None] * memory.most_spikes, "values": [None] * memory.most_values}

        def span(kind, node, shape, memory=memory):
            places = shape[1] * shape[2]
            size = places * (bytes_per_place(shape[0]) if kind == "spikes" else shape[0])
            first = getattr(memory, kind)[node]
            return slice(first, first + size)

        def read(source, owners=owners, span=span):
            if source.kind != "image":
                part = owners[source.kind][span(source.kind, source.node, source.shape)]
                assert part
                assert set(part) == {source.node}

        for operation in program.operations:
            if isinstance(operation, Population):
                for drive in operation.step_drives:
                    read(drive.source)
                kind, shape = "spikes", (operation.shape[0], *operation.pooled)
            else:
                read(operation.source)
                pooled = isinstance(operation, OrPool)
                kind = "spikes" if pooled else "values"
                shape = (operation.source.shape[0], *operation.pooled) if pooled else operation.shape
            where = span(kind, operation.node, shape)
            owners[kind][where] = [operation.node] * (where.stop - where.start)
            if not isinstance(operation, Population):
                read(operation.source)
        read(program.output.drive.source)


class TestIntegers:
    def program(self, v_reset, steps):
        net = nn.Sequential(
            ln.RepeatOverTime(steps),
            ln.Conv2d(1, 1, 1, bias=False),
            LIF(tau=2.0, v_reset=v_reset),
            ln.Flatten(),
            ln.Linear(1, 2, bias=False),
        )
        with torch.no_grad():
            net[1].weight.fill_(1.5)
            net[4].weight.copy_(torch.tensor([[2.0], [-1.0]]))
        return quantize(plan_program(fold(net.eval(), (1, 1, 1))), 2.0)

    def test_numbers_by_hand(self):
        program = self.program(0.0, 2)
        layer, output = program.populations[0], program.output
        assert (program.fraction, program.input_limit, layer.leak) == (12, 8192, 16384)
        # s = 1.5/τ/127, so θ/s = 127/0.75 and the threshold is that times 2¹².
        assert layer.threshold.tolist() == [round(127 / 0.75 * 4096)] == [693589]
        assert layer.drives[0].weight.ravel().tolist() == [127]
        assert output.drive.weight.ravel().tolist() == [127, -127]
        np.testing.assert_allclose(output.scale, [2 / 127 / 4096, 1 / 127 / 4096], rtol=1e-7)

    def test_steps_by_hand(self):
        # h = 520192, then 520192/2 + 520192 = 780288 ≥ 693589: one spike in two steps.
        run = run_integers(self.program(0.0, 2), torch.ones(1, 1, 1, 1))
        assert [count.tolist() for count in run.spikes.values()] == [[1]]
        np.testing.assert_allclose(run.logits, [[1.0, -0.5]], rtol=1e-6)

    @pytest.mark.parametrize("v_reset", [0.0, None])
    def test_a_neuron_in_plain_integers(self, v_reset):
        x = torch.tensor([1.7, 0.9, -1.1, 0.77]).view(-1, 1, 1, 1)
        run = run_integers(self.program(v_reset, 9), x)
        for row, value in enumerate(x.ravel().tolist()):
            current, u, spikes = 127 * round(value * 4096), 0, 0
            for _ in range(9):
                h = u + current
                fired = h >= 693589
                spikes += fired
                after = (h - 693589 if v_reset is None else 0) if fired else h
                u = (abs(after) * 16384 + 16384) // 32768 * (1 if after >= 0 else -1)
            assert next(iter(run.spikes.values()))[row] == spikes

    def test_inputs_are_cut(self):
        x = torch.tensor([2.0, 5.0, float("inf"), -2.0, -9.0, float("nan")]).view(-1, 1, 1, 1)
        spikes = next(iter(run_integers(self.program(None, 4), x).spikes.values()))
        assert spikes.tolist() == [spikes[0]] * 3 + [0] * 3
        assert spikes[0] > 0

    def test_a_channel_without_weights_or_with_small_ones(self):
        net = nn.Sequential(ln.RepeatOverTime(2), ln.Conv2d(1, 3, 1), LIF(), ln.Flatten(), ln.Linear(3, 2))
        with torch.no_grad():
            net[1].weight.copy_(torch.tensor([0.0, 1e-30, 2.0]).view(3, 1, 1, 1))
            net[1].bias.copy_(torch.tensor([5.0, 0.0, -1e30]))
        program = quantize(plan_program(fold(net.eval(), (1, 1, 1))), 1.0)
        fired = run_integers(program, torch.ones(1, 1, 1, 1))
        assert next(iter(fired.spikes.values())).tolist() == [2]

    def test_no_room(self):
        net = Perceptron(LIF(tau=1e7, v_reset=None, decay_input=False))
        with pytest.raises(ExportError, match=r"layer '3' do not fit into 32 bits"):
            quantize(plan_program(fold(net.eval(), (2, 3, 4))), 3.0)

    @pytest.mark.parametrize("largest", [0.0, -1.0, float("nan"), float("inf")])
    def test_range_of_the_input(self, largest):
        with pytest.raises(ExportError, match="largest input"):
            quantize(plan_program(fold(Odd().eval(), (3, 7, 9))), largest)


class TestErrors:
    def planned(self, *modules, shape=(2, 4, 4)):
        return plan_program(fold(nn.Sequential(*modules).eval(), shape))

    def test_average_of_the_image(self):
        with pytest.raises(
            ExportError, match=r"layer '1': the C export has no average pool of the network's input"
        ):
            self.planned(
                ln.RepeatOverTime(2), ln.AdaptiveAvgPool2d(2), ln.Conv2d(2, 2, 1), LIF(), ln.Conv2d(2, 2, 1)
            )

    def test_neurons_on_a_flattened_map(self):
        with pytest.raises(ExportError, match=r"layer '2' reads a flattened map"):
            self.planned(ln.RepeatOverTime(2), ln.Flatten(), LIF(), ln.Linear(32, 2))

    def test_readout_of_the_image(self):
        with pytest.raises(ExportError, match=r"layer '2' reads the image itself"):
            self.planned(ln.RepeatOverTime(2), ln.Flatten(), ln.Linear(32, 2))

    @pytest.mark.parametrize("name", ["", "2net", "a-b", "_net", "net.c", "ä", "a" * 65])
    def test_names(self, name):
        with pytest.raises(ExportError, match="prefix of C names"):
            generate(floats(plan_program(fold(Odd().eval(), (3, 7, 9)))), name)

    def test_channels_of_the_statistics(self):
        with pytest.raises(ExportError, match=r"of 1 channels, but the network's input has 3"):
            generate(floats(plan_program(fold(Odd().eval(), (3, 7, 9)))), "net", PixelScale((0.5,), (0.5,)))


class TestFiles:
    def made(self):
        torch.manual_seed(0)
        return generate(floats(plan_program(fold(Odd().eval(), (3, 7, 9)))), "net")

    def test_the_same_network_gives_the_same_text(self):
        first, second = self.made(), self.made()
        assert (first.header, first.source) == (second.header, second.source)

    def test_nothing_is_replaced_unasked(self, tmp_path):
        (tmp_path / "net.c").write_text("mine")
        with pytest.raises(ExportError, match=r"net\.c is there already"):
            write_c(self.made(), tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["net.c"]
        assert (tmp_path / "net.c").read_text() == "mine"
        write_c(self.made(), tmp_path, overwrite=True)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["net.c", "net.h"]

    def test_a_directory_that_cannot_be_written(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(ExportError, match="cannot be written"):
            write_c(self.made(), tmp_path / "file")

    def test_sizes_are_those_of_the_tables(self):
        made = self.made()
        entries = {"float": 4, "uint8_t": 1, "uint16_t": 2, "uint32_t": 4}
        total = 0
        for line in made.source.splitlines():
            words = line.split()
            if words[:2] == ["static", "const"] and line.endswith("= {"):
                total += entries[words[2]] * int(line.split("[")[1].split("]")[0])
        assert total == made.sizes.flash
        assert json.dumps(made.sizes.flash) in made.header

"""`ndsnn bench` as a user meets it, on tiny networks: keys, figures, tables and exit codes."""

import io
import math
from collections.abc import Mapping

import pytest
import torch
from rich.console import Console
from tiny_bench import TINY, bench_json, needs_native

import ndsnn
from ndsnn.cli import main
from ndsnn.evaluation.bench.tables import print_bench

PROMISED = (
    "model", "batch", "time_steps", "sparsity", "dense_step_s", "engine_step_s", "speedup", "dense_peak_mb",
    "engine_peak_mb", "memory_ratio", "dense_inference_s", "engine_inference_s", "layers",
)  # fmt: skip
MACHINE = ("processor", "cores", "isa", "fma_gmacs", "read_gbs", "write_gbs", "torch")
PEAKS = ("dense_peak_mb", "engine_peak_mb", "memory_ratio", "engine_recompute_peak_mb", "recompute_memory_ratio")


@pytest.fixture(scope="module")
def result():
    """Figures of two networks at two sparsities, without memory."""
    return bench_json("--model", "vgg16", "resnet19", "--sparsity", "0", "0.9", "--no-memory")


def figures(values):
    """Return all numbers in nested mappings and lists, but for those that may be 0: a layer may see no spike."""
    if isinstance(values, Mapping):
        return [
            n for key, v in values.items() if key not in ("sparsity", "seed", "input_rate") for n in figures(v)
        ]
    if isinstance(values, list):
        return [n for v in values for n in figures(v)]
    return [values] if isinstance(values, int | float) else []


def fails(capsys, *arguments):
    """Run a bench that must end with exit code 2 and one line; return the line."""
    threads = torch.get_num_threads()
    assert main([*TINY, *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("ndsnn: error: ")
    assert printed.err.count("\n") == 1
    assert torch.get_num_threads() == threads
    return printed.err


@needs_native
def test_json_has_the_promised_keys(result):
    assert result["threads"] == 1
    assert set(result) == {"machine", "threads", "cases"}
    assert set(MACHINE) <= set(result["machine"])
    assert result["machine"]["torch"] == torch.__version__.partition("+")[0]
    expected = [(model, sparsity) for model in ("vgg16", "resnet19") for sparsity in (0.0, 0.9)]
    assert [(case["model"], case["sparsity"]) for case in result["cases"]] == expected
    for case in result["cases"]:
        assert set(PROMISED) <= set(case)
        assert (case["batch"], case["time_steps"], case["memory"], case["rounds"]) == (2, 2, "auto", 1)
        assert [case[key] for key in PEAKS] == [None] * 5


@needs_native
def test_all_figures_are_finite_and_positive(result):
    found = figures(result)
    assert len(found) > 1000
    assert all(math.isfinite(value) and value > 0 for value in found)


@needs_native
def test_of_one_round_the_speedup_is_the_ratio_of_the_times(result):
    for case in result["cases"]:
        for what, speedup in (("step", "speedup"), ("inference", "inference_speedup")):
            quotient = case[f"dense_{what}_s"] / case[f"engine_{what}_s"]
            assert case[speedup] == case[f"{speedup}_min"] == case[f"{speedup}_max"] == pytest.approx(quotient)


@needs_native
def test_all_contestants_fire_alike(result):
    for case in result["cases"]:
        assert 0.01 < case["dense_firing_rate"] < 0.5
        difference = abs(case["firing_rate"] - case["dense_firing_rate"])
        # The same network where nothing is missing, but for potentials within rounding of the threshold.
        assert difference < (1e-3 if case["sparsity"] == 0 else 0.05)


@needs_native
def test_a_row_for_every_layer(result):
    for case in result["cases"]:
        net = ndsnn.models.MODELS[case["model"]](width=0.1)
        report = ndsnn.layer_report(ndsnn.sparsify(net, case["sparsity"]))
        rows = {row["name"]: row for row in case["layers"]}
        assert {name: (tuple(row["shape"]), row["alive"]) for name, row in rows.items()} == {
            row.name: (row.shape, row.alive) for row in report
        }
        neurons = [name for name, module in net.named_modules() if isinstance(module, ndsnn.LIF)]
        assert sorted(row["neuron"] for row in rows.values() if row["neuron"]) == sorted(neurons)
        for row in rows.values():
            assert row["forward_limit"] in ("arithmetic", "memory")
            assert (row["neuron_forward_ms"] is None) == (row["neuron"] is None)


@needs_native
def test_macs_of_the_first_layer_are_counted_once_per_image(result):
    case = result["cases"][0]
    first, second = case["layers"][:2]
    # 16×16 map, 3×3 taps: 46² (row, tap) pairs lie on it. Forward one product, back one or two.
    pairs = 46**2 * 2
    assert first["forward_ms"] * first["forward_gmacs"] * 1e6 == pytest.approx(6 * 3 * pairs)
    assert first["backward_ms"] * first["backward_gmacs"] * 1e6 == pytest.approx(6 * 3 * pairs)
    assert second["forward_ms"] * second["forward_gmacs"] * 1e6 == pytest.approx(6 * 6 * pairs * 2)
    assert second["backward_ms"] * second["backward_gmacs"] * 1e6 == pytest.approx(2 * 6 * 6 * pairs * 2)


@needs_native
def test_layers_at_the_largest_batch_only():
    cases = bench_json("--model", "lenet5", "--batch", "3", "1", "--sparsity", "0.5", "--no-memory")["cases"]
    assert [(case["batch"], len(case["layers"])) for case in cases] == [(3, 5), (1, 0)]


@needs_native
def test_tables(result):
    with_peaks = dict.fromkeys(PEAKS, 12.5)
    cases = [case | with_peaks for case in result["cases"]]
    console = Console(file=io.StringIO(), width=120)
    print_bench(result | {"cases": cases}, console)
    printed = console.file.getvalue()
    for words in (
        "1 threads",
        "n = 1 interleaved rounds",
        "GMAC/s",
        "features.41",
        "stages.2.0.shortcut.0",
        "12.5×",
    ):
        assert words in printed
    assert "…" not in printed, "a cell was cut"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "vgg17"], "did you mean 'vgg16'"),
        (["--model", "vgg"], "unknown model 'vgg'"),
        (["--sparsity", "1"], "in [0, 1)"),
        (["--sparsity", "0.9", "-0.5"], "in [0, 1)"),
        (["--sparsity", "nan"], "in [0, 1)"),
        (["--sparsity", "0.9999"], "leaves no weight in layer"),
        (["--sparsity", "much"], "argument --sparsity"),
        (["--batch", "0"], "batch is 0"),
        (["--batch"], "argument --batch"),
        (["--time-steps", "0"], "time_steps is 0"),
        (["--rounds", "0"], "rounds is 0"),
        (["--image-size", "7"], "image_size is 7"),
        (["--threads", "0"], "threads is 0"),
        (["--seed", "-1"], "seed is -1"),
        (["--width", "0"], "width must be"),
        (["--memory", "recomput"], "did you mean 'recompute'"),
        (["--precision", "fp33"], "did you mean 'fp32'"),
        (["--round"], "expected one argument"),
        (["--nothing"], "unrecognized arguments"),
    ],
)
def test_bad_input(capsys, monkeypatch, arguments, words):
    monkeypatch.delenv("NDSNN_BACKEND", raising=False)
    # Bad input is found whether or not there is an engine to measure.
    monkeypatch.setattr("ndsnn.evaluation.bench.bench.choose_backend", lambda *_: None)
    assert words in fails(capsys, *arguments)


def test_without_a_native_engine(capsys, monkeypatch):
    monkeypatch.delenv("NDSNN_BACKEND", raising=False)
    monkeypatch.setattr("ndsnn.engine.native.available", lambda: False)
    monkeypatch.setattr("ndsnn.engine.native.unavailable_reason", lambda: "no compiler was there")
    assert "no compiler was there" in fails(capsys)


def test_where_another_back_end_is_wanted(capsys, monkeypatch):
    monkeypatch.setenv("NDSNN_BACKEND", "reference")
    assert "NDSNN_BACKEND=reference" in fails(capsys)


@needs_native
def test_where_memory_cannot_be_measured(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("ndsnn.evaluation.bench.memory._PROCESS", tmp_path)
    assert "--no-memory" in fails(capsys)

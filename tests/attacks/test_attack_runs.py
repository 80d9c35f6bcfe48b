"""Run directories that somebody else has made: checksums that agree prove nothing about who wrote them.

Every command that reads a run is given one whose files say something hostile, signed anew. It ends with exit code
2 and one line, runs no code, and writes nothing outside.
"""

import hashlib
import json
import pickle
import shutil

import pytest
import safetensors.torch
import torch
from attack_watch import Payload, harmless

from ndsnn.cli import main
from ndsnn.evaluation.report.records import read_runs

SETTINGS = (
    *("--data.image_size", "8", "--model.time_steps", "2", "--model.layers", "[4, M, 8, M]", "--epochs", "2"),
    *("--method.initial_sparsity", "0.5", "--method.final_sparsity", "0.8", "--method.update_every", "4"),
    *("--batch_size", "512", "--engine", "reference", "--threads", "1"),
)
TRAP = "attack_trap"
DEEP = "[" * 5000


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = tmp_path_factory.mktemp("good") / "run"
    assert main(["train", "--output", str(run), *SETTINGS]) == 0
    return run


@pytest.fixture
def run(finished, tmp_path, monkeypatch):
    """A copy of a run, in a folder that also has a module that must not be imported."""
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / f"{TRAP}.py").write_text("import ndsnn\n\nclass Trap(ndsnn.SparseTraining):\n    pass\n")
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / "run"


def commands(run):
    out = run.parent / "out"
    return (
        ["inspect", str(run)],
        ["evaluate", str(run), "--which", "last"],
        ["export", str(run), "--format", "dense", "--which", "last", "-o", str(out / "net")],
    )


def require_harmless(run, capsys, *which, code=2):
    """Run the commands that read; each says one line, and does nothing."""
    for arguments in which or commands(run):
        with harmless(run.parent / "out", trap=TRAP):
            assert main(arguments) == code, arguments
        error = capsys.readouterr().err
        assert error.startswith("ndsnn: error: ") or code == 0
        assert len(error.splitlines()) <= 1
        assert len(error) < 3000
    assert not (run.parent / "witness").exists()


def sign(run, state=None, tensors=None):
    """Write the checkpoint `last` anew, its checksums right; previous is gone."""
    folder = run / "checkpoints"
    for path in folder.glob("previous.*"):
        path.unlink()
    if tensors is not None:
        (folder / "last.safetensors").write_bytes(tensors)
    manifest = json.loads((folder / "last.json").read_text())
    del manifest["self"]
    manifest["sha256"] = hashlib.sha256((folder / "last.safetensors").read_bytes()).hexdigest()
    if state is not None:
        state(manifest["state"])
    manifest["self"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (folder / "last.json").write_text(json.dumps(manifest))


def unfinished(run):
    (run / "summary.json").unlink()


def test_signed_anew_and_unchanged_it_is_read(run, capsys):
    """What the attacks below begin with."""
    unfinished(run)
    sign(run, lambda state: None)
    require_harmless(run, capsys, code=0)


@pytest.mark.parametrize("file", ["last.safetensors", "last.json"])
def test_a_pickle_in_place_of_a_checkpoint(run, capsys, file):
    unfinished(run)
    content = pickle.dumps(Payload(run.parent / "witness"))
    if file == "last.json":
        sign(run)
        (run / "checkpoints" / file).write_bytes(content)
    else:
        sign(run, tensors=content)
    require_harmless(run, capsys)


def test_a_pickle_of_torch_in_place_of_the_tensors(run, capsys):
    path = run / "checkpoints" / "last.safetensors"
    torch.save({"w": Payload(run.parent / "witness")}, path)
    unfinished(run)
    sign(run)
    require_harmless(run, capsys)


def change(*path, value):
    def apply(state):
        for key in path[:-1]:
            state = state[key]
        state[path[-1]] = value

    return apply


LIES = {
    "no progress": lambda state: state.pop("progress"),
    "no network": lambda state: state.pop("network"),
    "progress of text": change("progress", "epoch", value="1"),
    "unknown progress": change("progress", "x", value=1),
    "best epoch leads outside": change("progress", "best_epoch", value="../../../etc/passwd"),
    "layers of text": change("layers", value="all"),
    "a layer without name": change("layers", value=[{}]),
    "a network of petabytes": change("network", "architecture", "kwargs", "width", value=1e9),
    "another builder": change("network", "architecture", "name", value="os.system"),
    "an unknown argument": change("network", "architecture", "kwargs", "command", value="touch witness"),
    "shapes of text": change("network", "layers", value={"features.5.weight": {"shape": "x", "alive": 1}}),
    "data of a list": change("data", value=["x"]),
    "rows elsewhere": change("rows", value={"../../secret": {"bytes": 1, "sha256": "x"}}),
    "rows of text": change("rows", value={"metrics.jsonl": "x", "topology.jsonl": "x"}),
    "deep": change("layers", value=json.loads("[" * 90 + "]" * 90)),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_states_that_lie(run, capsys, lie):
    unfinished(run)
    sign(run, lie)
    codes = []
    for arguments in (*commands(run), ["train", "--output", str(run), "--resume"]):
        with harmless(run.parent / "out", run, trap=TRAP):
            codes.append(main(arguments))
        assert "Traceback" not in capsys.readouterr().err
    # What one command goes by, another does not read.
    assert 2 in codes
    assert set(codes) <= {0, 2}


OPTIMIZERS = {
    "a list": change("optimizer", value=[]),
    "a tensor that is not there": change("optimizer", "state", value={"0": {"momentum_buffer": {"tensor": "x"}}}),
    "no groups": change("optimizer", "param_groups", value=[]),
    "per weight of no parameter": change("optimizer_per_weight", value={"99": ["momentum_buffer"]}),
    "no random state": change("random", value=None),
    "no method": change("method", value=[1]),
    "a meter of another network": change("meter", value={"neurons": {}, "synapses": {}}),
}


@pytest.mark.parametrize("lie", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_states_that_lie_to_resume(run, capsys, lie):
    unfinished(run)
    sign(run, lie)
    with harmless(run, trap=TRAP):
        assert main(["train", "--output", str(run), "--resume"]) == 2
    assert capsys.readouterr().err.startswith("ndsnn: error: ")


@pytest.mark.parametrize("content", [DEEP, '{"a":' * 3000, "9" * 5000, '{"a": 1e999}', "nul", "", "[]", "\x00"])
@pytest.mark.parametrize("file", ["checkpoints/last.json", "summary.json"])
def test_json_that_grows_or_is_none(run, capsys, file, content):
    if file != "summary.json":
        unfinished(run)
        sign(run)
    (run / file).write_text(content)
    require_harmless(run, capsys, ["inspect", str(run)])


def test_rows_that_grow_or_are_none(run, capsys):
    for name in ("metrics.jsonl", "topology.jsonl"):
        path = run / name
        path.write_text(f'{path.read_text()}{DEEP}\n[1]\n"x"\n{{"epoch": 1}}\n')
    with harmless(run.parent / "out", trap=TRAP):
        assert main(["report", str(run), "-o", str(run.parent / "out")]) in (0, 2)
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("special", ["/dev/zero", "/dev/urandom"])
def test_files_of_a_run_that_are_devices(run, capsys, special):
    for name in ("summary.json", "config.yaml", "metrics.jsonl"):
        (run / name).unlink()
        (run / name).symlink_to(special)
    require_harmless(run, capsys)


def test_a_class_in_the_settings_of_a_run_is_not_imported(run, capsys):
    """Only what trains imports a class by name: `train`, its --resume, and `sweep`."""
    config = run / "config.yaml"
    text = config.read_text().replace("name: ndsnn", f"name: {TRAP}:Trap")
    assert TRAP in text
    config.write_text("\n".join(line for line in text.splitlines() if not line.startswith("#")))
    require_harmless(run, capsys, code=0)
    with harmless(trap=TRAP):
        records, problems = read_runs([run])
    assert (len(records), problems) == (1, [])


def test_a_network_file_that_is_a_pickle(run, capsys):
    path = run.parent / "net.safetensors"
    path.write_bytes(pickle.dumps(Payload(run.parent / "witness")))
    require_harmless(
        run, capsys, ["inspect", str(path)], ["export", str(path), "--format", "dense", "-o", "out/n"]
    )


def test_tensors_of_a_checkpoint_that_torch_does_not_have(run, capsys):
    tensors = safetensors.torch.load_file(run / "checkpoints" / "last.safetensors")
    data = safetensors.torch.save({key: value for key, value in tensors.items() if "values" not in key})
    unfinished(run)
    sign(run, tensors=data)
    require_harmless(run, capsys, *commands(run)[1:])

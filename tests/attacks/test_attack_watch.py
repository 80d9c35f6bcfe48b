"""The watcher sees what it is there to see; an attack test that cannot fail proves nothing."""

import ast
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from attack_watch import Payload, harmless

import ndsnn

FORBIDDEN = (
    *(
        "pickle.load",
        "pickle.loads",
        "pickle.Unpickler",
        "torch.load",
        "torch.jit.load",
        "torch.package.PackageImporter",
    ),
    *(
        "yaml.full_load",
        "yaml.unsafe_load",
        "yaml.load_all",
        "eval",
        "exec",
        "compile",
        "marshal.loads",
        "shelve.open",
    ),
    *("joblib.load", "dill.load", "cloudpickle.load", "cloudpickle.loads", "pd.read_pickle", "tar.extractall"),
    *("tar.extract", "shutil.unpack_archive", "zipfile.extractall", "os.system"),
)


def write_beside(place):
    (place.parent / "beside").write_text("x")


def connect(place):
    with socket.socket() as one, pytest.raises(OSError, match=r"."):
        one.connect(("127.0.0.1", 1))


def import_trap(place):
    (place / "attack_trap.py").write_text("")
    sys.path.insert(0, str(place))
    try:
        __import__("attack_trap")
    finally:
        sys.path.remove(str(place))
        sys.modules.pop("attack_trap", None)


@pytest.mark.parametrize(
    "act",
    [
        write_beside,
        connect,
        import_trap,
        lambda place: subprocess.run(["true"], check=True),
        lambda place: os.system("true"),
        lambda place: pickle.loads(pickle.dumps(Payload(place / "witness"))),
        lambda place: os.mkdir(place.parent / "beside"),
        lambda place: os.symlink("/etc/passwd", place.parent / "beside"),
        lambda place: os.open(place.parent / "beside", os.O_WRONLY | os.O_CREAT),
    ],
    ids=["write", "connect", "import", "process", "shell", "pickle", "folder", "link", "descriptor"],
)
def test_what_is_done_is_seen(tmp_path, act):
    own = tmp_path / "own"
    own.mkdir()
    with pytest.raises(AssertionError), harmless(own, trap="attack_trap"):
        act(own)


def test_what_is_its_task_is_not(tmp_path):
    with harmless(tmp_path):
        (tmp_path / "file").write_text("x")
        os.rename(tmp_path / "file", tmp_path / "other")
        (tmp_path / "other").read_text()


def test_no_reader_of_code_is_used():
    """Nothing in the package loads a pickle, a full YAML or an expression; CIFAR's unpickler is restricted."""
    package = Path(ndsnn.__file__).parent
    wrong = []
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            full_yaml = name == "yaml.load" and not any("_UniqueKeys" in ast.unparse(part) for part in node.args)
            numpy = name in ("np.load", "numpy.load") and "allow_pickle=False" not in ast.unparse(node)
            if full_yaml or numpy or name in FORBIDDEN:
                wrong.append(f"{path.relative_to(package)}:{node.lineno} {name}")
    assert wrong == []

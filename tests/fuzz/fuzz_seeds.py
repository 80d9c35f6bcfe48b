"""Good files to begin with, made by the code that writes them or by the description of their format."""

import gzip
import hashlib
import io
import json
import pickle
import struct
import tarfile
import tempfile
import zipfile
from dataclasses import asdict
from functools import cache
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from event_files import aedat2, aedat3, aer40, random_events
from PIL import Image
from saved_summary import LAYER, summary

import ndsnn
from ndsnn.config import TrainConfig
from ndsnn.config_parser import config_to_yaml
from ndsnn.training.progress import Progress

CORPUS = Path(__file__).with_name("corpus")
"""Inputs that are kept: those that once showed a defect, in a folder for each target."""


def seeds(target: str) -> list[bytes]:
    """Return the good files of a target and what is kept of it."""
    return [*_made()[target], *(path.read_bytes() for path in kept(target))]


def kept(target: str) -> list[Path]:
    return sorted(path for path in (CORPUS / target).glob("*") if path.is_file())


def state() -> dict:
    """The state of a checkpoint, with all parts that there may be."""
    written = {"bytes": 3, "sha256": "0" * 64}
    return {
        "step": 3,
        "progress": asdict(Progress(epoch=1, step=3, best_epoch=1)),
        "data": "digits",
        "network": {
            "layers": {"a.weight": {"shape": [2, 2], "alive": 1}},
            "distribution": None,
            "architecture": None,
        },
        "layers": [LAYER],
        "meter": {"neurons": {"n": {"spikes": 1, "places": 2}}, "synapses": {"a": {"spiking": True}}},
        "scale": {"scale": 1.0},
        "rows": {"metrics.jsonl": written, "topology.jsonl": written},
        "made_by": {"torch": "2"},
        "changes": [{"step": 1, "changed": {"torch": ["1", "2"]}}],
    }


@cache
def _made() -> dict[str, list[bytes]]:
    return {
        "network": [_network()],
        "tensors": [safetensors.torch.save({"w": torch.ones(3), "b": torch.zeros(2, 2, dtype=torch.uint8)})],
        "manifest": [json.dumps(state()).encode()],
        "summary": [json.dumps(summary()).encode()],
        "rows": [b'{"epoch": 1, "loss": 2.5}\n{"epoch": 2, "loss": null}\n'],
        "config": [config_to_yaml(TrainConfig()).encode(), b"method: {name: set, settings: {a: 1}}\nlr: 1e-3\n"],
        "grid": [
            b"name: x\nbase: {epochs: 1}\ngrid:\n  base: &b {method.name: set}\n  seed: [0, 1]\n  lr: [0.1]\n",
            b"grids:\n- base: &a {epochs: 2}\n  seed: [0]\n- base: *a\n  seed: [1]\n",
        ],
        "idx": [b"\0\0\x08\x03" + struct.pack(">3I", 2, 3, 4) + bytes(24), b"\0\0\x08\x01\0\0\0\x02ab"],
        "gzip": [gzip.compress(b"x" * 300, mtime=0)],
        "pickle": _pickles(),
        "aer40": [aer40(_events(34))],
        "aedat2": [aedat2(_events(128))],
        "aedat3": [aedat3(_events(128), packet=7)],
        "trials": [b"class,startTime_usec,endTime_usec\n1,0,100\n11,100,250\n"],
        "frames": [_frames()],
        "zip": [_zip()],
        "tar": [_tar(tarfile.GNU_FORMAT), _tar(tarfile.PAX_FORMAT)],
        "image": [_image("PNG"), _image("JPEG"), _image("BMP"), _image("PPM"), _image("WEBP")],
        "native": [hashlib.sha512(bytes([n])).digest() * 4 for n in range(16)],
    }


def _events(side: int) -> np.ndarray:
    return random_events(np.random.default_rng(0), 20, side, side, 1000)


def _network() -> bytes:
    torch.manual_seed(0)
    net = ndsnn.models.vgg([2, "M"], num_classes=2, time_steps=1, in_channels=1)
    ndsnn.sparsify(net, 0.5)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.safetensors"
        ndsnn.save(net, path, {"layers": [LAYER]})
        data = path.read_bytes()
    # Without its own checksum, which would end every attempt at once; whoever alters a file can leave it out.
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    inner = json.loads(header["__metadata__"]["ndsnn"])
    inner.pop("sha256", None)
    header["__metadata__"]["ndsnn"] = json.dumps(inner)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + int.from_bytes(data[:8], "little") :]


def _pickles() -> list[bytes]:
    images = np.zeros((2, 3), np.uint8)
    python2 = (
        b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x01K\x02\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x02\xff\x07tbU\x06labels]K\x03au."
    )
    return [python2, *(pickle.dumps({"data": images, "labels": [1, 2]}, protocol) for protocol in (0, 2, 4))]


def _frames() -> bytes:
    manifest = {
        "format": 1,
        "dtype": "uint8",
        "parts": {
            "train": {
                "shape": [2, 1, 2, 2],
                "images_sha256": "<images_sha256>",
                "labels_sha256": "<labels_sha256>",
            }
        },
    }
    return _zip_of(
        {
            "manifest.json": json.dumps(manifest).encode(),
            "train_images.npy": _npy(np.zeros((2, 1, 2, 2), np.uint8)),
            "train_labels.npy": _npy(np.arange(2)),
        }
    )


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _zip() -> bytes:
    return _zip_of({"Top/a": b"1" * 50, "Top/b/c": b"", "__MACOSX/x": b"2"}, zipfile.ZIP_DEFLATED)


def _zip_of(contents: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in contents.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            archive.writestr(info, content)
    return file.getvalue()


def _tar(form: int) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for name in ("Top/a.txt", f"Top/{'b' * 120}.csv", "Top/b.txt"):
            info = tarfile.TarInfo(name)
            info.size = 3
            archive.addfile(info, io.BytesIO(b"abc"))
    return gzip.compress(file.getvalue(), mtime=0)


def _image(form: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(file, form)
    return file.getvalue()

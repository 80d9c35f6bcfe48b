"""Read a sparse network that `ndsnn.save` wrote, with numpy alone: python read_safetensors.py NET.safetensors."""

import hashlib
import json
import math
import sys

import numpy as np

TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1", "BOOL": "?"}


def read(path):
    """Return the state dict as dense arrays, and the header; ValueError for a file that is not in order."""
    with open(path, "rb") as file:
        data = file.read()
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(len(data) - 8, 100_000_000):
        raise ValueError(f"{path} is truncated or no safetensors file")
    entries = json.loads(data[8 : 8 + length])
    header = json.loads(entries.pop("__metadata__", {}).get("ndsnn", "null"))
    if not isinstance(header, dict) or (header.get("format"), header.get("version")) != ("ndsnn-sparse", 1):
        raise ValueError(f"{path} is no sparse network of ndsnn, version 1")
    digits = header.get("sha256", "")  # a file of an early version has none
    if digits and hashlib.sha256(data.replace(digits.encode(), b"0" * 64)).hexdigest() != digits:
        raise ValueError(f"{path} was altered after it was written")
    tensors = {key: tensor(entry, memoryview(data)[8 + length :]) for key, entry in entries.items()}
    for key, layer in header["layers"].items():
        tensors[key] = dense(key, tuple(layer["shape"]), tensors)
    return tensors, header


def tensor(entry, data):
    """Return the array that an entry of the header describes."""
    start, stop = entry["data_offsets"]
    dtype = np.dtype(TYPES[entry["dtype"]])
    if not 0 <= start <= stop <= len(data) or stop - start != math.prod(entry["shape"]) * dtype.itemsize:
        raise ValueError(f"an array of {entry['shape']} cannot lie at bytes {start} to {stop}")
    return np.frombuffer(data[start:stop], dtype).reshape(entry["shape"])


def dense(key, shape, tensors):
    """Take the parts of a sparse weight out of `tensors`; return the weight with its zeros."""
    values, size = tensors.pop(f"{key}.values"), math.prod(shape)
    positions = np.arange(size)
    if f"{key}.positions" in tensors:
        positions = tensors.pop(f"{key}.positions")
    elif f"{key}.bitmask" in tensors:
        bits = np.unpackbits(tensors.pop(f"{key}.bitmask"), bitorder="little")
        positions = np.flatnonzero(bits[:size])
    weight = np.zeros(size, values.dtype)
    if len(positions) != len(values) or np.any(np.diff(positions) <= 0) or np.any(positions < 0):
        raise ValueError(f"{key} has {len(values)} values for {len(positions)} positions, or they do not ascend")
    weight[positions] = values
    return weight.reshape(shape)


if __name__ == "__main__":
    for name, array in read(sys.argv[1])[0].items():
        print(f"{name:40} {array.dtype!s:8} {array.shape!s:20} {np.count_nonzero(array)} of {array.size} not 0")

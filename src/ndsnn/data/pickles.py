"""Reading the pickles of CIFAR without running anything that they say."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

from ndsnn.errors import DataError

_ARRAY_TYPES = {"u1": np.uint8, "i8": np.int64}


class _Dtype:
    """Stand-in for numpy.dtype: remembers the type code, allocates nothing."""

    def __init__(self, code: Any = None, *_: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        self.byte_order = state[1]


class _Array:
    """Stand-in for numpy.ndarray: keeps the state until `rebuild` has checked it."""

    def __init__(self, *_: Any) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def rebuild(self) -> np.ndarray:
        _, shape, dtype, fortran_order, content = self.state
        if not isinstance(dtype, _Dtype) or dtype.code not in _ARRAY_TYPES or dtype.byte_order == ">":
            raise ValueError("an array of a type that does not belong here")
        raw = content.encode("latin1") if isinstance(content, str) else content
        flat = np.frombuffer(raw, _ARRAY_TYPES[dtype.code])
        return flat.reshape(shape, order="F" if fortran_order else "C")


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("an unexpected text encoding")
    return text.encode("latin1")


_ALLOWED = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("_codecs", "encode"): _encode,
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no array") from None


def load_arrays(content: bytes, where: object) -> dict[str, Any]:
    """Decode a pickled dictionary of plain values and NumPy arrays, written by Python 2 or 3.

    Nothing that the pickle names is imported or called: five names stand for code of ours, all others are refused.

    Args:
        content: The pickle.
        where: File name, for errors.

    Returns:
        The dictionary, its arrays rebuilt (uint8 or int64).

    Raises:
        DataError: The pickle is corrupt, asks for anything else, or holds no dictionary.
    """
    try:
        entries = _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()
        if not isinstance(entries, dict):
            raise ValueError(f"it holds a {type(entries).__name__}, not a dictionary")
        return {key: value.rebuild() if isinstance(value, _Array) else value for key, value in entries.items()}
    except Exception as error:  # a corrupt pickle can raise almost anything
        raise DataError(f"{where} is corrupt or not a CIFAR file: {error}") from error

"""The compiled kernels, the module `ndsnn._native`: loaded once, on the OpenMP runtime of torch.

torch's wheels bring a libgomp of their own. Two OpenMP runtimes in one process would mean two thread pools, and
`torch.set_num_threads` would rule only one. The extension therefore names no runtime: it leaves the OpenMP
functions undefined, and `load` first makes those of the very file that torch calls visible to the dynamic loader.
That holds for a file called libgomp.so.1 as well as for the renamed copies of some builds
(libgomp-a34b3233.so.1).

The environment variable NDSNN_NATIVE_MODULE names another build of the extension to load in place of the installed
one, such as the sanitized one of `make sanitize`.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import torch

from ndsnn.errors import MissingDependencyError

MODULE = "ndsnn._native"
OVERRIDE = "NDSNN_NATIVE_MODULE"


def load() -> ModuleType:
    """Return the module of the compiled kernels.

    Raises:
        MissingDependencyError: It is not installed or does not load on this machine; the message says why.
    """
    module = _attempt()
    if isinstance(module, str):
        raise MissingDependencyError(module)
    return module


def available() -> bool:
    """Say whether `load` returns a module."""
    return not unavailable_reason()


def unavailable_reason() -> str:
    """Return why `load` fails, or an empty string where it does not."""
    module = _attempt()
    return module if isinstance(module, str) else ""


def openmp_runtime() -> Path | None:
    """Return the file of the OpenMP runtime that torch calls, or None for a torch built without OpenMP."""
    try:
        function = ctypes.CDLL(torch._C.__file__).omp_get_max_threads
    except AttributeError:
        return None
    found = _SymbolInfo()
    ctypes.CDLL(None).dladdr(ctypes.cast(function, ctypes.c_void_p), ctypes.byref(found))
    return Path(os.fsdecode(found.file))


class _SymbolInfo(ctypes.Structure):
    """`Dl_info` of dladdr(3)."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


@functools.cache
def _attempt() -> ModuleType | str:
    """Return the module, or why there is none."""
    chosen = os.environ.get(OVERRIDE)
    if not chosen and importlib.util.find_spec(MODULE) is None:
        return (
            "this installation of ndsnn has no native engine (made with NDSNN_NO_NATIVE or for another Python); "
            "install ndsnn again where there is a C++17 compiler"
        )
    try:
        _share_openmp()
        return _from_file(Path(chosen)) if chosen else importlib.import_module(MODULE)
    except (ImportError, OSError) as error:
        file = f"{chosen}, named by {OVERRIDE}," if chosen else "the native engine"
        return f"{file} cannot be loaded: {error}; install ndsnn again on this machine"


def _share_openmp() -> None:
    """Let the extension find torch's OpenMP runtime, or the system's where torch has none.

    Elsewhere than on Linux the extension is linked to a runtime.
    """
    if sys.platform == "linux":
        ctypes.CDLL(str(openmp_runtime() or "libgomp.so.1"), mode=ctypes.RTLD_GLOBAL)


def _from_file(path: Path) -> ModuleType:
    """Import the extension from `path` as `ndsnn._native`."""
    spec = importlib.util.spec_from_file_location(MODULE, path)
    if spec is None or spec.loader is None:
        raise ImportError("it is no extension module of this Python")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[MODULE] = module
    return module

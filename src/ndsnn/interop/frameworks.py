"""The adapters of other frameworks, each loaded when a network holds a module of its package."""

from __future__ import annotations

import importlib

from ndsnn.engine.foreign.framework import Framework, register

ADAPTERS = {
    "spikingjelly": "ndsnn.interop.spikingjelly",
    "snntorch": "ndsnn.interop.snntorch",
    "norse": "ndsnn.interop.norse",
}
"""Module of the adapter for each package; each has a function `adapter()`."""


def register_adapters() -> None:
    """Tell the engine of all adapters; none is imported yet, nor is any framework."""
    for package, module in ADAPTERS.items():

        def load(module: str = module) -> Framework:
            framework: Framework = importlib.import_module(module).adapter()
            return framework

        register(package, load)

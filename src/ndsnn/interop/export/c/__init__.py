"""Inference in C99 for boards without an operating system: plan, numbers, lists of connections, memory, source."""

from ndsnn.interop.export.c.integers import IntegerRun, run_integers
from ndsnn.interop.export.c.numbers import floats, quantize
from ndsnn.interop.export.c.planning import plan_program
from ndsnn.interop.export.c.program import Program
from ndsnn.interop.export.c.writing import Generated, generate, write_c

__all__ = [
    "Generated",
    "IntegerRun",
    "Program",
    "floats",
    "generate",
    "plan_program",
    "quantize",
    "run_integers",
    "write_c",
]

"""C text: literals, constant arrays, templates."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from string import Template
from typing import Any

import numpy as np

from ndsnn.interop.export.c.program import Numbers

WIDTH = 115

_TYPES = {
    "float32": "float",
    "int8": "int8_t",
    "int32": "int32_t",
    "uint8": "uint8_t",
    "uint16": "uint16_t",
    "uint32": "uint32_t",
}


def c_type(numbers: Numbers) -> str:
    """Return the C type of an array's entries."""
    return _TYPES[numbers.dtype.name]


def literal(number: Any) -> str:
    """Return a number as C writes it; a float32 in hexadecimal, which is exact."""
    if not isinstance(number, np.floating):
        return str(int(number))
    if number == 0:
        return "0.0f"
    mantissa, exponent = float(number).hex().split("p")
    return f"{mantissa.rstrip('0').rstrip('.')}p{exponent}f"


def array(name: str, numbers: Numbers) -> str:
    """Return a constant array; an empty one gets an entry, since C has no arrays without."""
    entries = numbers if len(numbers) else np.zeros(1, numbers.dtype)
    lines = "\n".join(f"    {line}" for line in wrapped((f"{literal(x)}," for x in entries), WIDTH - 4))
    return f"\nstatic const {c_type(numbers)} {name}[{len(entries)}] = {{\n{lines}\n}};\n"


def wrapped(words: Iterable[str], width: int) -> list[str]:
    """Join words to lines of at most `width` characters."""
    lines: list[str] = []
    line: list[str] = []
    length = 0
    for word in words:
        if line and length + 1 + len(word) > width:
            lines.append(" ".join(line))
            line, length = [], 0
        length += len(word) + bool(line)
        line.append(word)
    return [*lines, " ".join(line)]


def template(name: str, **values: object) -> str:
    """Return a file of `templates` with its placeholders filled in."""
    text = resources.files(__package__).joinpath("templates", f"{name}.in").read_text(encoding="utf-8")
    return Template(text).substitute(values)

"""Header and source of a network, and how many bytes they need."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import ndsnn
from ndsnn.atomic import sync_directory, write_temporary
from ndsnn.errors import ExportError
from ndsnn.interop.export.c.connections import Connections, connections_of
from ndsnn.interop.export.c.memory import Memory, plan_memory
from ndsnn.interop.export.c.program import Drive, Program
from ndsnn.interop.export.c.source import PixelScale, SourceWriter, printable
from ndsnn.interop.export.c.text import template

_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True)
class Sizes:
    """Bytes of an exported network; the machine code comes on top.

    Args:
        weights: Flash of the weights.
        index: Flash of the lists of connections.
        tables: Flash of all other constants (thresholds, biases, windows, scales).
        context: RAM of a context without counters: potentials, maps, logits.
        potentials: What of it are potentials.
        drives: What of it keeps the current of the image.
        maps: What of it are spikes and averages.
    """

    weights: int
    index: int
    tables: int
    context: int
    potentials: int
    drives: int
    maps: int

    @property
    def flash(self) -> int:
        """Bytes of all constant tables."""
        return self.weights + self.index + self.tables


@dataclass(frozen=True)
class Generated:
    """A network in C.

    Args:
        name: Prefix of the public names.
        header: Text of NAME.h.
        source: Text of NAME.c.
        sizes: What it needs.
        layers: One line on each layer, as in the header.
    """

    name: str
    header: str = field(repr=False)
    source: str = field(repr=False)
    sizes: Sizes
    layers: tuple[str, ...] = field(repr=False)


def generate(program: Program, name: str, pixels: PixelScale | None = None) -> Generated:
    """Write a program as C99.

    Args:
        program: With the numbers of `floats` or `quantize`.
        name: Prefix of all public names.
        pixels: Normalisation of the images that the network was trained on, if it is known.

    Raises:
        ExportError: `name` is no identifier, or `pixels` has other channels than the input.
    """
    if not _IDENTIFIER.fullmatch(name):
        raise ExportError(
            f"{name!r} cannot be the prefix of C names; name the output, without an ending, by letters, digits "
            "and underscores, a letter first"
        )
    if pixels is not None and len(pixels.mean) != program.given[0]:
        raise ExportError(
            f"mean and std are of {len(pixels.mean)} channels, but the network's input has {program.given[0]}"
        )
    memory = plan_memory(program)
    connections = tuple(connections_of(drive) for drive in program.drives if drive.kind != "add")
    writer = SourceWriter(name, ndsnn.__version__, program, memory, connections, pixels)
    source = writer.write()
    weights, index = (sum(getattr(c, what) for c in connections) for what in ("weight_bytes", "index_bytes"))
    sizes = Sizes(
        weights,
        index,
        writer.table_bytes - weights - index,
        memory.context_bytes,
        4 * memory.potentials,
        4 * memory.drives,
        memory.most_spikes + 4 * memory.most_values,
    )
    layers = tuple(_layers(program, connections))
    return Generated(name, _header(program, name, pixels, memory, sizes, layers), source, sizes, layers)


def write_c(generated: Generated, directory: Path, overwrite: bool = False) -> tuple[Path, Path]:
    """Write NAME.h and NAME.c; either both are new or none is.

    Args:
        generated: What `generate` returned.
        directory: Where to; it is made if it is not there.
        overwrite: Whether files of these names may be replaced.

    Returns:
        Paths of the header and the source.

    Raises:
        ExportError: A file is there already, or the directory cannot be written.
    """
    paths = directory / f"{generated.name}.h", directory / f"{generated.name}.c"
    for path in paths:
        if path.exists() and not overwrite:
            raise ExportError(f"{path} is there already; give another name or --overwrite")
    temporaries: list[Path] = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path, text in zip(paths, (generated.header, generated.source), strict=True):
            temporaries.append(write_temporary(path, text.encode()))
        for temporary, path in zip(temporaries, paths, strict=True):
            os.replace(temporary, path)
        sync_directory(directory)
    except OSError as error:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)
        raise ExportError(f"{directory} cannot be written: {error}") from error
    return paths


def _header(
    program: Program,
    name: str,
    pixels: PixelScale | None,
    memory: Memory,
    sizes: Sizes,
    layers: tuple[str, ...],
) -> str:
    names = {"NAME": name, "MACRO": name.upper(), "version": ndsnn.__version__}
    value = "float" if program.fraction is None else "int32_t"
    values = f"    {value} values[{memory.most_values}];\n" if memory.most_values else ""
    channels, height, width = program.given
    classes, rows, columns = program.output.shape
    return template(
        "header.h",
        numbers=_numbers(program),
        memory="\n".join(f" *   {line}" for line in _memory_lines(sizes)),
        layers="\n".join(f" *   {line}" for line in layers),
        channels=channels,
        height=height,
        width=width,
        inputs=channels * height * width,
        logits=memory.logits,
        logit_shape="classes" if rows == columns == 1 else f"[{classes}][{rows}][{columns}]",
        time_steps=program.time_steps,
        const_bytes=sizes.flash,
        context_bytes=sizes.context,
        neuron_layers=len(program.populations),
        synapses=sum(drive.kind != "add" for drive in program.drives),
        sum="float" if program.fraction is None else "int64_t",
        value=value,
        potentials=memory.potentials,
        drives=memory.drives,
        values_member=values,
        spikes=memory.most_spikes,
        run=_run_functions(program, pixels, names),
        **names,
    )


def _run_functions(program: Program, pixels: PixelScale | None, names: dict[str, str]) -> str:
    parts = "" if program.events else template("run.h", **names)
    if pixels is not None:
        mean, std = (", ".join(f"{x:.6g}" for x in numbers) for numbers in (pixels.mean, pixels.std))
        parts += template("pixels.h", mean=mean, std=std, **names)
        if not program.events:
            parts += template("run_pixels.h", **names)
    return parts


def _numbers(program: Program) -> str:
    if program.fraction is None:
        return "Numbers: float32 weights and potentials."
    return (
        "Numbers: int8 weights with a scale for each output channel, int32 potentials with "
        f"{program.fraction} bits\n * behind the point. Floats occur in the input and the logits only."
    )


def _memory_lines(sizes: Sizes) -> list[str]:
    return [
        f"flash: {sizes.flash} bytes of constants: weights {sizes.weights}, lists of connections {sizes.index}, "
        f"other tables {sizes.tables}; and the code",
        f"RAM:   {sizes.context} bytes in the context: potentials {sizes.potentials}, current of the image "
        f"{sizes.drives},",
        f"       spikes and averages {sizes.maps}, the rest logits; a few hundred bytes of stack",
    ]


def _layers(program: Program, connections: tuple[Connections, ...]) -> Iterator[str]:
    synapse = 0
    for number, layer in enumerate(program.populations):
        for drive in layer.drives:
            if drive.kind != "add":
                yield _synapse_line(synapse, drive, connections[synapse])
                synapse += 1
        channels, height, width = layer.shape
        reset = "soft reset" if layer.soft else "hard reset"
        pool = f", max-pool {layer.pool}" if layer.pool > 1 else ""
        yield f"neurons {number}: {printable(layer.path)}, {channels} x {height} x {width}, {reset}{pool}"
    yield _synapse_line(synapse, program.output.drive, connections[synapse])


def _synapse_line(number: int, drive: Drive, lists: Connections) -> str:
    shape = " x ".join(map(str, drive.weight.shape))
    return (
        f"synapse {number}: {printable(drive.layer)}, {drive.kind} {shape}, {lists.alive} weights, "
        f"{lists.weight_bytes} + {lists.index_bytes} bytes"
    )

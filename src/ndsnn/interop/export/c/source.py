"""The C source: constant tables, the functions that the network needs, and the calls of one step."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

from ndsnn.interop.export.c.connections import Connections
from ndsnn.interop.export.c.memory import Memory, bytes_per_place
from ndsnn.interop.export.c.program import Average, Drive, OrPool, Population, Program, Source
from ndsnn.interop.export.c.text import array, c_type, literal, template


@dataclass(frozen=True)
class PixelScale:
    """Normalisation of pixels 0 to 255, per channel: pixel·scale + shift, as `ndsnn.data.normalise` has it.

    Args:
        mean: Per channel, of values in [0, 1].
        std: Per channel, of values in [0, 1].
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def scale(self) -> np.ndarray:
        """1/(255·std), float32."""
        return (1 / (255 * np.array(self.std))).astype(np.float32)

    @property
    def shift(self) -> np.ndarray:
        """−mean/std, float32."""
        return (-np.array(self.mean) / np.array(self.std)).astype(np.float32)

    @property
    def largest(self) -> float:
        """Largest |x| that a pixel can become."""
        ends = np.concatenate([self.shift, 255 * self.scale + self.shift])
        return float(np.abs(ends).max())


class SourceWriter:
    """Writes the source of one network.

    Args:
        name: Prefix of all public names.
        version: Of ndsnn.
        program: With float32 or integer numbers.
        memory: Its memory plan.
        connections: Lists of each drive but those of kind "add", in the order of `program.drives`.
        pixels: Normalisation of pixels, if it is known.
    """

    def __init__(
        self,
        name: str,
        version: str,
        program: Program,
        memory: Memory,
        connections: tuple[Connections, ...],
        pixels: PixelScale | None,
    ) -> None:
        self.names = {"NAME": name, "MACRO": name.upper(), "version": version}
        self.program, self.memory, self.connections, self.pixels = program, memory, connections, pixels
        self.exact = program.fraction is not None
        self.tables: list[str] = []
        # Pieces of code by what they define, in the order in which they are needed.
        self.pieces: dict[str, str] = {}
        self.table_bytes = 0
        self.synapse = 0
        self.layers = 0
        self.gains = 0
        self.show: list[str] = []
        self.steps: list[str] = []
        self.init: list[str] = []

    def write(self) -> str:
        """Return the source."""
        self._write_numbers()
        self._piece(
            "fire",
            "fire.c",
            value="int32_t" if self.exact else "float",
            threshold_declaration="*threshold" if self.exact else "threshold",
            threshold="threshold[channel]" if self.exact else "threshold",
        )
        if self.memory.drives:
            self._piece("add_all", "add_all.c")
        for index, operation in enumerate(self.program.operations):
            if isinstance(operation, Population):
                self._population(operation)
            elif isinstance(operation, OrPool):
                self._or_pool(operation)
            else:
                self._average(index, operation)
        return self._assemble(self._output())

    def _assemble(self, logit: str) -> str:
        output = self.program.output
        epilogue = template(
            "epilogue.c",
            show="".join(self.show),
            advance="".join(self.steps),
            init="".join(self.init),
            places=output.shape[1] * output.shape[2],
            classes=output.shape[0],
            logit=logit,
            **self.names,
        )
        if not self.program.events:
            epilogue += template("run.c", **self.names)
        if self.pixels is not None:
            epilogue += template("pixels.c", **self.names)
            if not self.program.events:
                epilogue += template("run_pixels.c", **self.names)
        return "".join([*self.pieces.values(), *self.tables, epilogue])

    def _write_numbers(self) -> None:
        program = self.program
        self._piece(
            "prologue",
            "prologue.c",
            value="int32_t" if self.exact else "float",
            weight="int8_t" if self.exact else "float",
            threshold_member="const value *threshold; /* of each channel */" if self.exact else "value threshold;",
            **self.names,
        )
        if self.exact:
            self._piece("numbers", "integers.c", fraction=program.fraction, input_limit=program.input_limit)
        else:
            self._piece("numbers", "floats.c")
        if self.pixels is None:
            self._piece("read", "read.c")
            return
        scale, shift = (", ".join(map(literal, numbers)) for numbers in (self.pixels.scale, self.pixels.shift))
        self._piece("read", "read_pixels.c", channels=len(self.pixels.mean), pixel_scale=scale, pixel_shift=shift)
        self.table_bytes += 8 * len(self.pixels.mean)

    def _population(self, layer: Population) -> None:
        number = self.layers
        self.layers += 1
        name, driven, channels = f"neurons_{number}", bool(layer.image_drives), layer.shape[0]
        self.tables.append(f"\n/* {printable(layer.path)} */")
        bias = self._table(f"bias_{number}", layer.bias) if layer.bias.any() else "0"
        threshold = literal(layer.threshold[0])
        if self.exact:
            threshold = self._table(f"threshold_{number}", layer.threshold)
        leak = layer.leak if self.exact else literal(np.float32(layer.leak))
        sizes = ", ".join(map(str, (*layer.shape, layer.pool, *layer.pooled, int(layer.soft))))
        # The bias of a layer that the image reaches is added together with the image.
        fields = f"{sizes}, {leak}, {threshold}, {'0' if driven else bias}"
        self.tables.append(f"\nstatic const neurons {name} = {{{fields}}};\n")
        potentials = f"context->potentials + {self.memory.potential[layer.path]}"
        self.steps.append(f"    /* {printable(layer.path)} */\n")
        if driven:
            drives = f"context->drives + {self.memory.drive[layer.path]}"
            self.show.append(f"    fill(&{name}, {bias}, {drives});\n")
            self.show += [self._send(drive, drives) for drive in layer.image_drives]
            self.steps.append(
                f"    add_all({channels * layer.shape[1] * layer.shape[2]}, {drives}, {potentials});\n"
            )
        elif bias != "0":
            self.init.append(f"    fill(&{name}, {bias}, {potentials});\n")
        self.steps += [self._send(drive, potentials) for drive in layer.step_drives]
        fired = f"fire(&{name}, {potentials}, context->spikes + {self.memory.spikes[layer.node]})"
        self.steps.append(f"    COUNT(spike_counts[{number}], {fired});\n")

    def _send(self, drive: Drive, into: str) -> str:
        """Return the call that adds a drive to the potentials `into`, with all that it needs."""
        if drive.kind == "add":
            return self._add(drive, into)
        number, lists = self.synapse, self.connections[self.synapse]
        self.synapse += 1
        kind = "spike" if drive.source.kind == "spikes" else "value"
        self._event_functions(lists, kind, drive)
        name = self._synapse_table(number, drive, lists)
        sent = f"{lists.tag}_from_{drive.source.kind}(&{name}, {self._read(drive.source)}, {into})"
        return f"    COUNT(operations[{number}], {sent});\n"

    def _event_functions(self, lists: Connections, kind: str, drive: Drive) -> None:
        tag, file = lists.tag, lists.kind
        types = {
            name: c_type(getattr(lists, name))
            for name in (("start", "count", "delta") if lists.kind == "conv" else ("start", "delta"))
        }
        self._piece(tag, f"{file}.c", tag=tag, **types)
        addend = "*weights++" if not self.exact else "(int32_t)*weights++"
        addend += " * v" if kind == "value" else " * ONE" if self.exact else ""
        parameter = ", value v" if kind == "value" else ""
        types.pop("start")
        self._piece(
            f"{tag}_{kind}", f"{file}_event.c", tag=tag, what=kind, addend=addend, parameter=parameter, **types
        )
        place = self._image_place() if drive.source.kind == "image" else {}
        source = drive.source.kind
        self._piece(f"{tag}_from_{source}", f"from_{source}.c", tag=tag, **place)

    def _synapse_table(self, number: int, drive: Drive, lists: Connections) -> str:
        name = f"synapse_{number}"
        self.tables.append(f"\n/* {printable(drive.layer)} */")
        start, delta, weights = (
            self._table(f"{what}_{number}", numbers)
            for what, numbers in (("start", lists.start), ("delta", lists.delta), ("weights", lists.weight))
        )
        fields = [*drive.source.shape]
        pointers = [start, delta, weights]
        if lists.kind == "conv":
            height, width = drive.weight.shape[2:]
            fields += [len(drive.weight), *conv_output(drive), height, width, drive.stride - 1, *drive.padding]
            pointers.insert(1, self._table(f"count_{number}", lists.count))
        entries = ", ".join([*map(str, fields), *pointers])
        self.tables.append(f"\nstatic const {lists.tag} {name} = {{{entries}}};\n")
        return name

    def _add(self, drive: Drive, into: str) -> str:
        source, (channels, height, width) = drive.source.kind, drive.source.shape
        gain = self._table(f"gain_{self.gains}", drive.gain) if self.exact else literal(drive.gain[0])
        self.gains += 1
        values: dict[str, object] = {"gain_parameter": "const value *gain" if self.exact else "value gain"}
        if source == "spikes":
            values["gain"] = "gain[channel]" if self.exact else "gain"
        else:
            values["product"] = "round_divide((int64_t)gain[channel] * v, ONE)" if self.exact else "gain * v"
            if self.exact:
                self._piece("round_divide", "round_divide.c")
        if source == "image":
            values |= self._image_place() | {"padded_width": width}
        self._piece(f"add_{source}", f"add_{source}.c", **values)
        sizes = "" if source == "image" else f"{height * width}, {channels}, "
        return f"    add_{source}({sizes}{self._read(drive.source)}, {gain}, {into});\n"

    def _or_pool(self, pool: OrPool) -> None:
        self._piece("or_pool", "or_pool.c")
        channels, height, width = pool.source.shape
        target = f"context->spikes + {self.memory.spikes[pool.node]}"
        sizes = ", ".join(map(str, (height, width, bytes_per_place(channels), pool.pool, *pool.pooled)))
        call = f"or_pool({sizes}, {self._read(pool.source)}, {target});"
        self.steps.append(f"    /* {printable(pool.path)} */\n    {call}\n")

    def _average(self, index: int, pool: Average) -> None:
        kind = pool.source.kind
        if self.exact:
            self._piece("round_divide", "round_divide.c")
        mean_of = {
            "spikes": "round_divide((int64_t)averages[channel] * ONE, (int32_t)places)",
            "values": "round_divide(averages[channel], (int32_t)places)",
        }[kind]
        self._piece("average", "average.c")
        mean = mean_of if self.exact else "averages[channel] / (float)places"
        self._piece(f"average_{kind}", f"average_{kind}.c", **{f"mean_of_{kind}": mean})
        rows, columns = (
            self._table(f"{what}_{index}", np.array(windows, np.uint16).reshape(-1))
            for what, windows in (("rows", pool.rows), ("columns", pool.columns))
        )
        (channels, height, width), in_width = pool.shape, pool.source.shape[2]
        fields = f"{channels}, {in_width}, {height}, {width}, {rows}, {columns}"
        self.tables.append(f"\nstatic const average average_{index} = {{{fields}}};\n")
        target = f"context->values + {self.memory.values[pool.node]}"
        call = f"average_{kind}(&average_{index}, {self._read(pool.source)}, {target});"
        self.steps.append(f"    /* {printable(pool.path)} */\n    {call}\n")

    def _output(self) -> str:
        """Append the readout's calls; return the expression of a logit."""
        output = self.program.output
        logits = math.prod(output.shape)
        self.steps.append(f"    /* {printable(output.path)} */\n")
        self.steps.append("    memset(context->logits, 0, sizeof context->logits);\n")
        self.steps.append(self._send(output.drive, "context->logits"))
        self.steps.append(
            f"    for (uint32_t i = 0; i < {logits}; i++) {{\n"
            "        context->logit_sums[i] += context->logits[i];\n    }\n"
        )
        scale = f" * {self._table('logit_scale', output.scale)}[i]" if self.exact else ""
        bias = f" + {self._table('logit_bias', output.bias)}[i]" if output.bias.any() else ""
        return f"sum{scale} / steps{bias}"

    def _read(self, source: Source) -> str:
        """Return the pointer to a map, or the image that `show` was given."""
        if source.kind == "image":
            return "source"
        where = self.memory.spikes if source.kind == "spikes" else self.memory.values
        return f"context->{source.kind} + {where[source.node]}"

    def _image_place(self) -> dict[str, int]:
        channels, height, width = self.program.given
        top, left = self.program.corner
        return {"channels": channels, "height": height, "width": width, "top": top, "left": left}

    def _table(self, name: str, numbers: np.ndarray) -> str:
        self.tables.append(array(name, numbers))
        self.table_bytes += max(numbers.nbytes, numbers.dtype.itemsize)
        return name

    def _piece(self, key: str, file: str, **values: object) -> None:
        if key not in self.pieces:
            self.pieces[key] = template(file, **values)


def conv_output(drive: Drive) -> tuple[int, int]:
    """Return height and width of a convolution's output."""
    sizes = zip(drive.source.shape[1:], drive.padding, drive.weight.shape[2:], strict=True)
    height, width = ((size + 2 * pad - kernel) // drive.stride + 1 for size, pad, kernel in sizes)
    return height, width


def printable(path: str) -> str:
    """Return a module's path as it may stand in a comment."""
    return re.sub(r"[^A-Za-z0-9_.]", "_", path)

"""`ndsnn export RUN --format F -o FILE`: which formats there are, and what each of them does with its options."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ndsnn.errors import ConfigError, DataError, ExportError, MissingDependencyError, unknown_name

if TYPE_CHECKING:
    from ndsnn.interop.export.network import FoldedNetwork
    from ndsnn.interop.export.source import ExportSource

CHECK_IMAGES = 32
"""Images on which `--check` runs an exported file."""


@dataclass(frozen=True)
class ExportOptions:
    """Options of all formats; None is what was not given.

    Args:
        output: The file, or of C the name of both files without their endings.
        overwrite: Whether a file that exists is replaced.
        check: Whether the file is run in other software afterwards and compared (nir, onnx).
        allow_lossy: Whether what the format cannot say is written in other words and declared (nir).
        dt: Seconds of a step (nir).
        opset: Version of the operators (onnx).
        quantize: "int8" for weights in 8 bits (c).
        data_root: Folder of the run's images, if they have moved (`--check`, c).
    """

    output: Path
    overwrite: bool = False
    check: bool | None = None
    allow_lossy: bool | None = None
    dt: float | None = None
    opset: int | None = None
    quantize: str | None = None
    data_root: str | None = None


@dataclass(frozen=True)
class Format:
    """An export format.

    Args:
        export: Writes the file; returns what is to be said of it, JSON-able, "bytes" among it.
        suffix: Ending of the file's name, for a name that is made up.
        options: Names of the options that it takes, besides those that all take.
        endings: Endings of the files that are written, where it is not the one that was named.
    """

    export: Callable[[ExportSource, ExportOptions], dict[str, Any]]
    suffix: str
    options: frozenset[str] = frozenset()
    endings: tuple[str, ...] = ("",)


def add_export(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `export`; options that are not given are left to the formats."""
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory, or a file that ndsnn.save wrote")
    parser.add_argument("--format", required=True, metavar="F", help=" | ".join(FORMATS))
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="where to (default: RUN.<ending> here)")
    parser.add_argument("--which", choices=("last", "best"), help="which network of a run (default: best)")
    parser.add_argument(
        "--image-size", type=int, nargs="+", metavar="N", help="height and width (default: the run's)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a file that exists")
    for flag, explanation in (
        ("--check", "run the file in other software and compare (nir, onnx)"),
        ("--allow-lossy", "write in other words what the format cannot say, and declare it (nir)"),
    ):
        parser.add_argument(flag, action="store_true", default=None, help=explanation)
    parser.add_argument("--dt", type=float, metavar="S", help="seconds of a step (nir; default: 1e-4)")
    parser.add_argument("--opset", type=int, metavar="N", help="version of the operators (onnx; default: 17)")
    parser.add_argument("--quantize", metavar="TYPE", help="int8 (c)")
    parser.add_argument("--data-root", metavar="DIR", help="folder of the run's images, if they have moved")
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    parser.set_defaults(command=_export)


def _export(options: argparse.Namespace) -> int:
    found = export(
        options.run,
        options.format,
        options.output,
        which=options.which,
        image_size=options.image_size,
        overwrite=options.overwrite,
        **{name: getattr(options, name) for name in _FORMAT_OPTIONS},
    )
    for note in found["notes"]:
        print(f"ndsnn: warning: {note}; using the previous good checkpoint", file=sys.stderr)
    print(json.dumps(found) if options.json else _text(found))
    return 0


def export(
    run: Path,
    format: str,
    output: Path | None = None,
    *,
    which: str | None = None,
    image_size: list[int] | None = None,
    overwrite: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Export the network of a run or a file.

    Args:
        run: Run directory, or a file that `ndsnn.save` wrote of a network of `ndsnn.models`.
        format: A key of `FORMATS`.
        output: The file; None makes one in the working directory after the run's name.
        which: "best" (None) or "last" network of a run.
        image_size: Height and width of the input, or one side of both; None takes the run's.
        overwrite: Whether a file that exists is replaced.
        options: Those of `ExportOptions` that the format takes.

    Returns:
        What was written, JSON-able.

    Raises:
        ConfigError: An unknown format or option, or one that the format or the input does not take.
        ExportError: The network cannot be written so, or the file exists.
        NdsnnError: The run or file cannot be read.
    """
    from ndsnn.interop.export.source import open_source

    if format not in FORMATS:
        raise ConfigError(unknown_name("format", format, FORMATS))
    kind = FORMATS[format]
    for name, value in (options | {"image_size": image_size}).items():
        if value is not None and name not in kind.options:
            raise ConfigError(f"--{name.replace('_', '-')} is no option of format {format}")
    if "check" in kind.options and options.get("data_root") is not None and not options.get("check"):
        raise ConfigError(f"--data-root says where the images of --check are; format {format} needs no others")
    if which is not None and run.is_file():
        raise ConfigError(f"--which chooses a network of a run; {run} is a file")
    output = Path(f"{run.resolve().name.removesuffix('.safetensors')}{kind.suffix}") if output is None else output
    _require_writable(output, kind, overwrite)
    source = open_source(run, which or "best", _size(image_size))
    written = kind.export(source, ExportOptions(output, overwrite, **options))
    return {
        "run": str(run),
        "epoch": source.epoch,
        "format": format,
        "file": str(output),
        "notes": list(source.notes),
    } | written


def _size(given: list[int] | None) -> tuple[int, int] | None:
    if given is None:
        return None
    if len(given) > 2 or min(given) < 1:
        raise ConfigError(f"--image-size takes a height and a width, or one number for both, got {given}")
    return given[0], given[-1]


def _require_writable(output: Path, kind: Format, overwrite: bool) -> None:
    """Check that the files may be written, before anything is computed."""
    if not output.parent.is_dir():
        raise ExportError(f"there is no directory {output.parent} to write {output.name} to")
    for ending in kind.endings:
        path = output.with_name(output.name + ending)
        if path.is_dir():
            raise ExportError(f"{path} is a directory; name a file")
        if path.exists() and not overwrite:
            raise ExportError(f"{path} exists already; choose another output or give --overwrite")


def check_input(source: ExportSource, network: FoldedNetwork, data_root: str | None) -> tuple[Tensor, str]:
    """Return the input to compare on, and whether it is of the run's "validation" images or "random"."""
    from ndsnn.data.loader import evaluation_batches

    try:
        images = source.load_images(data_root)
    except (ExportError, DataError, MissingDependencyError):
        steps = (network.time_steps,) if network.events else ()
        generator = torch.Generator().manual_seed(0)
        return torch.randn(*steps, CHECK_IMAGES, *network.input.given, generator=generator), "random"
    x, _ = next(evaluation_batches(images.validation, CHECK_IMAGES, mean=images.mean, std=images.std))
    return x, "validation"


def _export_nir(source: ExportSource, options: ExportOptions) -> dict[str, Any]:
    from ndsnn.interop.export import nir
    from ndsnn.interop.export.agreement import SIMULATORS, nir_agreement
    from ndsnn.interop.export.simulation import simulate

    network = source.folded()
    dt = nir.DEFAULT_DT if options.dt is None else options.dt
    made = nir.to_nir(network, dt, bool(options.allow_lossy), _statistics(source))
    found = {"bytes": made.write(options.output), "dt": dt, "lossy": list(made.lossy)} | _counts(network)
    if options.check:
        x, images = check_input(source, network, options.data_root)
        expected, agreements = simulate(network, x), []
        for simulator in SIMULATORS:
            try:
                agreements.append(nir_agreement(options.output, network, x, expected, simulator, dt).as_json())
            except MissingDependencyError:
                continue
            except Exception as error:  # other people's code, which may fail in any way
                agreements.append({"simulator": simulator, "failed": " ".join(str(error).split())})
        found |= {"checked_on": images, "agreement": agreements}
    return found


def _export_onnx(source: ExportSource, options: ExportOptions) -> dict[str, Any]:
    from ndsnn.interop.export import onnx
    from ndsnn.interop.export.agreement import onnx_agreement
    from ndsnn.interop.export.simulation import simulate

    network = source.folded()
    opset = onnx.OPSET if options.opset is None else options.opset
    notes = {name: json.dumps(list(values)) for name, values in _statistics(source).items()}
    size = onnx.write_onnx(onnx.to_onnx(network, opset, notes), options.output)
    found = {"bytes": size, "opset": opset} | _counts(network)
    if options.check:
        x, images = check_input(source, network, options.data_root)
        agreement = onnx_agreement(options.output, x, simulate(network, x)).as_json()
        found |= {"checked_on": images, "agreement": [agreement]}
    return found


def _export_dense(source: ExportSource, options: ExportOptions) -> dict[str, Any]:
    from ndsnn.interop.export.dense import write_dense

    return {"bytes": write_dense(source.net, options.output)}


def _export_safetensors(source: ExportSource, options: ExportOptions) -> dict[str, Any]:
    from ndsnn.sparse.sparsify import sparsity
    from ndsnn.sparse.storage import save

    notes: dict[str, Any] = {"epoch": source.epoch} if source.epoch is not None else {}
    save(source.net, options.output, notes | {name: list(v) for name, v in _statistics(source).items()})
    return {"bytes": options.output.stat().st_size, "sparsity": sparsity(source.net)}


def _export_c(source: ExportSource, options: ExportOptions) -> dict[str, Any]:
    from ndsnn.interop.export.c.command import export_c

    return export_c(source, options.output, options.quantize, options.data_root, options.overwrite)


def _statistics(source: ExportSource) -> dict[str, Any]:
    """Return what the input has to be normalised by, where that is known."""
    known = source.statistics
    return {} if known is None else {"input_mean": known.mean, "input_std": known.std}


def _counts(network: FoldedNetwork) -> dict[str, Any]:
    synapses = network.synapses()
    return {
        "time_steps": network.time_steps,
        "input": list(network.input.given),
        "weights": sum(synapse.nnz for synapse in synapses),
        "layers": [synapse.layer for synapse in synapses],
    }


def _text(found: dict[str, Any]) -> str:
    epoch = "" if found["epoch"] is None else f" (epoch {found['epoch']})"
    lines = [f"{found['run']}{epoch} -> {found['file']}: {found['format']}, {found['bytes']:,} bytes"]
    lines += [f"  not exact: {what}" for what in found.get("lossy", [])]
    for agreement in found.get("agreement", []):
        name = agreement["simulator"]
        if "failed" in agreement:
            lines.append(f"  {name}: cannot run it: {agreement['failed']}")
            continue
        spikes = agreement["spikes"].values()
        equal = f"at least {min(spikes):.4%} of the spikes of each layer equal, " if spikes else ""
        lines.append(
            f"  {name} {agreement['version']} on {agreement['images']} {found['checked_on']} images: {equal}"
            f"{agreement['predictions']:.2%} of the predictions, logits within "
            f"{agreement['largest_difference']:.2g} of {agreement['largest_logit']:.2g}"
        )
    if found["format"] == "c":
        from ndsnn.interop.export.c.command import describe

        lines += describe(found)
    return "\n".join(lines)


FORMATS: dict[str, Format] = {
    "nir": Format(_export_nir, ".nir", frozenset({"check", "allow_lossy", "dt", "data_root", "image_size"})),
    "onnx": Format(_export_onnx, ".onnx", frozenset({"check", "opset", "data_root", "image_size"})),
    "safetensors": Format(_export_safetensors, ".safetensors"),
    "dense": Format(_export_dense, "-dense.safetensors"),
    "c": Format(_export_c, "", frozenset({"quantize", "data_root", "image_size"}), (".h", ".c")),
}
"""All formats by name."""

_FORMAT_OPTIONS = ("check", "allow_lossy", "dt", "opset", "quantize", "data_root")

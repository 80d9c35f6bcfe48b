"""`ndsnn export RUN --format c`: files, memory needs, and what int8 costs in accuracy."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ndsnn.data.loader import evaluation_batches
from ndsnn.errors import ConfigError, DataError, ExportError, MissingDependencyError, unknown_name
from ndsnn.interop.export.c.integers import run_integers
from ndsnn.interop.export.c.numbers import floats, quantize
from ndsnn.interop.export.c.planning import plan_program
from ndsnn.interop.export.c.program import Program
from ndsnn.interop.export.c.source import PixelScale
from ndsnn.interop.export.c.writing import generate, write_c
from ndsnn.interop.export.network import FoldedNetwork
from ndsnn.interop.export.source import ExportSource
from ndsnn.losses import predict
from ndsnn.training.acceleration import put_on_engine

QUANTIZED = ("int8",)
"""Types of weights other than float32."""

IMAGES_AT_ONCE = 64


def export_c(
    source: ExportSource, output: Path, quantized: str | None, data_root: str | None, overwrite: bool
) -> dict[str, Any]:
    """Write a network as C, and measure it on the test images if it is quantised.

    Args:
        source: The run or file.
        output: Path of both files without their endings; its name is the prefix of all C names.
        quantized: "int8", or None for float32.
        data_root: Folder of the run's images, if they have moved.
        overwrite: Whether files that exist are replaced.

    Returns:
        Figures, JSON-able.

    Raises:
        ConfigError: An unknown type of weights.
        ExportError: The network has no form in C, or int8 does not know the range of its input.
    """
    if quantized not in (None, *QUANTIZED):
        raise ConfigError(unknown_name("type of --quantize", str(quantized), QUANTIZED))
    if data_root is not None and quantized is None:
        raise ConfigError("--data-root says where the test images are, which only --quantize looks at")
    network = source.folded()
    pixels = None if source.statistics is None else PixelScale(source.statistics.mean, source.statistics.std)
    program = _program(source, network, quantized, pixels)
    generated = generate(program, output.name, pixels)
    files = write_c(generated, output.parent, overwrite)
    found: dict[str, Any] = {
        "files": [str(path) for path in files],
        "bytes": sum(path.stat().st_size for path in files),
        "numbers": quantized or "fp32",
        "flash_bytes": generated.sizes.flash,
        "ram_bytes": generated.sizes.context,
        "sizes": asdict(generated.sizes),
        "time_steps": program.time_steps,
        "input": list(program.given),
        "weights": sum(synapse.nnz for synapse in network.synapses()),
    }
    if program.fraction is not None:
        found |= {"fraction_bits": program.fraction} | _measured(source, program, data_root)
    return found


def _program(
    source: ExportSource, network: FoldedNetwork, quantized: str | None, pixels: PixelScale | None
) -> Program:
    planned = plan_program(network)
    if quantized is None:
        return floats(planned)
    if pixels is None:
        raise ExportError(
            f"{source.path} does not say how its images were normalised, so int8 does not know the range of the "
            "network's input; name the run instead"
        )
    return quantize(planned, pixels.largest)


def describe(found: dict[str, Any]) -> list[str]:
    """Return lines for people on what `export_c` returned."""
    sizes = found["sizes"]
    lines = [
        f"  flash: {found['flash_bytes']:,} bytes: {found['weights']:,} {found['numbers']} weights "
        f"{sizes['weights']:,}, their lists {sizes['index']:,}, other tables {sizes['tables']:,}; code on top",
        f"  RAM:   {found['ram_bytes']:,} bytes: potentials {sizes['potentials']:,}, current of the image "
        f"{sizes['drives']:,}, spikes and averages {sizes['maps']:,}, the rest logits",
    ]
    if test := found.get("test"):
        lines.append(
            f"  accuracy on {test['images']:,} test images: {test['accuracy_int8']:.2%} with int8, "
            f"{test['accuracy_fp32']:.2%} with fp32, a loss of {100 * test['accuracy_loss']:.2f} points; "
            f"{test['same_predictions']:.2%} of the predictions are the same"
        )
    if "not_measured" in found:
        lines.append(f"  accuracy not measured: {found['not_measured']}")
    return lines


def _measured(source: ExportSource, program: Program, data_root: str | None) -> dict[str, Any]:
    try:
        return {"test": measure(source, program, data_root)}
    except (DataError, MissingDependencyError, ExportError) as error:
        return {"test": None, "not_measured": str(error)}


@torch.no_grad()
def measure(source: ExportSource, program: Program, data_root: str | None = None) -> dict[str, Any]:
    """Return the accuracy of the network and of its quantised form on the run's test images.

    Args:
        source: A run.
        program: Its quantised program, computed as the C code computes it.
        data_root: Folder of the run's images, if they have moved.

    Raises:
        DataError: The images cannot be read.
        ExportError: `source` is no run.
    """
    images = source.load_images(data_root)
    test = images.test()
    net = put_on_engine(source.net, "auto", "auto")[0].eval()
    right, right_exact, same = 0, 0, 0
    for x, y in evaluation_batches(test, IMAGES_AT_ONCE, mean=images.mean, std=images.std):
        exact = predict(net(x))
        quantized = torch.from_numpy(run_integers(program, x).logits).argmax(-1)
        right_exact += int((exact == y).sum())
        right += int((quantized == y).sum())
        same += int((exact == quantized).sum())
    count = len(test)
    return {
        "images": count,
        "accuracy_fp32": right_exact / count,
        "accuracy_int8": right / count,
        "accuracy_loss": (right_exact - right) / count,
        "same_predictions": same / count,
    }

"""Export a run as C, compile it with main.c, and compare its classes of the test images with those of Python.

python examples/c_inference/compare.py RUN [--quantize int8] [--compiler cc]
"""

import argparse
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import torch

from ndsnn.data.loader import evaluation_batches
from ndsnn.interop.export.command import export
from ndsnn.interop.export.source import open_source
from ndsnn.losses import predict

HERE = Path(__file__).parent


def classes_of_c(run, quantize, compiler, images):
    """Return the classes [N] that the exported C gives images uint8 [N, C, H, W], its figures, and the seconds."""
    with tempfile.TemporaryDirectory() as folder:
        written = export(run, "c", Path(folder) / "net", quantize=quantize)
        shutil.copy(HERE / "main.c", folder)
        command = [compiler, "-std=c99", "-Wall", "-Wextra", "-O2", "net.c", "main.c", "-o", "classify"]
        subprocess.run(command, cwd=folder, check=True)
        begin = time.perf_counter()
        pixels, program = images.numpy().tobytes(), Path(folder) / "classify"
        done = subprocess.run([program], input=pixels, capture_output=True, check=True)
        seconds = time.perf_counter() - begin
    return torch.tensor([int(line) for line in done.stdout.split()]), written, seconds


@torch.no_grad()
def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--quantize", choices=["int8"])
    parser.add_argument("--compiler", default="cc")
    options = parser.parse_args(arguments)
    source = open_source(options.run)
    data = source.load_images()
    test = data.test()
    found, written, c_seconds = classes_of_c(options.run, options.quantize, options.compiler, test.images)
    begin = time.perf_counter()
    batches = evaluation_batches(test, 1, mean=data.mean, std=data.std)
    expected = torch.cat([predict(source.net(x)) for x, _ in batches])
    seconds = time.perf_counter() - begin
    print(f"{written['numbers']}: {written['flash_bytes']:,} bytes of flash, {written['ram_bytes']:,} of RAM")
    for name, classes, took in (("C", found, c_seconds), ("Python, one by one", expected, seconds)):
        accuracy = (classes == test.labels).float().mean()
        print(f"{name}: accuracy {accuracy:.2%}, {len(test) / took:,.0f} images/s")
    print(f"{(found == expected).float().mean():.2%} of the classes are the same")


if __name__ == "__main__":
    main()

"""Networks for the C export, and how their C is compiled and run."""

import subprocess
from pathlib import Path
from string import Template
from typing import NamedTuple

import numpy as np
import torch

from ndsnn import LIF
from ndsnn.interop.export.c import generate, write_c
from ndsnn.models.layers import BatchNorm2d

WARNINGS = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1", "-g")

# Reads inputs from standard input until it ends: an image or pixels for `run`, T inputs for `step`.
DRIVER = Template(r"""
#include <stdio.h>
#include "$name.h"

static ${name}_context context;
static float input[${macro}_INPUTS];
static uint8_t pixels[${macro}_INPUTS];
static float logits[${macro}_LOGITS];

static void report(void)
{
    fwrite(logits, sizeof logits, 1, stdout);
    fwrite(context.spike_counts, sizeof context.spike_counts, 1, stdout);
    fwrite(context.operations, sizeof context.operations, 1, stdout);
}

int main(int argc, char **argv)
{
    (void)argc;
    if (argv[1][0] == 's') {
        ${name}_init(&context);
        while (fread(input, sizeof input, 1, stdin) == 1) {
            ${name}_step(&context, input);
        }
        ${name}_logits(&context, logits);
        report();
        return 0;
    }
    if (argv[1][0] == 'p') {
        while (fread(pixels, sizeof pixels, 1, stdin) == 1) {
            $run_pixels
            report();
        }
        return 0;
    }
    while (fread(input, sizeof input, 1, stdin) == 1) {
        $run
        report();
    }
    return sizeof(context) - sizeof context.spike_counts - sizeof context.operations
        > ((${macro}_CONTEXT_BYTES + 7) / 8) * 8;
}
""")


class Ran(NamedTuple):
    """What a C program printed, a row for each image."""

    logits: np.ndarray
    spikes: np.ndarray
    operations: np.ndarray


class Compiled(NamedTuple):
    """An exported network, built with its driver."""

    binary: Path
    logits: int
    layers: int
    synapses: int

    def run(self, inputs: np.ndarray, mode: str = "run") -> Ran:
        """Run on images [N, C, H, W] (float32, or uint8 with mode "pixels"), or steps [T, C, H, W]."""
        done = subprocess.run([self.binary, mode], input=inputs.tobytes(), capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        assert done.stderr == b""
        count = 1 if mode == "step" else len(inputs)
        rows = np.frombuffer(done.stdout, np.uint8).reshape(count, -1)
        parts = np.split(rows, np.cumsum([4 * self.logits, 8 * self.layers]), axis=1)
        kinds = (np.float32, np.uint64, np.uint64)
        return Ran(*(np.ascontiguousarray(part).view(kind) for part, kind in zip(parts, kinds, strict=True)))


def build(program, directory, name="net", pixels=None, compiler="gcc", flags=("-O1",)) -> Compiled:
    """Generate a program's C in `directory` and compile it with a driver, all warnings being errors."""
    _, source = write_c(generate(program, name, pixels), directory, overwrite=True)
    run = "" if program.events else f"{name}_run(&context, input, logits);"
    run_pixels = "" if program.events or pixels is None else f"{name}_run_pixels(&context, pixels, logits);"
    driver = DRIVER.substitute(name=name, macro=name.upper(), run=run, run_pixels=run_pixels)
    (directory / "driver.c").write_text(driver)
    binary = directory / "driver"
    command = (compiler, *WARNINGS, *flags, f"-D{name.upper()}_COUNT", "driver.c", source.name, "-o", binary)
    subprocess.run(command, cwd=directory, check=True)
    synapses = sum(drive.kind != "add" for drive in program.drives)
    logits = int(np.prod(program.output.shape))
    return Compiled(binary, logits, len(program.populations), synapses)


def awake(net, shape, seed=0):
    """Give the norms statistics and random gains with which neurons fire; return the network in eval mode."""
    torch.manual_seed(seed)
    linear = [module for module in net.modules() if isinstance(module, torch.nn.Linear)]
    with torch.no_grad():
        for hidden in linear[:-1]:
            hidden.weight.mul_(6)
        for norm in net.modules():
            if isinstance(norm, BatchNorm2d):
                norm.momentum = 1.0
                norm.weight.uniform_(1.0, 2.5)
                norm.bias.uniform_(-0.2, 0.8)
        net.train()(torch.randn(16, *shape))
    return net.eval()


@torch.no_grad()
def observe(net, x):
    """Return the mean logits [N, classes] of a network, and the spikes [N] of each LIF as they are run."""
    counts = []

    def count(module, inputs, output):
        counts.append(output.transpose(0, 1).flatten(1).sum(1).to(torch.int64).numpy())

    hooks = [module.register_forward_hook(count) for module in net.modules() if isinstance(module, LIF)]
    logits = net(x).mean(0).flatten(1).numpy()
    for hook in hooks:
        hook.remove()
    return logits, np.stack(counts, 1)

"""What one of several processes does in test_distributed.py, written down as JSON for the test to look at.

    python rank_checks.py DIRECTORY CHECK…     (with torchrun's environment variables)

Imported instead, `small_training` is the same training in one process.
"""

import hashlib
import json
import math
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path

import torch
from rich.console import Console
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import ndsnn
from ndsnn.config import DataConfig, MethodConfig, ModelConfig, TrainConfig
from ndsnn.engine import native
from ndsnn.errors import NdsnnError
from ndsnn.models.norm_statistics import spread_norms
from ndsnn.ranks import ALONE, present_ranks
from ndsnn.sparse import sparse_layers
from ndsnn.training.build import build
from ndsnn.training.checkpoint import share_training
from ndsnn.training.distributed import GradientAverage, joined
from ndsnn.training.loop import Trainer
from ndsnn.training.run_directory import RunDirectory

SIZES = (8, 7, 8, 3, 8, 5)
"""Samples of the batches: whole ones, uneven ones, and one with fewer samples than four ranks."""

METHODS = {
    "rigl": lambda net, optimizer: ndsnn.RigL(net, optimizer, 0.6, 6, update_every=2, stop_fraction=1),
    "ndsnn": lambda net, optimizer: ndsnn.NDSNN(
        net, optimizer, 0.8, 6, update_every=2, stop_fraction=1, regrow_dropped=True
    ),
    "set": lambda net, optimizer: ndsnn.SET(net, optimizer, 0.6, 6, update_every=2, stop_fraction=1, seed=3),
    "stdp": lambda net, optimizer: ndsnn.STDPPruning(net, optimizer, 0.8, 6, update_every=2, stop_fraction=1),
}


def parts(method, form, norm="bn", seed=0):
    """A small network in float64, so that no rounding tips a spike over, its optimizer and its method."""
    torch.manual_seed(seed)
    net = ndsnn.models.vgg([6, "M", 8, 8, "M"], 4, 3, 2, norm=norm).double()
    ndsnn.sparsify(net, 0.6, generator=torch.Generator().manual_seed(seed))
    if form == "compressed":
        net = ndsnn.accelerate(net, backend="reference")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.2, momentum=0.9)
    return net, optimizer, METHODS[method](net, optimizer)


def small_training(method, form, norm="bn", sync=True):
    """Train six steps on the same batches, whatever the number of ranks; return the state dict."""
    ranks = present_ranks()
    net, optimizer, rewire = parts(method, form, norm)
    spread_norms(net, ranks if sync else ALONE)
    average = GradientAverage(net, optimizer, rewire, ranks)
    source = torch.Generator().manual_seed(1)
    for count in SIZES:
        x = torch.rand(count, 2, 8, 8, generator=source, dtype=torch.float64)
        y = torch.randint(0, 4, (count,), generator=source)
        mine = ranks.part(count)
        with ranks.batch_of(count):
            loss = ndsnn.losses.mean_step_cross_entropy(net(x[mine]), y[mine])
            share = 1 if ranks.duplicated else ranks.size * len(y[mine]) / count
            optimizer.zero_grad()
            (loss * share).backward()
            average()
            optimizer.step()
            rewire.step()
    return {"loss": loss.item()} | {key: value.tolist() for key, value in dense_state(net).items()}


def dense_state(net):
    plain = net.decompressed() if isinstance(net, ndsnn.Accelerated) else net
    masks = {f"{layer.name}.mask": layer.mask.double() for layer in sparse_layers(plain)}
    return {key: value.double() for key, value in plain.state_dict().items()} | masks


def trainings():
    cases = {"rigl": ("bn", True), "ndsnn": ("tdbn", True), "set": ("bn", False)}
    return {
        f"{method}-{form}": small_training(method, form, norm, sync)
        for form in ("masked", "compressed")
        for method, (norm, sync) in cases.items()
    }


def digest(net):
    content = hashlib.sha256()
    for tensor in dense_state(net).values():
        content.update(tensor.numpy().tobytes())
    return content.hexdigest()


def own_seeds(ranks, form, method):
    """Start from other weights and masks on each rank, train on other data, and grow by the mean gradient."""
    net, optimizer, rewire = parts(method, form, seed=10 + ranks.rank)
    before = digest(net)
    share_training(net, optimizer, rewire, ranks)
    shared = digest(net)
    spread_norms(net, ranks)
    average = GradientAverage(net, optimizer, rewire, ranks)
    source = torch.Generator().manual_seed(100 + ranks.rank)
    grown = {}
    for step in range(6):
        x = torch.rand(4, 2, 8, 8, generator=source, dtype=torch.float64)
        y = torch.randint(0, 4, (4,), generator=source)
        optimizer.zero_grad()
        ndsnn.losses.mean_step_cross_entropy(net(x), y).backward()
        average()
        optimizer.step()
        if step == 1:
            masks = {layer.name: layer.mask.clone() for layer in rewire.layers}
        rewire.step()
        if step == 1:
            grown = {
                layer.name: (layer.mask & ~masks[layer.name]).flatten().nonzero().flatten().tolist()
                for layer in rewire.layers
            }
    return {"before": before, "shared": shared, "after": digest(net), "grown": grown}


def dense_gradients(ranks):
    """The dense gradient of this rank's own samples at the step in which `own_seeds` grows first."""
    net, optimizer, rewire = parts("rigl", "masked", seed=10)
    found = {}
    spread_norms(net, ranks)
    average = GradientAverage(net, optimizer, rewire, ranks)
    source = torch.Generator().manual_seed(100 + ranks.rank)
    for step in range(2):
        x = torch.rand(4, 2, 8, 8, generator=source, dtype=torch.float64)
        y = torch.randint(0, 4, (4,), generator=source)
        optimizer.zero_grad()
        loss = ndsnn.losses.mean_step_cross_entropy(net(x), y)
        if step == 1:
            weights = [layer.weight for layer in rewire.layers]
            for layer, gradient in zip(rewire.layers, torch.autograd.grad(loss, weights), strict=True):
                found[layer.name] = {"gradient": gradient.flatten().tolist()}
                found[layer.name]["mask"] = layer.mask.flatten().tolist()
            break
        loss.backward()
        average()
        optimizer.step()
        rewire.step()
    return found


def traffic(ranks):
    """Bytes that one step sends of the gradients of a native network, and what it should send."""
    found = {}
    for sparsity in (0.5, 0.9):
        torch.manual_seed(0)
        net = ndsnn.models.vgg([16, "M", 32, "M"], 10, 2, 1)
        ndsnn.sparsify(net, sparsity)
        net = ndsnn.accelerate(net)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        rewire = ndsnn.Static(net, optimizer, sparsity, 10)
        spread_norms(net, ranks)
        ranks.traffic.clear()
        ndsnn.losses.mean_step_cross_entropy(net(torch.rand(2, 1, 8, 8)), torch.tensor([0, 1])).backward()
        GradientAverage(net, optimizer, rewire, ranks)()
        sent = ranks.traffic["gradients"]
        found[str(sparsity)] = [sent.calls, sent.bytes, sum(p.numel() for p in net.parameters())]
        found[f"alive {sparsity}"] = sum(layer.nnz for layer in rewire.layers)
    return found


def drifted(ranks):
    """Move a weight on the last rank only."""
    net, optimizer, rewire = parts("set", "masked")
    share_training(net, optimizer, rewire, ranks)
    if ranks.rank == ranks.size - 1:
        with torch.no_grad():
            rewire.layers[0].weight.mul_(1.5)
    for _ in range(2):
        ndsnn.losses.mean_step_cross_entropy(net(torch.rand(4, 2, 8, 8).double()), torch.arange(4)).backward()
        optimizer.step()
        try:
            rewire.step()
        except NdsnnError as error:
            return f"{type(error).__name__}: {error}"
    return "nothing was noticed"


def run_config(directory, **changes):
    config = TrainConfig(
        data=DataConfig("digits", image_size=8),
        model=ModelConfig("vgg", time_steps=2, layers=(4, "M", 8, "M")),
        method=MethodConfig("rigl", None, 0.8, update_every=4),
        epochs=1,
        batch_size=128,
        threads=1,
        output=str(directory / "run"),
    )
    return replace(config, **changes)


def spoilt(ranks, directory, what, engine):
    """Train with a loss, or a gradient of it, that is not finite on rank 1 in step 4, an update step."""
    config = run_config(directory / f"{what}-{engine}", engine=engine)
    run = RunDirectory(config.output)
    trainer = Trainer(config, build(config), run, Console(file=StringIO()), ranks=ranks)
    ranks.on_main(lambda: run.create("{}", overwrite=False))
    criterion = trainer.criterion

    def spoil(logits, y):
        if trainer.progress.step < 3 or ranks.rank != 1:
            return criterion(logits, y)
        if what == "loss":
            return criterion(logits, y) * math.inf
        logits.register_hook(lambda gradient: gradient * math.nan)
        return criterion(logits, y)

    before = {}
    trainer.criterion = spoil
    original = trainer._step

    def step(x, y, count):
        if trainer.progress.step == 3:
            before["digest"] = trained(trainer)
        return original(x, y, count)

    trainer._step = step
    try:
        trainer.train()
    except NdsnnError as error:
        return {
            "error": f"{type(error).__name__}: {error}",
            "unchanged": before["digest"] == trained(trainer),
            "steps": [trainer.progress.step, trainer.method.steps_done],
        }
    return {"error": "nothing was noticed"}


def trained(trainer):
    """A digest of what the optimizer and the method change: not of running statistics."""
    content = hashlib.sha256()
    for parameter in trainer.net.parameters():
        content.update(parameter.detach().numpy().tobytes())
    for layer in trainer.method.layers:
        content.update(layer.packed_mask().numpy().tobytes())
    return content.hexdigest()


def torch_ddp(ranks):
    """Somebody's loop with torch's DistributedDataParallel, the method attached to its optimizer."""
    net, optimizer, _ = parts("rigl", "masked", seed=20)
    wrapped = DistributedDataParallel(net)
    rewire = ndsnn.NDSNN(net, optimizer, 0.8, 6, update_every=2, stop_fraction=1)
    rewire.attach(optimizer)
    source = torch.Generator().manual_seed(200 + ranks.rank)
    masks = digest_of(rewire)
    for _ in range(6):
        x = torch.rand(4, 2, 8, 8, generator=source, dtype=torch.float64)
        y = torch.randint(0, 4, (4,), generator=source)
        optimizer.zero_grad()
        ndsnn.losses.mean_step_cross_entropy(wrapped(x), y).backward()
        optimizer.step()
    return {"before": masks, "after": digest_of(rewire), "at_end": rewire.at_final_sparsity}


def sharded(ranks):
    """Make a method for a network whose parameters fully sharded training has replaced."""
    net, _, _ = parts("rigl", "masked")
    fully_shard(net, mesh=init_device_mesh("cpu", (ranks.size,)))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    try:
        ndsnn.RigL(net, optimizer, 0.6, 6, update_every=2)
    except NdsnnError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was noticed"


def digest_of(rewire):
    content = hashlib.sha256()
    for layer in rewire.layers:
        content.update(layer.packed_mask().numpy().tobytes())
        content.update(layer.active_values().numpy().tobytes())
    return content.hexdigest()


CHECKS = {
    "ddp": lambda ranks, directory: torch_ddp(ranks),
    "sharded": lambda ranks, directory: sharded(ranks),
    "trainings": lambda ranks, directory: trainings(),
    "seeds": lambda ranks, directory: {form: own_seeds(ranks, form, "rigl") for form in ("masked", "compressed")},
    "gradients": lambda ranks, directory: dense_gradients(ranks),
    "drifted": lambda ranks, directory: drifted(ranks),
    "stdp": lambda ranks, directory: own_seeds(ranks, "masked", "stdp"),
    "traffic": lambda ranks, directory: traffic(ranks),
    "spoilt": lambda ranks, directory: {
        f"{what}-{engine}": spoilt(ranks, directory, what, engine)
        for what in ("loss", "gradient")
        for engine in ("reference", "native" if native.available() else "reference")
    },
}


def main(directory: Path, names: list[str]) -> None:
    with joined(torch.device("cpu"), 60) as ranks:
        found = {name: CHECKS[name](ranks, directory) for name in names}
    (directory / f"{ranks.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

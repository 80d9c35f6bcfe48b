"""Growth of memory, against what torch says it keeps for the backward pass."""

import sys

import pytest
import torch
from tiny_bench import bench_json, needs_native

from ndsnn.errors import ConfigError
from ndsnn.evaluation.bench.memory import MemoryRequest, peak_growth_mb
from ndsnn.evaluation.bench.nets import Workload

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")

WORK = Workload("vgg16", batch=8, time_steps=2, width=0.25)


def kept_mb(contestant):
    """Return what autograd keeps of a forward pass beside the parameters, and the gradients of these, in MB."""
    parameters = {
        p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in contestant.net.parameters()
    }
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = contestant.net(contestant.images)
    assert logits.requires_grad
    return sum((kept | parameters).values()) / 1e6


@needs_native
def test_memory_of_each_side():
    (case,) = bench_json(
        *("--model", "vgg16", "--width", "0.25", "--batch", "8", "--image-size", "32", "--sparsity", "0.9"),
        *("--memory", "store", "--no-layers"),
    )["cases"]
    dense, store, recompute = (case[f"{side}_peak_mb"] for side in ("dense", "engine", "engine_recompute"))
    least = kept_mb(WORK.dense(case["dense_format"]))
    assert least > 10
    assert 0.9 * least < dense < 4 * least
    assert 0 < recompute < store < dense
    assert case["memory_ratio"] == pytest.approx(dense / store)
    assert case["recompute_memory_ratio"] == pytest.approx(dense / recompute)
    assert case["layers"] == []


def test_a_process_that_fails_is_quoted():
    with pytest.raises(ConfigError, match=r"vgg16 at batch 8 .*leaves no weight.*--no-memory"):
        peak_growth_mb(MemoryRequest(WORK, 1, None, 0.99999))

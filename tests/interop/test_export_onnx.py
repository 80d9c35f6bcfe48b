"""ONNX files: onnxruntime computes what torch computes, for any number of images."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from export_nets import noise, residual, small_vgg, sparse

import ndsnn
from ndsnn.errors import ConfigError, ExportError
from ndsnn.interop.export.folding import fold
from ndsnn.interop.export.onnx import to_onnx, write_onnx


def run(network, x, tmp_path, **options):
    write_onnx(to_onnx(network, **options), tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"input": x.numpy()})[0])


def require_same(net, network, x, tmp_path, **options):
    with torch.no_grad():
        logits = net(x)
    assert logits.std() > 0.01
    assert torch.allclose(run(network, x, tmp_path, **options), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "neuron",
    [
        {},
        {"v_reset": None, "tau": 2.0},
        {"v_reset": -0.2, "decay_input": False, "tau": 3.0},
        {"v_threshold": 0.7, "v_reset": None, "decay_input": False},
    ],
)
@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (small_vgg, (1, 11, 9)),
        (lambda **s: ndsnn.models.lenet5(4, 3, 1, **s), (1, 17, 28)),
        (lambda **s: ndsnn.models.lenet5(4, 2, 1, 0.5, **s), (1, 47, 40)),
        (residual, (3, 16, 16)),
    ],
)
def test_the_logits_are_those_of_torch(build, shape, neuron, tmp_path):
    net = sparse(build(neuron=neuron))
    require_same(net, fold(net, shape), noise(3, *shape), tmp_path)


def test_the_batch_is_free(tmp_path):
    net = sparse(small_vgg())
    network = fold(net, (1, 8, 8))
    for images in (1, 2, 7):
        require_same(net, network, noise(images, 1, 8, 8), tmp_path)


def test_one_step_and_the_newest_operators(tmp_path):
    net = sparse(small_vgg(steps=1))
    require_same(net, fold(net, (1, 8, 8)), noise(2, 1, 8, 8), tmp_path, opset=20)


def test_events(tmp_path):
    net = sparse(small_vgg(channels=2))
    require_same(net, fold(net, (2, 8, 8), events=True), noise(4, 3, 2, 8, 8), tmp_path)


def test_an_image_is_convolved_once(tmp_path):
    net = sparse(small_vgg(steps=4))
    model = to_onnx(fold(net, (1, 8, 8)), notes={"input_mean": "[0.5]"})
    readers = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    assert readers["features.0.weight"] == ["Conv"]
    assert readers["features.5.weight"] == ["Conv"] * 4
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert (metadata["time_steps"], metadata["input_mean"]) == ("4", "[0.5]")
    assert [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == ["N", 1, 8, 8]
    assert model.opset_import[0].version == 17


def test_weights_are_dense_with_true_zeros():
    net = sparse(small_vgg())
    network = fold(net, (1, 8, 8))
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in to_onnx(network).graph.initializer}
    for synapse in network.synapses():
        weight = stored[f"{synapse.layer}.weight"]
        assert np.array_equal(weight, synapse.dense())
        assert not np.signbit(weight[weight == 0]).any()


@pytest.mark.parametrize("opset", [16, 99])
def test_an_opset_that_is_not_there(opset):
    with pytest.raises(ConfigError, match="opset must lie between 17"):
        to_onnx(fold(sparse(small_vgg()), (1, 8, 8)), opset)


def test_an_unwritable_place(tmp_path):
    with pytest.raises(ExportError, match="cannot write"):
        write_onnx(to_onnx(fold(sparse(small_vgg()), (1, 8, 8))), tmp_path / "nowhere" / "net.onnx")

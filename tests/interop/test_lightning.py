"""Lightning's loop with the callback against the plain loop, bit by bit."""

import builtins
import importlib
import subprocess
import sys

import pytest
import torch
from lightning.pytorch import Trainer
from lightning_parts import BATCHES, Module, everything, loader, network, plain_loop, same

import ndsnn
from ndsnn.errors import CheckpointError, ConfigError, MissingDependencyError, NotSparsifiedError, SparsityError
from ndsnn.interop.lightning import SparseTrainingCallback

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers and loggers

EPOCHS = 4
STEPS = BATCHES * EPOCHS


def trainer(callback, tmp_path, epochs=EPOCHS, **settings):
    settings = {"enable_checkpointing": False} | settings
    return Trainer(
        max_epochs=epochs,
        callbacks=[callback],
        default_root_dir=tmp_path,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )


def fit(module, callback, tmp_path, ckpt_path=None, **settings):
    """Train; return what `same` compares."""
    made = trainer(callback, tmp_path, **settings)
    made.fit(module, loader(), ckpt_path=ckpt_path)
    return module.net, made.optimizers[0], callback.method


@pytest.mark.parametrize("form", ["masked", "accelerated"])
@pytest.mark.parametrize("name", ["ndsnn", "set", "granet", "admm", "gmp", "static"])
def test_it_equals_the_plain_loop(name, form, tmp_path):
    constant = name in ("set", "static")
    final = 0.5 if constant else 0.8
    settings = {} if name == "static" else {"update_every": 3}
    callback = SparseTrainingCallback(name, final_sparsity=final, **settings)
    found = fit(Module(form), callback, tmp_path)
    expected = plain_loop(name, EPOCHS, form=form, final_sparsity=final, total_steps=STEPS, **settings)
    assert callback.method.rounds == expected[2].rounds
    assert len(callback.method.rounds) == (0 if name == "static" else 6)
    assert callback.method.steps_done == STEPS
    assert same(found, expected)
    assert ndsnn.sparsity(found[0]) == pytest.approx(final, abs=2e-3)
    assert not callback.method.attached


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_accumulation_and_clipping(kind, tmp_path):
    """Rounds count optimizer steps; growth goes by the sum of the dense gradients, before clipping."""
    callback = SparseTrainingCallback("ndsnn", final_sparsity=0.8, update_every=2)
    found = fit(Module(kind=kind), callback, tmp_path, accumulate_grad_batches=3, gradient_clip_val=0.5)
    steps = STEPS // 3
    expected = plain_loop(
        "ndsnn", EPOCHS, kind=kind, accumulate=3, clip=0.5, final_sparsity=0.8, total_steps=steps, update_every=2
    )
    assert callback.method.total_steps == steps == callback.method.steps_done
    assert callback.method.rounds == (2, 4, 6)
    assert same(found, expected)


def test_a_training_step_that_gives_nothing_is_none(tmp_path):
    """Lightning steps the optimizer without gradients; the plain loop skips the batch."""
    callback = SparseTrainingCallback("ndsnn", final_sparsity=0.8, total_steps=16, update_every=2)
    found = fit(Module(skip=(1, 3)), callback, tmp_path)
    expected = plain_loop("ndsnn", EPOCHS, skip=(1, 3), final_sparsity=0.8, total_steps=16, update_every=2)
    assert callback.method.steps_done == 16
    assert same(found, expected)


@pytest.mark.parametrize("form", ["masked", "accelerated"])
@pytest.mark.parametrize("name", ["ndsnn", "admm"])
@pytest.mark.parametrize("weights_only", [True, None])
def test_it_resumes_exactly(name, form, weights_only, tmp_path):
    """Stopped after two epochs of four and continued in a module that was made anew, from other random numbers."""
    settings = {"final_sparsity": 0.8, "total_steps": STEPS, "update_every": 3}
    whole = fit(Module(form), SparseTrainingCallback(name, **settings), tmp_path)
    first = SparseTrainingCallback(name, **settings)
    made = trainer(first, tmp_path, epochs=2, enable_checkpointing=True)
    made.fit(Module(form), loader())
    path = tmp_path / "half.ckpt"
    made.save_checkpoint(path)
    assert first.method.steps_done == STEPS // 2
    keys = {key.removeprefix("net.") for key in torch.load(path, weights_only=True)["state_dict"]}
    assert {key for key in keys if not key.endswith(".positions")} == set(network(sparsity=None).state_dict())
    module, callback = Module(form), SparseTrainingCallback(name, **settings)
    torch.manual_seed(77)
    module.net = network(form, None)
    ndsnn.sparsify(module.net, 0.5)
    again = trainer(callback, tmp_path)
    again.fit(module, loader(), ckpt_path=path, weights_only=weights_only)
    assert same((module.net, again.optimizers[0], callback.method), whole)


def test_a_checkpoint_without_the_callback_is_refused(tmp_path):
    made = trainer(SparseTrainingCallback("ndsnn", final_sparsity=0.8, update_every=3), tmp_path, epochs=1)
    made.fit(Module(), loader())
    made.callbacks.clear()
    made.save_checkpoint(tmp_path / "bare.ckpt")
    callback = SparseTrainingCallback("ndsnn", final_sparsity=0.8, update_every=3)
    with pytest.raises(CheckpointError, match="from step 6, but no state of SparseTrainingCallback"):
        fit(Module(), callback, tmp_path, ckpt_path=tmp_path / "bare.ckpt")


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    made = trainer(SparseTrainingCallback("ndsnn", final_sparsity=0.8, update_every=3), tmp_path, epochs=1)
    made.fit(Module(), loader())
    made.save_checkpoint(tmp_path / "other.ckpt")
    callback = SparseTrainingCallback("ndsnn", final_sparsity=0.9, update_every=3)
    with pytest.raises(CheckpointError, match="saved settings"):
        fit(Module(), callback, tmp_path, ckpt_path=tmp_path / "other.ckpt")
    assert callback.method is None


def test_accumulation_needs_the_masked_form(tmp_path):
    callback = SparseTrainingCallback("ndsnn", final_sparsity=0.8, update_every=2)
    with pytest.raises(SparsityError, match="accumulate_grad_batches=3 needs the masked form"):
        fit(Module("accelerated"), callback, tmp_path, accumulate_grad_batches=3)
    found = fit(
        Module("accelerated"),
        SparseTrainingCallback("set", final_sparsity=0.5, update_every=2),
        tmp_path,
        accumulate_grad_batches=3,
    )
    expected = plain_loop(
        "set", EPOCHS, form="accelerated", accumulate=3, final_sparsity=0.5, total_steps=8, update_every=2
    )
    assert same(found, expected)


class TwoOptimizers(Module):
    """Manual optimization: the norms have an optimizer of their own, which steps every second batch."""

    def __init__(self, split=False):
        super().__init__()
        self.automatic_optimization, self.split = False, split

    def training_step(self, batch, batch_idx):
        sparse, rest = self.optimizers()
        loss = ndsnn.losses.mean_step_cross_entropy(self.net(batch[0]), batch[1])
        sparse.zero_grad()
        self.manual_backward(loss)
        sparse.step()
        if batch_idx % 2:
            rest.step()
            rest.zero_grad()

    def configure_optimizers(self):
        weights = [p for p in self.net.parameters() if p.ndim > 1]
        others = [p for p in self.net.parameters() if p.ndim == 1]
        if self.split:
            others.append(weights.pop())
        return torch.optim.SGD(weights, 0.1, momentum=0.9), torch.optim.SGD(others, 0.1)


def test_manual_optimization_with_two_optimizers(tmp_path):
    callback = SparseTrainingCallback("ndsnn", final_sparsity=0.8, total_steps=STEPS, update_every=3)
    net, _, method = fit(TwoOptimizers(), callback, tmp_path)
    assert method.steps_done == STEPS
    assert ndsnn.sparsity(net) == pytest.approx(0.8, abs=2e-3)
    with pytest.raises(ConfigError, match="none of the 2 optimizers holds the weights of all"):
        fit(TwoOptimizers(split=True), callback, tmp_path)


def test_the_sparsity_is_logged(tmp_path):
    callback = SparseTrainingCallback("ndsnn", final_sparsity=0.8, update_every=3)
    made = trainer(callback, tmp_path)
    made.fit(Module(), loader())
    assert float(made.callback_metrics["sparsity"]) == pytest.approx(0.8, abs=2e-3)


def test_a_second_fit_begins_anew(tmp_path):
    callback = SparseTrainingCallback("ndsnn", final_sparsity=0.8, update_every=3)
    one, two = (fit(Module(), callback, tmp_path) for _ in range(2))
    assert one[2] is not two[2]
    assert len(everything(*one)) == len(everything(*two))
    assert same(one, two)


def test_an_exception_lets_the_optimizer_alone(tmp_path):
    class Fails(Module):
        def training_step(self, batch, batch_idx):
            if batch_idx == 4:
                raise ZeroDivisionError
            return super().training_step(batch, batch_idx)

    callback = SparseTrainingCallback("ndsnn", final_sparsity=0.8, update_every=3)
    with pytest.raises(ZeroDivisionError):
        fit(Fails(), callback, tmp_path)
    assert callback.method.steps_done == 4
    assert not callback.method.attached


def test_methods_and_settings_that_do_not_go_are_named(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'update_every'"):
        SparseTrainingCallback("ndsnn", final_sparsity=0.9, update_evry=3)
    with pytest.raises(ConfigError, match="did you mean 'ndsnn'"):
        SparseTrainingCallback("ndsn", final_sparsity=0.9)
    with pytest.raises(ConfigError, match="next_round"):
        SparseTrainingCallback(ndsnn.LTH, final_sparsity=0.9)
    with pytest.raises(ConfigError, match=r"ndsnn\.snip"):
        SparseTrainingCallback("snip", final_sparsity=0.9)
    with pytest.raises(NotSparsifiedError):
        fit(Module(sparsity=None), SparseTrainingCallback(final_sparsity=0.9), tmp_path)
    endless = SparseTrainingCallback(final_sparsity=0.9)
    with pytest.raises(ConfigError, match="has no end; give SparseTrainingCallback total_steps"):
        fit(Module(), endless, tmp_path, epochs=-1, limit_train_batches=1)


def test_without_lightning_the_extra_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "ndsnn.interop.lightning")
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("lightning"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingDependencyError, match=r"ndsnn\[lightning\]"):
        importlib.import_module("ndsnn.interop.lightning")


def test_importing_ndsnn_imports_no_framework():
    code = "import ndsnn, sys; print({'lightning', 'accelerate', 'torch.ao.pruning'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"

"""A loop over Hugging Face Accelerate with an attached method against the plain loop, bit by bit."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from lightning_parts import BATCHES, batches, loader, network, optimizer_of, plain_loop, same

import ndsnn
from ndsnn.errors import SparsityError

pytestmark = pytest.mark.filterwarnings("ignore")

EPOCHS = 4
STEPS = BATCHES * EPOCHS


@pytest.fixture(autouse=True)
def fresh_state():
    """Accelerate keeps its state between accelerators."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


class Loop:
    """What a script for Accelerate holds; `early` makes the method before `prepare`."""

    def __init__(self, name="ndsnn", form="masked", accumulate=1, early=False, kind="sgd", **settings):
        self.accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
        net = network(form)
        optimizer = optimizer_of(net, kind)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        if early:
            self.method = ndsnn.methods[name](net, optimizer, **settings)
        self.net, self.optimizer, self.loader = self.accelerator.prepare(net, optimizer, loader())
        self.scheduler = scheduler  # once an epoch, as in the plain loop
        if not early:
            self.method = ndsnn.methods[name](self.net, self.optimizer, **settings)
        self.method.attach(self.optimizer)
        self.accelerator.register_for_checkpointing(self.method, self.scheduler)

    def train(self, epochs, clip=None):
        for _ in range(epochs):
            for x, y in self.loader:
                with self.accelerator.accumulate(self.net):
                    loss = ndsnn.losses.mean_step_cross_entropy(self.net(x), y)
                    self.accelerator.backward(loss)
                    if clip is not None and self.accelerator.sync_gradients:
                        self.accelerator.clip_grad_norm_(self.net.parameters(), clip)
                    self.optimizer.step()
                    self.optimizer.zero_grad()
            self.scheduler.step()

    @property
    def parts(self):
        return self.accelerator.unwrap_model(self.net), self.optimizer.optimizer, self.method


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("form", ["masked", "accelerated"])
@pytest.mark.parametrize("name", ["ndsnn", "rigl", "admm", "gmp"])
def test_it_equals_the_plain_loop(name, form, early):
    final = 0.5 if name == "rigl" else 0.8
    settings = {"final_sparsity": final, "total_steps": STEPS, "update_every": 3}
    loop = Loop(name, form, early=early, **settings)
    loop.train(EPOCHS)
    assert loop.method.steps_done == STEPS
    assert len(loop.method.rounds) == 6
    assert ndsnn.sparsity(loop.net) == pytest.approx(final, abs=2e-3)
    assert same(loop.parts, plain_loop(name, EPOCHS, form=form, **settings))


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_accumulation_and_clipping(kind):
    """The wrapped optimizer passes over two of three steps, which don't count."""
    settings = {"final_sparsity": 0.8, "total_steps": STEPS // 3, "update_every": 2}
    loop = Loop(accumulate=3, kind=kind, **settings)
    loop.train(EPOCHS, clip=0.5)
    assert loop.method.steps_done == STEPS // 3
    expected = plain_loop("ndsnn", EPOCHS, kind=kind, accumulate=3, clip=0.5, **settings)
    assert same(loop.parts, expected)


def test_accumulation_at_an_update_step_needs_the_masked_form():
    loop = Loop(form="accelerated", accumulate=3, final_sparsity=0.8, total_steps=8, update_every=2)
    with pytest.raises(SparsityError, match=r"accumulated over several backward passes .* needs the masked form"):
        loop.train(1)
    assert loop.method.steps_done == 1


@pytest.mark.parametrize("form", ["masked", "accelerated"])
def test_it_resumes_exactly(form, tmp_path):
    settings = {"final_sparsity": 0.8, "total_steps": STEPS, "update_every": 3}
    loop = Loop(form=form, **settings)
    loop.train(2)
    loop.accelerator.save_state(tmp_path / "state")
    fresh = Loop(form=form, **settings)
    fresh.accelerator.load_state(tmp_path / "state")
    assert fresh.method.steps_done == STEPS // 2
    fresh.train(2)
    assert same(fresh.parts, plain_loop("ndsnn", EPOCHS, form=form, **settings))


def test_steps_that_the_scaler_skips():
    """The wrapper with a scaler, as on a GPU in half precision; batch 2 of each epoch overflows."""
    settings = {"final_sparsity": 0.8, "total_steps": STEPS - EPOCHS, "update_every": 3}
    loop = Loop(**settings)
    prepared = type(loop.optimizer)(
        loop.optimizer.optimizer, scaler=torch.amp.GradScaler("cpu", init_scale=2.0**8)
    )
    for _ in range(EPOCHS):
        for number, (x, y) in enumerate(batches()):
            loss = ndsnn.losses.mean_step_cross_entropy(loop.net(x), y)
            prepared.scaler.scale(loss * (torch.inf if number == 2 else 1)).backward()
            prepared.step()
            assert prepared.step_was_skipped == (number == 2)
            prepared.zero_grad()
        loop.scheduler.step()
    net, _, method = loop.parts
    expected, _, other = plain_loop("ndsnn", EPOCHS, skip=(2,), **settings)
    assert method.steps_done == STEPS - EPOCHS
    for (name, one), two in zip(net.named_parameters(), expected.parameters(), strict=True):
        assert torch.equal(one, two), name
    assert all(torch.equal(one, two) for one, two in zip(method.masks(), other.masks(), strict=True))

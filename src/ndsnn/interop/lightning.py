"""Sparse training in Lightning's loop: a callback that makes the method, attaches it and saves its state."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

from ndsnn.errors import CheckpointError, ConfigError, MissingDependencyError, SparsityError, unknown_name
from ndsnn.sparse.compressed import CompressedModule
from ndsnn.sparse.handle import parameters_of
from ndsnn.sparse.methods import LTH, SparseTraining, accepted_settings, methods
from ndsnn.sparse.methods.pruning.snip import SNIP
from ndsnn.sparse.topology import sparse_layers

try:
    from lightning.pytorch import Callback
except ImportError as error:
    raise MissingDependencyError(
        "ndsnn.interop.lightning needs Lightning: pip install 'ndsnn[lightning]'"
    ) from error

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


class SparseTrainingCallback(Callback):
    """Trains the sparse layers of a LightningModule by a method of ndsnn.

    The network is sparsified (and, if wanted, accelerated) before `fit`, for example where the module makes it, so
    that `configure_optimizers` sees its parameters. The callback makes the method when training starts, anew for
    each `fit`, and attaches it to the optimizer: rounds count optimizer steps, however many batches are
    accumulated in one, and no skipped ones. Its state goes with Lightning's checkpoints, so `fit(ckpt_path=…)`
    goes on exactly. The sparsity is logged as "sparsity" after each training epoch.

    Args:
        method: Name of a method, such as "ndsnn", or a class.
        final_sparsity: θf, the overall fraction of zeros at the end.
        total_steps: Optimizer steps of the whole run; None takes what the trainer will do.
        **settings: Settings of the method, such as `update_every`.

    Attributes:
        method: The method while `fit` trains and afterwards, None before.

    Raises:
        ConfigError: The method is unknown, does not take a setting, or does not go with Lightning's loop.
    """

    def __init__(
        self,
        method: str | type[SparseTraining] = "ndsnn",
        *,
        final_sparsity: float,
        total_steps: int | None = None,
        **settings: Any,
    ) -> None:
        self._class = methods[method] if isinstance(method, str) else method
        _require_ordinary(self._class)
        accepted = accepted_settings(self._class)
        for name in settings:
            if name not in accepted:
                raise ConfigError(unknown_name(f"setting of {self._class.__name__}", name, accepted))
        self._final_sparsity, self._total_steps, self._settings = final_sparsity, total_steps, settings
        self.method: SparseTraining | None = None
        self._saved: Mapping[str, Any] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget the state of a checkpoint that another call of the trainer has loaded."""
        self._saved = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the method, with the state of the checkpoint if there is one, and attach it.

        Raises:
            NdsnnError: The method cannot train this network in this loop.
            CheckpointError: Training goes on from a checkpoint that has no state of this callback.
        """
        self.detach()
        optimizer = _optimizer_of(trainer, pl_module)
        steps = _steps_of(trainer) if self._total_steps is None else self._total_steps
        method = self._class(pl_module, optimizer, self._final_sparsity, steps, **self._settings)
        _require_no_accumulation(trainer, method)
        if self._saved is not None:
            method.load_state_dict(self._saved)
        elif trainer.global_step:
            raise CheckpointError(
                f"training goes on from step {trainer.global_step}, but no state of SparseTrainingCallback was "
                f"loaded: give fit(ckpt_path=…) a checkpoint that was saved with it, or begin with a new Trainer"
            )
        method.attach(optimizer)
        self.method, self._saved = method, None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the sparsity."""
        assert self.method is not None
        pl_module.log("sparsity", self.method.current_sparsity())

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the optimizer alone."""
        self.detach()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let the optimizer alone."""
        self.detach()

    def detach(self) -> None:
        """Let the optimizer alone; `method` stays what it is."""
        if self.method is not None:
            self.method.detach()

    def state_dict(self) -> dict[str, Any]:
        """Return the method's state for Lightning's checkpoint."""
        return {} if self.method is None else self.method.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until training starts: Lightning loads it before it loads the optimizer."""
        self._saved = state_dict


def _require_ordinary(method: type[SparseTraining]) -> None:
    """Check that the method asks nothing of a loop but steps.

    Raises:
        ConfigError: It does.
    """
    if issubclass(method, LTH):
        raise ConfigError(
            "LTH trains one network again and again, which Lightning's loop does not; take `ndsnn train "
            "--method.name lth`, or a loop of your own that calls next_round()"
        )
    if issubclass(method, SNIP):
        raise ConfigError(
            "SNIP chooses connections by labelled images before the first step, which the callback has none of; "
            "call ndsnn.snip(net, …) before fit and take method 'static'"
        )


def _optimizer_of(trainer: Trainer, pl_module: LightningModule) -> Optimizer:
    """Return the optimizer that holds the weights of the sparse layers.

    Raises:
        ConfigError: There are several of them, and none holds all.
    """
    if len(trainer.optimizers) == 1:
        return trainer.optimizers[0]
    weights = {id(layer.weight) for layer in sparse_layers(pl_module)}
    for optimizer in trainer.optimizers:
        held = {id(parameter) for parameter in parameters_of(optimizer)}
        if weights and weights <= held:
            return optimizer
    raise ConfigError(
        f"none of the {len(trainer.optimizers)} optimizers holds the weights of all sparse layers; sparsify the "
        f"network before configure_optimizers, and give its sparse layers to one optimizer"
    )


def _steps_of(trainer: Trainer) -> int:
    """Return the optimizer steps that the trainer will do.

    Raises:
        ConfigError: There is no end.
    """
    steps = trainer.estimated_stepping_batches
    if not 0 < steps < math.inf:
        raise ConfigError("the trainer's number of steps has no end; give SparseTrainingCallback total_steps")
    return int(steps)


def _require_no_accumulation(trainer: Trainer, method: SparseTraining) -> None:
    """Check that the dense gradient of an update step comes in one pass where it cannot be summed.

    Raises:
        SparsityError: It does not.
    """
    batches = trainer.accumulate_grad_batches
    compressed = any(isinstance(layer.module, CompressedModule) for layer in method.layers)
    if batches > 1 and compressed and method.needs_gradient and method.rounds:
        raise SparsityError(
            f"{type(method).__name__} grows by the dense gradient, which an accelerated network streams in one "
            f"pass; accumulate_grad_batches={batches} needs the masked form: leave ndsnn.accelerate out"
        )

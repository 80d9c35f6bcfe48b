"""The handle on a compressed layer: it grows by a streamed gradient and moves values and optimizer state."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ndsnn.errors import NotSparsifiedError, SparsityError
from ndsnn.ranks import present_ranks
from ndsnn.sparse.bits import pack_positions
from ndsnn.sparse.compressed import CompressedModule, DenseGradientSink, Move
from ndsnn.sparse.growth import GrowthStream, best_without_gradient, current_backward_pass
from ndsnn.sparse.handle import GrowthScore, SparseLayer, set_gradient_hook
from ndsnn.sparse.selection import largest


class CompressedLayer(SparseLayer):
    """A handle on a compressed layer (see `SparseLayer`); a per-weight tensor has one entry per alive weight.

    Args:
        name: Path of the module in the network.
        module: A compressed layer under sparse training.
    """

    module: CompressedModule

    def __init__(self, name: str, module: CompressedModule) -> None:
        super().__init__(name, module)
        self._stream: GrowthStream | None = None

    @property
    def weight(self) -> nn.Parameter:
        """The alive values [nnz]."""
        return self.module.weight

    @property
    def mask(self) -> Tensor:
        """A copy of the mask (see `SparseLayer`), made on demand; changing it changes nothing."""
        return self._present().mask()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the dense weight (n_out, n_in, *kernel)."""
        return self.module.dense_shape

    @property
    def nnz(self) -> int:
        """Number of alive weights."""
        return self._present().nnz

    def active_positions(self) -> Tensor:
        """Positions of the alive weights [nnz]."""
        return self._present().active_positions()

    def alive_part(self, tensor: Tensor) -> Tensor:
        """Return a copy of the tensor [nnz]: all of it belongs to alive weights."""
        return tensor.clone()

    def per_weight(self, values: Tensor) -> Tensor:
        """Return the values as they are."""
        if values.shape != (self.nnz,):
            raise SparsityError(f"layer {self.name!r} has {self.nnz} alive weights, not {values.numel()}")
        return values

    def packed_mask(self) -> Tensor:
        """Return the mask as bits [⌈size/8⌉] uint8."""
        return pack_positions(self.active_positions(), self.size)

    def watch_gradient(self, wanted: Callable[[], bool], limit: Callable[[], int], score: GrowthScore) -> None:
        """Score the dense gradient as it streams by while `wanted()` is true."""
        self._require_trained()

        def sink() -> DenseGradientSink | None:
            if not wanted():
                return None
            self._require_first_pass()
            self._stream = GrowthStream(self.name, self.module, limit(), score, present_ranks())
            return self._stream

        # Python's garbage collector can't see what a tensor's hook refers to.
        layer = weakref.ref(self)

        def note_accumulation(weight: Tensor) -> None:
            owner = layer()
            if owner is not None and weight.grad is not None:
                owner._take_gradient(weight.grad)

        self.module.watcher = sink
        set_gradient_hook(self.weight, note_accumulation)

    def _take_gradient(self, gradient: Tensor) -> None:
        """Remember which gradient the stream belongs to."""
        if self._stream is None:
            return
        if self.shows_overflow and not self._stream.finite:
            gradient.fill_(torch.nan)
        self._stream.accumulated = (gradient, gradient._version)

    def _require_first_pass(self) -> None:
        """Check that the pass which begins does not add to the gradient that was streamed already."""
        stream, gradient = self._stream, self.weight.grad
        if stream is None:
            return
        before, version = stream.accumulated or (None, 0)
        if stream.backward_pass == current_backward_pass() != -1:
            raise SparsityError(
                f"layer {self.name!r} is used twice in one pass, and the sum of its dense gradients cannot be "
                f"streamed at an update step; train this network in the masked form"
            )
        if gradient is not None and before is gradient and gradient._version == version:
            raise SparsityError(
                f"the gradient of layer {self.name!r} is accumulated over several backward passes at an update "
                f"step, which needs the masked form (a network that is not accelerated); or call "
                f"optimizer.zero_grad() before each pass"
            )

    def require_finite_gradient(self) -> None:
        """Check that the dense gradient of this step has streamed by and was finite."""
        if self._stream is None or not self._stream.complete:
            raise self._no_gradient()
        if not self._stream.finite:
            raise self._not_finite()

    def release_gradient(self) -> None:
        """Forget what was kept of the dense gradient."""
        self._stream = None

    def select_growth(self, count: int, score: GrowthScore, dropped: Tensor, reborn: bool) -> Tensor:
        """Return the positions of the `count` best inactive places, ties from the lowest position on.

        Raises:
            SparsityError: More is asked for than was kept in the backward pass.
        """
        stream = self._stream
        if stream is None:
            positions, scores = best_without_gradient(self.module, count, score)
        else:
            if count > stream.limit and stream.limit < self.size - self.nnz:
                raise SparsityError(
                    f"layer {self.name!r} is to grow {count} connections, but only the {stream.limit} best "
                    f"candidates were kept in the backward pass; override max_growth(layer, q) of the method so "
                    f"that it returns at least that many"
                )
            positions, scores = stream.best()
        if reborn and len(dropped):
            gradient = None
            if stream is not None:
                gradient = stream.alive_gradient[torch.searchsorted(self.active_positions(), dropped)]
            order = torch.argsort(positions := torch.cat([positions, dropped]))
            positions, scores = positions[order], torch.cat([scores, score(dropped, gradient)])[order]
        return positions[largest(scores, count)]

    @torch.no_grad()
    def rewire(self, dropped: Tensor, grown: Tensor, optimizer: Optimizer) -> None:
        """Kill `dropped` and give birth to `grown`; both start from 0, in weight and optimizer state."""
        if not len(dropped) and not len(grown):
            return
        before = self.active_positions()
        stays = torch.ones_like(before, dtype=torch.bool)
        stays[torch.searchsorted(before, dropped)] = False
        after = torch.cat([before[stays], grown]).sort().values
        self._move(after, dropped, optimizer)

    def set_mask(self, mask: Tensor, optimizer: Optimizer) -> None:
        """Make alive what `mask` says; weights and optimizer state of other places are 0 afterwards."""
        positions = torch.nonzero(mask.flatten()).flatten().to(self.weight.device)
        if not torch.equal(positions, self.active_positions()):
            self._move(positions, None, optimizer)

    def enforce(self, optimizer: Optimizer | None = None) -> None:
        """Do nothing: there are no inactive weights."""

    def _move(self, positions: Tensor, forget: Tensor | None, optimizer: Optimizer) -> None:
        before = self.weight.shape
        move: Move = self.module.rearrange(positions, forget)
        state = optimizer.state.get(self.weight, {})
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == before:
                state[key] = move(value)

    def _present(self) -> CompressedModule:
        if not self.module.sparse:
            raise NotSparsifiedError(
                f"layer {self.name!r} is not sparse any more (ndsnn.to_dense was called); create the method anew"
            )
        return self.module


def stop_watching(module: CompressedModule) -> None:
    """Undo `CompressedLayer.watch_gradient`."""
    module.watcher = None
    set_gradient_hook(module.weight, None)

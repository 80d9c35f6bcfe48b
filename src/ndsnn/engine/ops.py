"""The operations a back end of the engine offers: one schema, written twice (in torch and in C++).

Values are maps [S, N, C, H, W] of spikes or floats, S = T steps or 1; how a back end lays them out is its own
business. Everything per channel or per weight is a plain torch tensor.

Maps lie in one arena. The executor asks for it with `reserve`, then, in every pass anew, for each map with
`spikes` or `floats` right before it is first written, and drops it after its last use; from then on the bytes may
belong to another map. A new map holds nothing yet: an operation writes all of its output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from torch import Tensor

from ndsnn.engine.graph import Synapse
from ndsnn.neurons import LIFParameters


@dataclass(frozen=True)
class MapShape:
    """Shape of a map.

    Args:
        steps: S, T or 1.
        channels: C.
        height: H.
        width: W.
    """

    steps: int
    channels: int
    height: int
    width: int


class Role(Enum):
    """What a map holds, by which a back end chooses how to store it."""

    SPIKES = "spikes"
    """0 or 1."""
    VALUES = "values"
    """Floats that go forward: the network's input, what an average pool makes of spikes, and their currents."""
    CURRENT = "current"
    """A stored current of spikes."""
    GRADIENT = "gradient"
    """Floats that go back."""


@dataclass(frozen=True)
class Affine:
    """What stands between a synapse and its neuron: x = scale[c]·y + shift[c] (a norm, a bias, or nothing).

    Args:
        scale: [C] float64.
        shift: [C] float64.
    """

    scale: Tensor
    shift: Tensor


@dataclass(frozen=True)
class InputTerm:
    """One summand of a neuron's input.

    Args:
        value: A current (see `Backend.current`), or a map of spikes or floats that is added as it is.
        affine: Of a current; None for a map.
    """

    value: Any
    affine: Affine | None


@dataclass(frozen=True)
class NeuronGradient:
    """What the backward pass through neurons leaves beside the gradient of the input current.

    Args:
        sum_gx: Σ over steps, samples and places of ∂L/∂x [C] float64.
        sum_gx_y: For each term that is a current: Σ ∂L/∂x · y [C] float64; None for the others.
    """

    sum_gx: Tensor
    sum_gx_y: tuple[Tensor | None, ...]


DenseGradientSink = Callable[[int, Tensor], None]
"""Takes the dense weight gradient piece by piece: (first output channel, gradient [channels, C_in, k_h, k_w])."""


class Backend(Protocol):
    """All operations; T and N are fixed when a back end is made.

    A *connection set* is a layer's topology with its present values; a *current* is a connection set applied to an
    input map, y = W∗input, which may be stored in a map or computed again whenever it is needed.
    """

    def nbytes(self, shape: MapShape, role: Role) -> int:
        """Return the bytes of a map: a multiple of the alignment of offsets."""

    def reserve(self, nbytes: int) -> None:
        """Make the arena hold at least `nbytes`; no map of before is used any more."""

    def spikes(self, shape: MapShape, offset: int = 0) -> Any:
        """Return a map of spikes at `offset` bytes of the arena."""

    def floats(self, shape: MapShape, offset: int = 0, role: Role = Role.VALUES) -> Any:
        """Return a map of floats for any role but spikes at `offset` bytes of the arena."""

    def load(self, values: Tensor, into: Any) -> None:
        """Copy [S, N, C, H, W] into a map of floats."""

    def unload(self, value: Any) -> Tensor:
        """Return a map of spikes or floats as [S, N, C, H, W] float32."""

    def connections(self, synapse: Synapse, height: int, width: int, positions: Tensor | None) -> Any:
        """Return a connection set for inputs of `height` × `width`.

        It belongs to the layer, not to N: every back end of the same class, T and precision can use it.

        Args:
            synapse: The layer.
            height: Of the input.
            width: Of the input.
            positions: Ascending flat positions of the alive weights [nnz] int64, None where all are.
        """

    def set_values(self, connections: Any, values: Tensor) -> None:
        """Take over the values of the alive weights [nnz], in the order of their positions."""

    def prefers_stored(self, connections: Any) -> bool:
        """Say whether keeping y of this layer until the backward pass is faster than computing it again."""

    def current(self, connections: Any, source: Any, stored: Any | None) -> Any:
        """Return the current y of `source` through `connections`; it may be asked for anew before each use.

        Args:
            connections: A connection set.
            source: A map of spikes or floats, alive at every use of the current.
            stored: A map of the role CURRENT, or VALUES, that keeps y from `statistics` on, which is then called
                before any other use; or None to compute y again at every use.
        """

    def statistics(self, current: Any) -> tuple[Tensor, Tensor]:
        """Compute y (into its stored map if it has one); return Σ y and Σ y² [C] float64 over S, N, H, W."""

    def evaluate(self, current: Any) -> Tensor:
        """Return y itself as [S, N, C, H, W] float32."""

    def neuron_forward(self, terms: Sequence[InputTerm], neuron: LIFParameters, pool: int, out: Any) -> int:
        """Integrate x[t] = Σ terms over t = 1 … T (a term of S = 1 is the same at every t) into spikes `out`.

        With pool > 1, `out` holds the max over windows of pool × pool side by side (an axis shorter than that is
        one window).

        Returns:
            The number of spikes fired, before the pool.
        """

    def neuron_backward(
        self, terms: Sequence[InputTerm], neuron: LIFParameters, pool: int, grad_out: Any, grad_x: Any
    ) -> NeuronGradient:
        """Turn ∂L/∂out into ∂L/∂x; the gradient of a max-pool goes to the first maximum in scan order.

        Args:
            terms: As forward.
            neuron: As forward.
            pool: As forward.
            grad_out: Map of gradients, of the shape of `out`.
            grad_x: Map of gradients that receives ∂L/∂x; summed over t (S = 1) if the only term has S = 1. It may
                be the same map as `grad_out` where pool = 1 and both have S = T.
        """

    def synapse_backward(
        self,
        current: Any,
        grad_x: Any,
        gradient_affine: tuple[Tensor, Tensor, Tensor],
        grad_source: Any | None,
        accumulate: bool,
        dense: DenseGradientSink | None,
    ) -> Tensor:
        """Go back through a synapse: ∂L/∂y = a[c]·∂L/∂x + b[c]·y + c[c], from which both products follow.

        Args:
            current: As forward.
            grad_x: ∂L/∂x, a map of gradients of the shape of y.
            gradient_affine: a, b, c [C] float64: the backward pass of the norm (b = c = 0 without one).
            grad_source: Map of gradients that receives ∂L/∂source, or None. It may be the map `grad_x` itself
                where `writes_in_place` says so.
            accumulate: Add to `grad_source` instead of overwriting it.
            dense: Where given, called with the dense weight gradient, a few output channels at a time, ascending.

        Returns:
            ∂L/∂values [nnz], in the order of the positions.
        """

    def writes_in_place(self, connections: Any) -> bool:
        """Say whether `synapse_backward` can write ∂L/∂source over `grad_x`; they then have one shape."""

    def max_pool(self, source: Any, side: int, out: Any) -> None:
        """OR of spikes over windows side by side."""

    def max_pool_backward(self, source: Any, side: int, grad_out: Any, grad_source: Any, accumulate: bool) -> None:
        """Hand the gradient to the first maximum of each window in scan order."""

    def avg_pool(self, source: Any, out: Any, side: int) -> None:
        """Average windows of side × side side by side, or adaptively to the size of `out` where side is 0."""

    def avg_pool_backward(self, grad_out: Any, grad_source: Any, side: int, accumulate: bool) -> None:
        """Spread the gradient evenly over each window."""

    def relabel(self, source: Any, shape: MapShape) -> Any:
        """Return the same map with its [C, H, W] taken for another `shape` of as many places in C order.

        It is no copy: what is written into either is in both.
        """

    def add(self, source: Any, into: Any) -> None:
        """Add `source` to `into`, both maps of gradients of one shape."""

    def counts(self, source: Any) -> Tensor:
        """Return how many of the S·N entries are non-zero at each place of a map, [C, H, W] int64."""

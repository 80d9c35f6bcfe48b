"""Energy by the usual tables: estimates from counted operations, not measurements."""

from __future__ import annotations

from typing import Any

AC_45NM_PJ = 0.9
"""Of a 32-bit floating-point addition in 45 nm CMOS (Horowitz, "Computing's energy problem", ISSCC 2014)."""

MAC_45NM_PJ = 4.6
"""The same with a multiplication (3.7 pJ) before it."""

SYNAPTIC_OPERATION_LOIHI_PJ = 23.6
"""Of a synaptic operation on Loihi, at least (Davies et al., IEEE Micro 2018, Table 2)."""


def energy_estimates(acs: float, macs: float, dense: float) -> dict[str, dict[str, Any]]:
    """Return estimates of the energy that the synaptic operations of an image take.

    Memory, neurons and all else are left out, as is usual in the field.

    Args:
        acs: Accumulations by spikes.
        macs: Multiply-accumulates by analog values.
        dense: Operations of the same steps if no weight and no input were zero.

    Returns:
        By table: "picojoules" of this network, "dense_picojoules" of `dense` multiply-accumulates where the table
        has them, and "source".
    """
    return {
        "45nm_estimate": {
            "picojoules": AC_45NM_PJ * acs + MAC_45NM_PJ * macs,
            "dense_picojoules": MAC_45NM_PJ * dense,
            "source": "0.9 pJ per AC, 4.6 pJ per MAC: 32-bit floating point at 45 nm, Horowitz, ISSCC 2014",
        },
        "loihi_estimate": {
            "picojoules": SYNAPTIC_OPERATION_LOIHI_PJ * (acs + macs),
            "dense_picojoules": None,
            "source": "23.6 pJ per synaptic operation: Loihi, Davies et al., IEEE Micro 2018, Table 2",
        },
    }

"""From the modules of a network to the graph that the engine runs."""

from ndsnn.engine.lowering.lowering import Lowered, lower, lower_network

__all__ = ["Lowered", "lower", "lower_network"]

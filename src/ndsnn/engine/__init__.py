"""The engine: a lowered network, run sparse and bit-packed on the CPU."""

from ndsnn.engine.executor import Executor
from ndsnn.engine.graph import Graph
from ndsnn.engine.lowering import lower
from ndsnn.engine.module import Accelerated, accelerate
from ndsnn.engine.ops import Backend
from ndsnn.engine.passes import Observer
from ndsnn.engine.reference import ReferenceBackend

__all__ = ["Accelerated", "Backend", "Executor", "Graph", "Observer", "ReferenceBackend", "accelerate", "lower"]

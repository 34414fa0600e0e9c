"""The cost of a sampling run as it was executed: operations, network evaluations, bytes, seconds, peak memory."""

from parediff.cost.memory import Peak, peak_memory
from parediff.cost.operations import CallCounter, Counter, LayerCost, Operations, counting
from parediff.cost.size import Size, Stored, exported, size, size_bytes
from parediff.cost.timing import Latency, paired_latency

__all__ = [
    "CallCounter",
    "Counter",
    "Latency",
    "LayerCost",
    "Operations",
    "Peak",
    "Size",
    "Stored",
    "counting",
    "exported",
    "paired_latency",
    "peak_memory",
    "size",
    "size_bytes",
]

"""Adapters: what is added to the frozen encoder's layers, or decides which tokens pass them."""

from adapterdistill.adapters.bottleneck import BottleneckAdapter
from adapterdistill.adapters.conditional import LEAST, ConditionalAdapter, Parallel, Routing
from adapterdistill.adapters.fusion import Fusion
from adapterdistill.adapters.stack import AdapterStack

__all__ = [
    "LEAST",
    "AdapterStack",
    "BottleneckAdapter",
    "ConditionalAdapter",
    "Fusion",
    "Parallel",
    "Routing",
]

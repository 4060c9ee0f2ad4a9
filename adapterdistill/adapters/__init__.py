"""Adapters on the frozen encoder: bottleneck, conditional, fusions and stacks of many.

Also soft top-k, the grouping of a mixed batch's tokens by adapter, and the conversion from and to
the `adapters` library.
"""

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

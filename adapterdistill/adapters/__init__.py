"""Adapters: functions of one layer's hidden states, added inside the frozen encoder."""

from adapterdistill.adapters.bottleneck import BottleneckAdapter
from adapterdistill.adapters.fusion import Fusion
from adapterdistill.adapters.stack import AdapterStack

__all__ = ["AdapterStack", "BottleneckAdapter", "Fusion"]

"""Families of encoders: what their configurations and weights are called, as data.

An encoder is read from its `config.json` and its tensors alone. No code of a model's folder runs.
"""

from adapterdistill.backbone.families.reading import open_tensors, read_weights
from adapterdistill.backbone.families.settings import check_supported, num_positions
from adapterdistill.backbone.families.table import FAMILIES

__all__ = ["FAMILIES", "check_supported", "num_positions", "open_tensors", "read_weights"]

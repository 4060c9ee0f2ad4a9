"""How much of a benchmark is run: tiny, quick, standard or full."""

from collections.abc import Mapping
from typing import TypeVar

from adapterdistill.errors import ConfigError

S = TypeVar("S")


def named_size(sizes: Mapping[str, S], name: str) -> S:
    """The size of this name. Raises ConfigError: the benchmark has none such."""
    if name not in sizes:
        raise ConfigError(f"this benchmark has no size {name}: take {', '.join(sizes)}")
    return sizes[name]

"""Files that people name: regular ones, read within bounds, and never waited for."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

from adapterdistill.errors import ConfigError

MAX_BYTES = 1 << 20
"""Of what a person or a command wrote: a run's TOML, an address, certificates."""


def open_file(path: Path) -> BinaryIO:
    """A regular file to be read. A pipe of that name would be waited for, maybe for ever.

    Raises:
        ConfigError: it is none, or cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise ConfigError(f"{path}: expected a file")


def read_file(path: Path) -> bytes:
    """All of it. Raises ConfigError also if it has more than MAX_BYTES."""
    with open_file(path) as file:
        try:
            content = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from None
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path}: expected at most {MAX_BYTES} bytes")
    return content

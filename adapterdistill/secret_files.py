"""Files of secrets: keys and tokens, which come in by file alone and are their owner's alone.

Not as an argument, which whoever lists the machine's processes sees, nor as an environment
variable, which every child inherits.
"""

import os
import stat
import tempfile
from pathlib import Path

from adapterdistill.errors import ConfigError
from adapterdistill.named_files import open_file

_MAX_BYTES = 64 << 20  # some 300,000 tokens' hashes; a key has a few hundred bytes


def read_secret(path: Path) -> bytes:
    """The content of a file that nobody but its owner may read or write.

    Raises:
        ConfigError: others may, too, or it is no file that can be read.
    """
    with open_file(path) as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            raise ConfigError(
                f"{path}: holds a secret, but others may read or change it (mode {mode:04o}): "
                "chmod 600 it, and if they could have read it, make another"
            )
        try:
            return file.read(_MAX_BYTES)
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from None


def write_secret(path: Path, content: bytes) -> None:
    """Others never see the file's content, and its owner sees all of it or what was there before.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        descriptor, staged = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(staged).replace(path)
        except BaseException:
            Path(staged).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None

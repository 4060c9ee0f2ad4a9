"""A disk for a drill's registry to run full: a small file system, or a limit where none can be."""

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from adapterdistill.bench.registry_process import Serving, serving

_MIB = 1 << 20
_SIZE_MIB = 16
_MOUNT = f'mount -t tmpfs -o size={_SIZE_MIB}m tmpfs "$0" && exec "$@"'
_ALONE = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", _MOUNT)
"""Linux: a file system in memory that only the command which follows sees, without any rights."""


@dataclass(frozen=True)
class SmallDisk:
    """A running registry's."""

    server: Serving
    root: Path
    """The registry's folder, as this process finds it."""
    is_mounted: bool

    @property
    def note(self) -> str:
        if self.is_mounted:
            return f"a file system of {_SIZE_MIB} MiB was full (ENOSPC)"
        return "file sizes were limited (EFBIG): no file system could be mounted"

    def fill(self, left_bytes: int) -> None:
        """But for so many bytes; a limit is on each file instead."""
        if not self.is_mounted:
            self._limit(left_bytes)
            return
        with self._ballast.open("wb", buffering=0) as ballast:
            try:
                while ballast.write(bytes(_MIB)):
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
            ballast.truncate(max(0, ballast.tell() - left_bytes))

    def free(self) -> None:
        if self.is_mounted:
            self._ballast.unlink()
        else:
            self._limit(psutil.RLIM_INFINITY)

    @property
    def _ballast(self) -> Path:
        return self.root / "ballast"

    def _limit(self, file_bytes: int) -> None:
        _, hard = self.server.process.rlimit(psutil.RLIMIT_FSIZE)
        self.server.process.rlimit(psutil.RLIMIT_FSIZE, (file_bytes, hard))


@contextmanager
def serving_on_small_disk(folder: Path) -> Iterator[SmallDisk]:
    """A registry process with its files in `folder`/registry, where they are afterwards, too."""
    root = folder / "registry"
    root.mkdir()
    alone = (*_ALONE, str(root))
    if not can_mount(alone):
        with serving(root) as server:
            yield SmallDisk(server, root, is_mounted=False)
        return
    with ExitStack() as kept:
        with serving(root, before=alone) as server:
            # It lasts for as long as somebody has it open.
            seen = os.open(f"/proc/{server.process.pid}/root{root}", os.O_RDONLY)
            kept.callback(os.close, seen)
            yield SmallDisk(server, Path(f"/proc/self/fd/{seen}"), is_mounted=True)
        shutil.copytree(f"/proc/self/fd/{seen}", root, dirs_exist_ok=True)


def can_mount(alone: tuple[str, ...]) -> bool:
    try:
        return subprocess.run([*alone, "true"], capture_output=True, timeout=60).returncode == 0
    except OSError:
        return False  # no such program

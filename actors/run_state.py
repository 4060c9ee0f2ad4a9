"""A run's state on the owner's disk, outside Ray: results of finished stages."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout
from pydantic import ValidationError

from actors.records import StageResult
from adapterdistill.config import OnboardConfig
from adapterdistill.files import remove_torn, write_atomically
from adapterdistill.manifest import canonical_json, sha256_hex

R = TypeVar("R", bound=StageResult)
_FORMAT = "1"


@dataclass(frozen=True)
class RunState:
    """The run's folder. Its name is what the run computes: submitting the same work again, under
    whatever submission id, finds the stages that are done; other data or settings start anew."""

    folder: Path
    lock: FileLock
    """Of the run, in whatever process; it goes with the process that holds it."""

    @classmethod
    def open(cls, config: OnboardConfig, data_sha256: str) -> "RunState":
        work = canonical_json([_FORMAT, config.tenant, config.digest(), data_sha256])
        folder = Path(config.workspace) / config.tenant / "runs" / sha256_hex(work)[:16]
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder, FileLock(folder / "lock", thread_local=False))

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else works on the run meanwhile: of two submissions at once the second waits, and
        finds the stage done. May be entered again inside."""
        try:
            self.lock.acquire(blocking=False)
        except Timeout:
            print("another submission works on this run: waiting for it", file=sys.stderr)
            self.lock.acquire()
        try:
            remove_torn(self.folder)
            yield
        finally:
            self.lock.release()

    def result(self, kind: type[R]) -> R | None:
        """The kept result of the stage, None if it has not finished."""
        path = self._path(kind)
        if not path.exists():
            return None
        try:
            return kind.model_validate_json(path.read_bytes())
        except ValidationError:
            return None  # written by another version of the project: run the stage again

    def keep(self, result: R) -> R:
        """Keep the result; the stage is done from here on."""
        write_atomically(self._path(type(result)), result.canonical_json())
        return result

    def _path(self, kind: type[StageResult]) -> Path:
        return self.folder / "stages" / kind.file_name()

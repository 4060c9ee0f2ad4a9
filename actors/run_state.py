"""A run's state on the owner's disk, outside Ray: results of finished stages."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout
from pydantic import ValidationError

from adapterdistill.actors import tracking
from adapterdistill.actors.records import StageResult
from adapterdistill.actors.stages import stage_of
from adapterdistill.actors.tracking import Trackers
from adapterdistill.actors.training.outcome import peak_rss_mb
from adapterdistill.config import OnboardConfig
from adapterdistill.files import private_folder, remove_torn, write_atomically
from adapterdistill.manifest import canonical_json, sha256_hex

R = TypeVar("R", bound=StageResult)
_FORMAT = "1"


@dataclass(frozen=True)
class RunState:
    """The run's folder, named by a digest of the data and the settings.

    Submitting the same work again, under any submission id, finds the stages that are done; other
    data or settings start a new run.
    """

    folder: Path
    lock: FileLock
    """Held by whoever works on the run, in any process; it ends with the process."""
    trackers: Trackers = ()

    @classmethod
    def open(cls, config: OnboardConfig, data_sha256: str, trackers: Trackers = ()) -> "RunState":
        """Open the run; `trackers` get its numbers beside those that the settings name."""
        work = canonical_json([_FORMAT, config.tenant, config.digest(), data_sha256])
        private_folder(Path(config.workspace))
        folder = _runs(config) / sha256_hex(work)[:16]
        folder.mkdir(parents=True, exist_ok=True)
        named = tracking.trackers_of(config.tracking, config.tenant, folder.name)
        return replace(cls.at(folder), trackers=(*named, *trackers))

    @classmethod
    def at(cls, folder: Path) -> "RunState":
        """The state of the run in this folder."""
        return cls(folder, FileLock(folder / "lock", thread_local=False))

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep others from working on the run meanwhile. May be entered again inside.

        If two submissions run at once, the second one waits and then finds the stage done.
        """
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
        path = self.path_of(kind)
        if not path.exists():
            return None
        try:
            return kind.model_validate_json(path.read_bytes())
        except ValidationError:
            return None  # written by another version of the project: run the stage again

    def keep(self, result: R) -> R:
        """Keep the result; the stage is done from here on."""
        write_atomically(self.path_of(type(result)), result.canonical_json())
        return result

    def once(
        self,
        kind: type[R],
        work: Callable[[], R],
        *,
        started: float | None = None,
        still_true: Callable[[R], bool] = lambda kept: True,
    ) -> R:
        """The stage's kept result while it is still true outside, or `work()`, timed and kept.

        Args:
            started: `time.perf_counter()` of when the stage began; None: now.
        """
        with self.alone():
            kept = self.result(kind)
            if kept is not None and still_true(kept):
                return kept
            started = time.perf_counter() if started is None else started
            result = work()
            seconds = round(time.perf_counter() - started, 3)
            result = result.model_copy(update={"seconds": seconds, "peak_rss_mb": peak_rss_mb()})
            whole = [(None, tracking.of_record(result))]
            tracking.append(self.folder, stage_of(kind).name, whole)
            tracking.follow(self.folder, self.trackers)
            return self.keep(result)

    def path_of(self, kind: type[StageResult]) -> Path:
        """The file that keeps the result of a stage."""
        return self.folder / "stages" / kind.file_name()


def runs_of(config: OnboardConfig) -> Iterator[RunState]:
    """The tenant's runs in the workspace, in no order."""
    return runs_in(_runs(config).parent)


def runs_in(tenant_folder: Path) -> Iterator[RunState]:
    """The runs of the tenant whose part of a workspace this is, in no order."""
    folder = tenant_folder / "runs"
    return (RunState.at(one) for one in folder.iterdir()) if folder.is_dir() else iter(())


def _runs(config: OnboardConfig) -> Path:
    return Path(config.workspace) / config.tenant / "runs"

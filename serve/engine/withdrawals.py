"""Follows the registry: a version that is withdrawn there is dropped from this replica at once.

A replica watches as long as it lives. While the registry is out of reach, the replica serves what
it has and says so in its metrics; afterwards the registry tells it all that it missed.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from adapterdistill.errors import AdapterDistillError
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.registry.client.watch import Event
from adapterdistill.serve.engine.engine import Engine

_RETRY_S = 5.0
_log = logging.getLogger("ray.serve")


@dataclass
class FollowerState:
    """How far a replica has followed its registry."""

    followed_until: int = 0
    """Revision of the last event that was read."""
    incarnation: str = ""
    """Incarnation of the registry that it came from. Another begins at its first event again."""
    lost_at: float | None = None
    """Monotonic time since which the registry is out of reach; None: it is within reach."""


class WithdrawalFollower(threading.Thread):
    """Withdraws versions from `engine` when the registry reports them withdrawn."""

    def __init__(self, engine: Engine, registry: Callable[[], RegistryClient]) -> None:
        """`registry` opens a new connection; it is called again after each lost connection."""
        super().__init__(name="registry", daemon=True)
        self.state = FollowerState()
        self._engine = engine
        self._registry = registry
        self._client: RegistryClient | None = None
        self._stopping = threading.Event()

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._registry() as self._client:
                    if self._client.health():
                        self.state.lost_at = None
                    if self.state.lost_at is None:
                        self._follow(
                            self._client.watch(
                                self.state.followed_until, incarnation=self.state.incarnation
                            )
                        )
            except AdapterDistillError as error:
                if self._stopping.is_set():
                    return
                if self.state.lost_at is None:
                    self.state.lost_at = time.monotonic()
                    _log.error(
                        "registry lost [%s]: withdrawals do not arrive: %s", error.reason, error
                    )
            self._stopping.wait(_RETRY_S)

    def _follow(self, changes: Iterator[Event]) -> None:
        for change in changes:
            self.state.followed_until = change.revision
            self.state.incarnation = change.incarnation
            if change.kind == "withdrawn":
                for key in self._engine.withdraw(change.name):
                    _log.error(
                        "tenant %s: %s is withdrawn and no longer served: %s",
                        key,
                        change.name,
                        change.reason,
                    )
            elif change.kind == "teacher_withdrawn" and self._engine.serves(change.name):
                _log.warning(
                    "%s learnt from %s, which is now withdrawn", change.name, change.other_name
                )

    def stop(self) -> None:
        self._stopping.set()
        if self._client is not None:
            self._client.close()

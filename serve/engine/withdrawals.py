"""Follows the registry for what is served here: a version that is withdrawn goes at once.

A replica watches for as long as it lives. Out of the registry's reach it serves what it has, and
says so; when the registry is back it is told all that it missed.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from adapterdistill.errors import AdapterDistillError
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.registry.client.watch import Event
from serve.engine.engine import Engine

_RETRY_S = 5.0
_log = logging.getLogger("ray.serve")


@dataclass
class Standing:
    """What a replica knows of its registry."""

    followed_until: int = 0
    """Revision of the last change that it was told of."""
    lost_at: float | None = None
    """Monotonic time since which the registry cannot be reached; None: it can."""


class Recall(threading.Thread):
    """Tells `engine` of withdrawn versions, as the registry tells of them."""

    def __init__(self, engine: Engine, registry: Callable[[], RegistryClient]) -> None:
        """`registry` connects anew; it is called whenever the connection was given up."""
        super().__init__(name="recall", daemon=True)
        self.standing = Standing()
        self._engine = engine
        self._registry = registry
        self._client: RegistryClient | None = None
        self._stopping = threading.Event()

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._registry() as self._client:
                    if self._client.health():
                        self.standing.lost_at = None
                    if self.standing.lost_at is None:
                        self._follow(self._client.watch(self.standing.followed_until))
            except AdapterDistillError as error:
                if self._stopping.is_set():
                    return
                if self.standing.lost_at is None:
                    self.standing.lost_at = time.monotonic()
                    _log.error(
                        "registry lost [%s]: withdrawals are not heard of: %s", error.reason, error
                    )
            self._stopping.wait(_RETRY_S)

    def _follow(self, changes: Iterator[Event]) -> None:
        for change in changes:
            self.standing.followed_until = change.revision
            if change.kind == "withdrawn":
                for tenant in self._engine.recall(change.name):
                    _log.error(
                        "tenant %s: %s is withdrawn and served no more: %s",
                        tenant,
                        change.name,
                        change.reason,
                    )
            elif change.kind == "teacher_withdrawn" and self._engine.serves(change.name):
                _log.warning("%s learnt from %s, now withdrawn", change.name, change.other_name)

    def stop(self) -> None:
        self._stopping.set()
        if self._client is not None:
            self._client.close()

"""Keeps the questions that were answered badly, and a few others, away from the event loop.

A thread writes them to the tenants' files (`adapterdistill.feedback`). What it cannot keep up with
is dropped and counted: an answer never waits for it.
"""

import collections
import logging
import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from adapterdistill.errors import AdapterDistillError
from adapterdistill.feedback import SAMPLED, UNCERTAIN, Asked, opened
from adapterdistill.serve.engine.items import SearchAnswer

MAX_WAITING = 10_000
_WRITE_EVERY_S = 0.5
_log = logging.getLogger("ray.serve")


class Keeper:
    """Takes answers from one event loop; a thread of its own writes."""

    def __init__(self, store: Path, *, draw: Callable[[], float] = random.random) -> None:
        """`draw` gives numbers from 0 to 1, which decide whether a certain answer is kept."""
        self._store, self._draw = store, draw
        self._waiting: collections.deque[tuple[str, Asked]] = collections.deque()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feedback", daemon=True)
        self.dropped = 0
        """Questions that were not kept."""
        self._thread.start()

    def see(self, tenant: str, texts: Sequence[str], answers: Sequence[SearchAnswer]) -> None:
        """Keep those questions whose answer was turned away or is uncertain, and a few others.

        Without the others, labels would say nothing of what seems to be answered well.
        """
        for text, answer in zip(texts, answers, strict=True):
            sure = answer.confidence is None or answer.confidence >= UNCERTAIN
            if sure and not answer.abstained and self._draw() >= SAMPLED:
                continue
            if len(self._waiting) >= MAX_WAITING:
                self.dropped += 1
                continue
            best = None if answer.abstained else answer.ranked[0].faq_id
            self._waiting.append((tenant, Asked(text, best, answer.confidence)))

    def close(self) -> None:
        """Write what waits, and end the thread."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(_WRITE_EVERY_S):
            self._write()
        self._write()

    def _write(self) -> None:
        of_tenant: dict[str, list[Asked]] = collections.defaultdict(list)
        while self._waiting:
            tenant, asked = self._waiting.popleft()
            of_tenant[tenant].append(asked)
        for tenant, rows in of_tenant.items():
            try:
                with opened(self._store, tenant) as feedback:
                    feedback.keep(rows)
            except AdapterDistillError as error:
                self.dropped += len(rows)
                _log.error("questions that were not kept: %d (%s)", len(rows), error)

"""Which bundles are proven to be active: each briefly before it answers, and wholly in time.

The proof on all probe sentences takes five times as long as the rest of a load. Digests say at
every load that a bundle is what its owner made, for this encoder's weights; what is left to show is
that its adapter is active in this process. One sentence shows that: moved as far as the manifest
says to within a fifth of the way, where the bare encoder does not move it at all. The others,
at other lengths, follow in the background.
"""

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Embedder, Encoder
from adapterdistill.checkpoint import prove_active, prove_briefly
from adapterdistill.errors import EncoderMismatchError
from adapterdistill.manifest import GoldenVectors
from serve.engine.adapter_bank import Slot
from serve.engine.live import Snapshot

PROVE_EVERY_S = 0.1
"""A whole proof takes 8 ms: 1,000 tenants take two minutes, at less than a tenth of a core."""


@dataclass(eq=False)
class _Asked:
    adapter: BottleneckAdapter
    golden: GoldenVectors
    done: bool = False
    fault: Exception | None = None


class Proofs:
    """Bundle ids that are proven on one encoder: the outcome follows from the content that an id
    names, so once is enough. Thread-safe."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._briefly: set[str] = set()
        self._wholly: set[str] = set()
        self._disproven: dict[str, str] = {}  # why
        self._asked: deque[_Asked] = deque()
        self._proving = threading.Lock()

    def prove(self, bundle_id: str, embedder: Embedder, golden: GoldenVectors) -> None:
        """On all probe sentences. Raises EncoderMismatchError."""
        self._check_disproven(bundle_id)
        if bundle_id in self._wholly:
            return
        try:
            prove_active(self._encoder, embedder, golden)
        except EncoderMismatchError as error:
            self._disproven[bundle_id] = str(error)
            raise
        self._wholly.add(bundle_id)

    def prove_briefly(
        self, bundle_id: str, adapter: BottleneckAdapter, golden: GoldenVectors
    ) -> None:
        """In one forward with all others that wait for theirs. Raises EncoderMismatchError."""
        self._check_disproven(bundle_id)
        if bundle_id in self._briefly or bundle_id in self._wholly:
            return
        mine = _Asked(adapter, golden)
        self._asked.append(mine)
        with self._proving:
            if not mine.done:  # else whoever had the lock before has proven it, too
                self._prove_all()
        if mine.fault is not None:
            raise mine.fault
        self._briefly.add(bundle_id)

    def _check_disproven(self, bundle_id: str) -> None:
        """Else what one sentence shows would let a bundle in again that failed on all."""
        if bundle_id in self._disproven:
            raise EncoderMismatchError(self._disproven[bundle_id])

    def _prove_all(self) -> None:
        asked = [self._asked.popleft() for _ in range(len(self._asked))]
        faults: Sequence[Exception | None]
        try:
            faults = prove_briefly(self._encoder, [(one.adapter, one.golden) for one in asked])
        except Exception as error:  # each who waits is told
            faults = [error] * len(asked)
        for one, fault in zip(asked, faults, strict=True):
            one.fault, one.done = fault, True

    def num_left(self, snapshot: Snapshot) -> int:
        """Bundles in memory that are not proven wholly."""
        return sum(live.bundle_id not in self._wholly for live in snapshot.tenants.values())

    def prove_next(self, snapshot: Snapshot) -> tuple[str, str, EncoderMismatchError] | None:
        """Prove a tenant in memory wholly, by what its slot holds.

        Returns its key, its bundle id and what is wrong, if anything is.
        """
        unproven = (
            (key, live)
            for key, live in snapshot.tenants.items()
            if live.bundle_id not in self._wholly
        )
        key, live = next(unproven, (None, None))
        stack = snapshot.stack
        del unproven, snapshot  # or nobody could leave memory meanwhile
        if key is None or live is None or not isinstance(live.served, Slot):
            return None
        try:
            self.prove(live.bundle_id, stack.only(live.served.number).mean(), live.manifest.golden)
        except EncoderMismatchError as error:
            return key, live.bundle_id, error
        return None

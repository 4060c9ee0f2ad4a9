"""Proves that bundles are active: briefly before they answer, on all probe sentences later.

The proof on all probe sentences takes five times as long as the rest of a load. The digests,
checked at every load, already show that a bundle is its owner's, made for this encoder's weights;
the proof adds that its adapter is active in this process. One sentence is enough for that: the
adapter must move it as far as the manifest says, to within a fifth, and the bare encoder does not
move it at all. The other sentences, of other lengths, follow in the background.
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
from adapterdistill.serve.engine.adapter_bank import Slot
from adapterdistill.serve.engine.live import Snapshot

PROVE_EVERY_S = 0.1
"""Pause between proofs. A whole proof takes 8 ms, so 1,000 tenants take two minutes, at less than a
tenth of a core."""


@dataclass(eq=False)
class _Pending:
    encoder: Encoder
    adapter: BottleneckAdapter
    golden: GoldenVectors
    done: bool = False
    fault: Exception | None = None


class Proofs:
    """The bundle ids that are proven, each on its own encoder. Thread-safe.

    An id names its content, and the outcome follows from the content: each bundle is proven once.
    """

    def __init__(self) -> None:
        self._briefly: set[str] = set()
        self._wholly: set[str] = set()
        self._disproven: dict[str, str] = {}  # bundle id -> why it failed
        self._pending: deque[_Pending] = deque()
        self._proving = threading.Lock()

    def prove(
        self, bundle_id: str, encoder: Encoder, embedder: Embedder, golden: GoldenVectors
    ) -> None:
        """Prove on all probe sentences. Raises EncoderMismatchError."""
        self._check_disproven(bundle_id)
        if bundle_id in self._wholly:
            return
        try:
            prove_active(encoder, embedder, golden)
        except EncoderMismatchError as error:
            self._disproven[bundle_id] = str(error)
            raise
        self._wholly.add(bundle_id)

    def prove_briefly(
        self, bundle_id: str, encoder: Encoder, adapter: BottleneckAdapter, golden: GoldenVectors
    ) -> None:
        """Prove on one sentence, in one forward with all of this encoder that wait.

        Raises:
            EncoderMismatchError: the adapter is not what its manifest says.
        """
        self._check_disproven(bundle_id)
        if bundle_id in self._briefly or bundle_id in self._wholly:
            return
        mine = _Pending(encoder, adapter, golden)
        self._pending.append(mine)
        with self._proving:
            if not mine.done:  # otherwise the lock's last holder has proven it, too
                self._prove_all()
        if mine.fault is not None:
            raise mine.fault
        self._briefly.add(bundle_id)

    def _check_disproven(self, bundle_id: str) -> None:
        """Refuse a bundle that failed on all sentences: on one sentence alone it might pass
        again."""
        if bundle_id in self._disproven:
            raise EncoderMismatchError(self._disproven[bundle_id])

    def _prove_all(self) -> None:
        waiting: dict[Encoder, list[_Pending]] = {}
        for _ in range(len(self._pending)):
            one = self._pending.popleft()
            waiting.setdefault(one.encoder, []).append(one)
        for encoder, pending in waiting.items():
            faults: Sequence[Exception | None]
            try:
                faults = prove_briefly(encoder, [(one.adapter, one.golden) for one in pending])
            except Exception as error:  # every waiting load gets the error
                faults = [error] * len(pending)
            for one, fault in zip(pending, faults, strict=True):
                one.fault, one.done = fault, True

    def num_left(self, snapshot: Snapshot) -> int:
        """Number of bundles in memory that are not proven on all sentences."""
        return sum(live.bundle_id not in self._wholly for live in snapshot.tenants.values())

    def prove_next(self, snapshot: Snapshot) -> tuple[str, str, EncoderMismatchError] | None:
        """Prove a tenant in memory on all sentences, from the weights in its slot.

        Returns its key, its bundle id and the error; None: it passed, or none is left.
        """
        unproven = (
            (key, live)
            for key, live in snapshot.tenants.items()
            if live.bundle_id not in self._wholly
        )
        key, live = next(unproven, (None, None))
        del unproven, snapshot  # otherwise no tenant could be evicted meanwhile
        if key is None or live is None or not isinstance(live.served, Slot):
            return None
        try:
            alone = live.bank.stack.only(live.served.number).mean()
            self.prove(live.bundle_id, live.bank.encoder, alone, live.manifest.golden)
        except EncoderMismatchError as error:
            return key, live.bundle_id, error
        return None

"""Proves that bundles are active: briefly with their first answer, on all probe sentences later.

The digests, checked at every load, show that a bundle is its owner's, made for this encoder's
weights; the proof adds that its adapter is active in this process. One sentence is enough for that:
the adapter must move it as far as the manifest says, to within a fifth, and the bare encoder does
not move it at all. That sentence is one more row of the batch with the bundle's first question,
through the same slot, so no answer leaves before it has passed. The other sentences, of other
lengths, follow in the background.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from adapterdistill.backbone import Embedder, Encoder
from adapterdistill.checkpoint import check_probe_rows, probe_rows, prove_active
from adapterdistill.errors import EncoderMismatchError
from adapterdistill.manifest import GoldenVectors
from adapterdistill.serve.engine.adapter_bank import AdapterBank, Slot
from adapterdistill.serve.engine.embedding import embed
from adapterdistill.serve.engine.live import LiveTenant, Snapshot

PROVE_EVERY_S = 0.1
"""Pause between proofs. A whole proof takes 8 ms, so 1,000 tenants take two minutes, at less than a
tenth of a core."""


class Proofs:
    """The bundle ids that are proven, each on its own encoder. Thread-safe.

    An id names its content, and the outcome follows from the content: each bundle is proven once.
    """

    def __init__(self) -> None:
        self._briefly: set[str] = set()
        self._wholly: set[str] = set()
        self._disproven: dict[str, str] = {}  # bundle id -> why it failed

    def check(self, bundle_id: str) -> None:
        """Raises EncoderMismatchError: the bundle has failed a proof."""
        if bundle_id in self._disproven:
            raise EncoderMismatchError(self._disproven[bundle_id])

    def prove(
        self, bundle_id: str, encoder: Encoder, embedder: Embedder, golden: GoldenVectors
    ) -> None:
        """Prove on all probe sentences. Raises EncoderMismatchError."""
        self.check(bundle_id)
        if bundle_id in self._wholly:
            return
        try:
            prove_active(encoder, embedder, golden)
        except EncoderMismatchError as error:
            self._disproven[bundle_id] = str(error)
            raise
        self._wholly.add(bundle_id)

    def embed(
        self, bank: AdapterBank, ids: Sequence[Sequence[int]], lives: Sequence[LiveTenant | None]
    ) -> tuple[Tensor, Mapping[LiveTenant, EncoderMismatchError]]:
        """Embed rows, each through its tenant; tenants without a proof are proven in the forward.

        Args:
            ids: token ids of each row.
            lives: each row's tenant, on the bank's encoder; None: through no adapter. Tenants
                beyond the rows are proven only.

        Returns:
            Embeddings [rows, hidden], and the tenants that failed, whose rows must not be used.
        """
        rows = [*ids]
        served = [None if live is None else live.served for live in lives[: len(ids)]]
        failed: dict[LiveTenant, EncoderMismatchError] = {}
        probed: dict[LiveTenant, slice] = {}
        for live in dict.fromkeys(lives):
            if live is None or self._has_passed(live.bundle_id):
                continue
            try:
                self.check(live.bundle_id)
                probes = probe_rows(bank.encoder, live.manifest.golden)
            except EncoderMismatchError as error:
                failed[live] = error
                continue
            probed[live] = slice(len(rows), len(rows) + len(probes))
            rows += probes
            served += [live.served] * len(probes)
        embedded = embed(bank, rows, served)
        for live, own in probed.items():
            try:
                check_probe_rows(bank.encoder, live.manifest.golden, embedded[own])
                self._briefly.add(live.bundle_id)
            except EncoderMismatchError as error:
                self._disproven[live.bundle_id] = str(error)
                failed[live] = error
        return embedded[: len(ids)], failed

    def _has_passed(self, bundle_id: str) -> bool:
        passed = bundle_id in self._briefly or bundle_id in self._wholly
        return passed and bundle_id not in self._disproven

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

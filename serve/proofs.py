"""Which bundles are proven to be active: each briefly before it answers, and wholly in time.

The proof on all probe sentences takes five times as long as the rest of a load. Digests say at
every load that a bundle is what its owner made, for this encoder's weights; what is left to show is
that its adapter is active in this process. One sentence shows that: moved as far as the manifest
says to within a fifth of the way, where the bare encoder does not move it at all. The others,
at other lengths, follow in the background.
"""

from adapterdistill.backbone import Embedder, Encoder
from adapterdistill.checkpoint import prove_active
from adapterdistill.errors import EncoderMismatchError
from adapterdistill.manifest import GoldenVectors
from serve.adapter_bank import Slot
from serve.live import Snapshot

PROVE_EVERY_S = 0.1
"""A whole proof takes 8 ms: 1,000 tenants take two minutes, at less than a tenth of a core."""


class Proofs:
    """Bundle ids that are proven on one encoder: the outcome follows from the content that an id
    names, so once is enough. Thread-safe."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._briefly: set[str] = set()
        self._wholly: set[str] = set()

    def prove(
        self, bundle_id: str, embedder: Embedder, golden: GoldenVectors, *, briefly: bool = False
    ) -> None:
        """Raises EncoderMismatchError."""
        if bundle_id in self._wholly or (briefly and bundle_id in self._briefly):
            return
        prove_active(self._encoder, embedder, golden, briefly=briefly)
        (self._briefly if briefly else self._wholly).add(bundle_id)

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

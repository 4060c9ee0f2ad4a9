"""Reads a bundle from the store, verifies it and, where asked, proves that it is active."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder
from adapterdistill.checkpoint import unpack_adapter
from adapterdistill.confidence import Calibration
from adapterdistill.data.schema import Faq
from adapterdistill.distill.method import Variant
from adapterdistill.distill.variants import unpack_variant
from adapterdistill.errors import AdapterDistillError, ServingError
from adapterdistill.evaluation.scorer import unpack_scorer
from adapterdistill.manifest import Manifest
from adapterdistill.serve.engine.adapter_bank import AdapterBank
from adapterdistill.serve.engine.banks import Banks
from adapterdistill.serve.engine.faq_index import FaqIndex, Index
from adapterdistill.serve.engine.live import tenant_of
from adapterdistill.serve.engine.proofs import Proofs
from adapterdistill.serve.engine.scorer_index import ScorerIndex
from adapterdistill.store import bundle as bundles

KeyFor = Callable[[str], bytes | None]
"""Gives a tenant's key, or None: it has none."""


def no_key(tenant: str) -> bytes | None:
    return None


@dataclass(frozen=True, eq=False)
class Loaded:
    """A verified bundle that has no place in memory yet."""

    bundle_id: str
    manifest: Manifest
    bank: AdapterBank
    """The bank of its encoder."""
    served: BottleneckAdapter | Variant
    index: Index
    faqs: tuple[Faq, ...]
    threshold: float
    calibration: Calibration | None


class Loader:
    """Reads bundles, each for the encoder that its manifest names, on any number of threads.

    Digests are checked at every load; that an adapter is active is proven once for each bundle.
    """

    def __init__(
        self,
        banks: Banks,
        store: bundles.Place,
        *,
        retry_refused_s: float,
        key_for: KeyFor = no_key,
    ) -> None:
        self.proofs = Proofs()
        self._banks = banks
        self._store = store
        self._key_for = key_for
        self._retry_refused_s = retry_refused_s
        self._refused: dict[str, tuple[str, float]] = {}  # key -> (bundle id, monotonic time)

    def was_refused(self, key: str, bundle_id: str) -> bool:
        """Whether the bundle was refused a moment ago and is not tried again yet."""
        refused_id, when = self._refused.get(key, (None, 0.0))
        return refused_id == bundle_id and time.monotonic() - when < self._retry_refused_s

    def refuse(self, key: str, bundle_id: str) -> None:
        """Never try this bundle again."""
        self._refused[key] = (bundle_id, math.inf)

    def load(self, key: str, bundle_id: str, *, prove: bool = True) -> Loaded:
        """The bundle to serve under a key of `serve.engine.live`.

        prove: whether its adapter is proven now, on all sentences, or with its first answer
            (`serve.engine.proofs`). A variant is always proven now.

        Raises:
            ServingError, EncoderMismatchError, InvalidPayloadError: it must not be served.
        """
        try:
            return self._load(tenant_of(key), bundle_id, prove)
        except AdapterDistillError:
            self._refused[key] = (bundle_id, time.monotonic())
            raise

    def _load(self, tenant: str, bundle_id: str, prove: bool) -> Loaded:
        self.proofs.check(bundle_id)
        bundle = bundles.read_bundle(self._store, tenant, bundle_id, key=self._key_for(tenant))
        manifest = bundle.manifest
        if manifest.kind != "bottleneck":
            raise ServingError(f"tenant {tenant}: adapters of kind {manifest.kind} are not served")
        bank = self._banks.of(manifest.encoder)
        served: BottleneckAdapter | Variant
        if bundle.variant is None:
            served = adapter = unpack_adapter(bundle.adapter_payload)
            bank.check(adapter)
            if prove:
                self.proofs.prove(bundle_id, bank.encoder, adapter, manifest.golden)
        else:
            served = self._load_variant(bundle.variant, bundle_id, bank.encoder)
        return Loaded(
            bundle_id=bundle_id,
            manifest=manifest,
            bank=bank,
            served=served,
            index=_index_of(bundle),
            faqs=tuple(bundle.faqs),
            threshold=bundle.threshold,
            calibration=bundle.calibration,
        )

    def _load_variant(
        self, bundled: bundles.BundledVariant, bundle_id: str, encoder: Encoder
    ) -> Variant:
        variant = unpack_variant(bundled.payload, encoder)
        if variant.settings.kind != bundled.proven.kind:
            raise ServingError(
                f"the bundle's variant is of kind {variant.settings.kind}, but its head says "
                f"{bundled.proven.kind}"
            )
        self.proofs.prove(bundle_id, encoder, variant.embedder, bundled.proven.golden)
        return variant


def _index_of(bundle: bundles.Bundle) -> Index:
    """What ranks the bundle's FAQs: its scorer, or else its vectors.

    Raises:
        ServingError: the scorer is malformed, or not of these FAQs and this encoder.
    """
    if bundle.scorer is None:
        return FaqIndex.of(bundle.vectors, bundle.faq_of_vector)
    scorer = unpack_scorer(bundle.scorer)
    wanted = (len(bundle.faqs), bundle.manifest.encoder.embedding_size)
    found = tuple(scorer.prototypes.shape)
    if found != wanted:
        raise ServingError(
            f"tenant {bundle.manifest.tenant}: the scorer's prototypes are {found}, the bundle "
            f"needs {wanted}: its FAQs, and its encoder's embedding size"
        )
    return ScorerIndex.of(scorer)

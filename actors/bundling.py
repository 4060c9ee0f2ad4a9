"""Puts what a tenant is served by, with its private FAQ index, live in its serving store."""

from pathlib import Path

from actors.records import Bundled
from adapterdistill import bundle as bundles
from adapterdistill.backbone import Embedder, Encoder
from adapterdistill.checkpoint import golden_vectors, unpack_adapter
from adapterdistill.confidence import Calibration
from adapterdistill.config import OnboardConfig
from adapterdistill.data import Faq
from adapterdistill.distill.forms import unpack_form
from adapterdistill.errors import ServingError
from adapterdistill.evaluation.evaluate import build_index
from adapterdistill.evaluation.rows import TenantRows
from adapterdistill.manifest import Manifest
from adapterdistill.release import live_bundle, set_live


def make_live(
    config: OnboardConfig,
    encoder: Encoder,
    *,
    manifest: Manifest,
    payload: bytes,
    form_payload: bytes | None,
    rows: TenantRows,
    faqs: list[Faq],
    threshold: float,
    calibration: Calibration | None,
) -> Bundled:
    """Write the tenant's bundle, indexed as it is served, and point the tenant at it.

    Args:
        payload: the adapter's.
        form_payload: of the form that is served in the adapter's place; None: the adapter is.
        threshold: top score under which what is served abstains.
        calibration: what its top scores are worth; None where no labelled row was held out.
    """
    embedder: Embedder
    if form_payload is None:
        bundled, embedder = None, unpack_adapter(payload)
    else:
        form = unpack_form(form_payload, encoder)
        embedder = form.embedder
        golden = golden_vectors(encoder, embedder)
        proven = bundles.ProvenForm(kind=form.settings.kind, golden=golden)
        bundled = bundles.BundledForm(proven, form_payload)
    vectors, faq_of_vector = build_index(encoder, embedder, rows.index(), rows.num_faqs)
    store = Path(config.serving_store)
    folder = bundles.write_bundle(
        store,
        bundles.Bundle(
            manifest=manifest,
            adapter_payload=payload,
            faqs=faqs,
            vectors=vectors,
            faq_of_vector=faq_of_vector,
            threshold=threshold,
            form=bundled,
            calibration=calibration,
        ),
    )
    set_live(store, config.tenant, folder.name)
    return Bundled(
        bundle=folder.name,
        threshold=threshold,
        index_vectors=len(vectors),
        calibration=calibration,
    )


def is_live(config: OnboardConfig, kept: Bundled) -> bool:
    """Whether the tenant still points at this bundle."""
    try:
        live = live_bundle(Path(config.serving_store), config.tenant)
    except ServingError:
        return False
    return live == kept.bundle

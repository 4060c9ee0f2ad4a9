"""Writes the serving bundle, with the private FAQ index, and makes it live or a candidate."""

import torch

from adapterdistill.actors.records import Bundled
from adapterdistill.backbone import Encoder
from adapterdistill.checkpoint import golden_vectors
from adapterdistill.confidence import Calibration
from adapterdistill.config import OnboardConfig
from adapterdistill.data import Faq
from adapterdistill.distill.variants import unpack_variant
from adapterdistill.errors import ServingError
from adapterdistill.evaluation.scorer import unpack_scorer
from adapterdistill.manifest import Manifest
from adapterdistill.store import bundle as bundles
from adapterdistill.store.release import (
    Candidate,
    has_release,
    live_bundle,
    put_up,
    read_release,
    set_live,
)
from adapterdistill.store.sealing import key_id


def put_into_service(
    config: OnboardConfig,
    encoder: Encoder,
    *,
    manifest: Manifest,
    payload: bytes,
    variant_payload: bytes | None,
    scorer: bytes,
    faqs: list[Faq],
    threshold: float,
    calibration: Calibration | None,
    promote: bool,
) -> Bundled:
    """Write the tenant's bundle, and make it live or a candidate, as the config says.

    Args:
        payload: the adapter's.
        variant_payload: the variant that is served in the adapter's place; None: the adapter is.
        scorer: packed; it ranks the FAQs, and was fitted on what is served.
        threshold: top score under which what is served abstains.
        calibration: what its top scores are worth; None where no labelled row was held out.
        promote: make it live, whatever the config says, also if it was rolled back.
    """
    bundled = None
    if variant_payload is not None:
        variant = unpack_variant(variant_payload, encoder)
        golden = golden_vectors(encoder, variant.embedder)
        proven = bundles.ProvenVariant(kind=variant.settings.kind, golden=golden)
        bundled = bundles.BundledVariant(proven, variant_payload)
    vectors = unpack_scorer(scorer).prototypes
    store = config.serving_store
    bundle_id = bundles.write_bundle(
        store,
        bundles.Bundle(
            manifest=manifest,
            adapter_payload=payload,
            faqs=faqs,
            vectors=vectors,
            faq_of_vector=torch.arange(len(vectors)),
            threshold=threshold,
            variant=bundled,
            scorer=scorer,
            calibration=calibration,
        ),
        key=bundles.key_of(config.serving_key),
    )
    candidate = _put_up(config, bundle_id, promote=promote)
    return Bundled(
        bundle=bundle_id,
        threshold=threshold,
        index_vectors=len(vectors),
        calibration=calibration,
        mode=candidate.mode if candidate else "live",
        share=candidate.share if candidate else None,
    )


def is_in_service(config: OnboardConfig, kept: Bundled, *, promote: bool) -> bool:
    """Whether the bundle is still live or that candidate, as the config or `promote` says.

    Changes by hand since then hold: another share, that it is live, or that it was rolled back.
    """
    key = bundles.key_of(config.serving_key)
    try:
        release = read_release(config.serving_store, config.tenant)
        contents = bundles.read_contents(config.serving_store, config.tenant, kept.bundle)
    except ServingError:
        return False
    if contents.key != (None if key is None else key_id(key)):
        return False
    wanted, candidate = config.release, release.candidate
    if release.bundle == kept.bundle:
        return True
    if promote or release.rolled_back_at(kept.bundle) is not None:
        return not promote
    as_wanted = (kept.mode, kept.share) == (wanted.mode, wanted.share)
    return as_wanted and candidate is not None and candidate.bundle == kept.bundle


def with_rollback(config: OnboardConfig, bundled: Bundled) -> Bundled:
    """The record with the time at which the bundle was rolled back, if it was."""
    at = read_release(config.serving_store, config.tenant).rolled_back_at(bundled.bundle)
    return bundled.model_copy(update={"rolled_back_at": at})


def _put_up(config: OnboardConfig, bundle_id: str, *, promote: bool) -> Candidate | None:
    """Make the bundle live, or a candidate, which is returned; neither if it was rolled back."""
    store, tenant, wanted = config.serving_store, config.tenant, config.release
    is_first = not has_release(store, tenant)
    if not (promote or is_first) and read_release(store, tenant).rolled_back_at(bundle_id):
        return None
    is_live = not is_first and live_bundle(store, tenant) == bundle_id
    if wanted.mode == "live" or promote or is_first or is_live:
        set_live(store, tenant, bundle_id)
        return None
    return put_up(store, tenant, bundle_id, mode=wanted.mode, share=wanted.share).candidate

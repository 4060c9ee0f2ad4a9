"""Serving bundles of random tenants for tests."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from adapterdistill.backbone import Embedder, Encoder
from adapterdistill.checkpoint import pack_adapter
from adapterdistill.confidence import Calibration
from adapterdistill.data.schema import Faq
from adapterdistill.evaluation.scorer import pack_scorer, unpack_scorer
from adapterdistill.store.bundle import (
    NEVER_ABSTAIN,
    Bundle,
    Place,
    blob_key,
    read_contents,
    write_bundle,
)
from adapterdistill.store.release import set_live
from adapterdistill.testbed.random_adapters import random_manifest
from tests.random_scorers import random_scorer
from tests.tiny_encoders import random_adapter
from tests.tiny_encoders import save_tiny_encoder as save_tiny_encoder


@dataclass(frozen=True)
class MadeTenant:
    """A tenant as its maker knows it: the reference that a server's answers are held to."""

    tenant: str
    adapter: Embedder
    """What it is served by."""
    bundle: Bundle

    def expected(self, encoder: Encoder, text: str) -> list[tuple[str, float]]:
        """(faq_id, score) of every FAQ, best first: this tenant alone, by brute force."""
        query = encoder.embed_texts([text], self.adapter)[0].double()
        if self.bundle.scorer is not None:
            [total] = unpack_scorer(self.bundle.scorer)(query.float()[None], [text]).total.tolist()
            best = sorted(range(len(total)), key=lambda faq: -total[faq])
            return [(self.bundle.faqs[faq].faq_id, total[faq]) for faq in best]
        scores: dict[int, float] = {}
        for vector, faq in zip(
            self.bundle.vectors.double(), self.bundle.faq_of_vector.tolist(), strict=True
        ):
            scores[faq] = max(scores.get(faq, -2.0), float(query @ vector))
        order = sorted(scores, key=lambda faq: (-scores[faq], faq))
        return [(self.bundle.faqs[faq].faq_id, scores[faq]) for faq in order]


@cache
def make_tenant(
    encoder: Encoder,
    tenant: str,
    *,
    seed: int,
    num_faqs: int = 5,
    bottleneck_size: int = 6,
    threshold: float = NEVER_ABSTAIN,
    calibration: Calibration | None = None,
    scorer: bool = False,
) -> MadeTenant:
    """A tenant with a random adapter; FAQ n has n % 3 + 1 random vectors. `scorer`: a random
    one."""
    adapter = random_adapter(encoder, seed=seed, bottleneck_size=bottleneck_size)
    payload = pack_adapter(adapter, model_name=encoder.ref.name)
    owner = [n for n in range(num_faqs) for _ in range(n % 3 + 1)]
    draws: Tensor = torch.randn(
        len(owner), encoder.embedding_size, generator=torch.Generator().manual_seed(seed)
    )
    bundle = Bundle(
        manifest=random_manifest(encoder, adapter, payload, tenant=tenant),
        adapter_payload=payload,
        faqs=[
            Faq(f"{tenant}-{n}", f"question {n} of {tenant}", f"answer {n}" if n % 2 else None)
            for n in range(num_faqs)
        ],
        vectors=torch.nn.functional.normalize(draws, dim=-1),
        faq_of_vector=torch.tensor(owner),
        threshold=threshold,
        calibration=calibration,
        scorer=pack_scorer(random_scorer(num_faqs, encoder.embedding_size, seed=seed))
        if scorer
        else None,
    )
    return MadeTenant(tenant, adapter, bundle)


def put_live(store: Place, made: MadeTenant) -> str:
    """Write a tenant's bundle and make it live; return its id."""
    bundle_id = write_bundle(store, made.bundle)
    set_live(store, made.tenant, bundle_id)
    return bundle_id


def stored_file(store: Path, tenant: str, bundle_id: str, name: str) -> Path:
    """The path of a bundle's file in a folder."""
    return store / blob_key(tenant, read_contents(store, tenant, bundle_id).files[name].sha256)


def write_damaged_release(store: Path, tenant: str, text: str) -> None:
    """Write any text as a tenant's release, and say that something changed."""
    store.joinpath("live").mkdir(exist_ok=True)
    store.joinpath("live", f"{tenant}.json").write_text(text)
    store.joinpath("changed").write_text(text + str(len(text)))

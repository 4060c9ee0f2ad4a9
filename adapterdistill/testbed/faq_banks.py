"""Hundreds of tenants to serve: FAQ banks with an adapter each."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder
from adapterdistill.checkpoint import golden_vectors, pack_adapter
from adapterdistill.data.schema import Faq
from adapterdistill.errors import DataError
from adapterdistill.manifest import GoldenVectors
from adapterdistill.store.bundle import NEVER_ABSTAIN, Bundle, write_bundle
from adapterdistill.store.release import set_live
from adapterdistill.testbed.progress import phase
from adapterdistill.testbed.random_adapters import random_manifest


@dataclass(frozen=True)
class Bank:
    """A tenant's FAQ page, with texts that ask for known entries of it."""

    tenant: str
    faqs: tuple[Faq, ...]
    asked: tuple[tuple[str, str], ...]
    """(text, faq_id): answers stand for queries where a page has no queries."""


def read_banks(folder: Path, count: int) -> list[Bank]:
    """The first `count` tenants of `folder`, by name; where it has fewer, they come again.

    Args:
        folder: holds `faqs.jsonl` of all tenants, with the columns tenant, faq_id, question and
            answer, or folders of tenants.

    Raises:
        DataError: there is no such folder, or no tenant in it.
    """
    files = [folder / "faqs.jsonl"]
    if not files[0].is_file():
        files = sorted(folder.glob("*/faqs.jsonl"))
    rows_of: dict[str, list[dict[str, str]]] = {}
    for file in files:
        for line in file.read_text().splitlines():
            row = json.loads(line)
            rows_of.setdefault(row.get("tenant", file.parent.name), []).append(row)
    if not rows_of:
        raise DataError("serving benchmark: expected faqs.jsonl in the folder of data, or tenants")
    names = sorted(rows_of)
    return [_bank(names[n % len(names)], n // len(names), rows_of) for n in range(count)]


def _bank(name: str, copy: int, rows_of: dict[str, list[dict[str, str]]]) -> Bank:
    rows = rows_of[name]
    allowed = re.sub("[^a-z0-9._-]", "0", name.lower())
    return Bank(
        tenant=f"{allowed}.copy-{copy}" if copy else allowed,
        faqs=tuple(Faq(row["faq_id"], row["question"], row.get("answer")) for row in rows),
        asked=tuple((row.get("answer") or row["question"], row["faq_id"]) for row in rows),
    )


def fill_store(
    store: Path,
    banks: Sequence[Bank],
    encoder: Encoder,
    adapters: Sequence[BottleneckAdapter],
    *,
    threshold: float = NEVER_ABSTAIN,
) -> None:
    """Make a live bundle for every bank, with `adapters` in turn.

    Tenants that share an adapter still have a slot each, as if all differed.
    """
    packed = [
        (adapter, pack_adapter(adapter, model_name=encoder.ref.name), golden)
        for adapter in adapters
        for golden in [golden_vectors(encoder, adapter)]
    ]
    with phase("tenants' bundles", len(banks)) as done:
        for place, bank in enumerate(banks):
            adapter, payload, golden = packed[place % len(packed)]
            vectors = encoder.embed_texts([faq.question for faq in bank.faqs], adapter)
            put_bundle(store, bank, encoder, adapter, payload, golden, vectors, threshold=threshold)
            done()


def put_bundle(
    store: Path,
    bank: Bank,
    encoder: Encoder,
    adapter: BottleneckAdapter,
    payload: bytes,
    golden: GoldenVectors,
    vectors: Tensor,
    *,
    threshold: float = NEVER_ABSTAIN,
) -> None:
    """Make a bundle of the bank with this adapter and one vector an FAQ, and set it live."""
    bundle = Bundle(
        manifest=random_manifest(encoder, adapter, payload, tenant=bank.tenant, golden=golden),
        adapter_payload=payload,
        faqs=list(bank.faqs),
        vectors=vectors,
        faq_of_vector=torch.arange(len(bank.faqs)),
        threshold=threshold,
    )
    set_live(store, bank.tenant, write_bundle(store, bundle))

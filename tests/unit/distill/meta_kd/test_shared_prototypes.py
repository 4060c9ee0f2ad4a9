"""What owners share for Meta-KD, what it is read as, and the head that their adapters agree on."""

import json

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from adapterdistill.distill.meta_kd.formulas import Prototypes
from adapterdistill.distill.meta_kd.shared_prototypes import (
    SHARPNESS,
    PrototypeHead,
    prototypes_in,
    read_prototypes,
    share_prototypes,
)
from adapterdistill.errors import ConfigError, InvalidManifestError
from adapterdistill.manifest import MAX_PROTOTYPE_BYTES, Manifest, SharedPrototypes
from adapterdistill.registry.admission.admission import parse_manifest
from tests.unit.registry.samples import HIDDEN, sample

CLASSES = ("neg", "pos")
LABELS = torch.tensor([0, 1, 1, 0, 1, 0])


def embeddings(seed: int) -> torch.Tensor:
    drawn = torch.randn(6, 8, generator=torch.Generator().manual_seed(seed))
    return F.normalize(drawn, dim=-1)


def test_owners_records_joined_are_the_prototypes_of_all_rows_together() -> None:
    shared = [share_prototypes(embeddings(seed), LABELS, CLASSES) for seed in (0, 1, 2)]
    found = read_prototypes(shared, CLASSES, width=8)
    together = Prototypes.of(
        torch.cat([embeddings(seed) for seed in (0, 1, 2)]), LABELS.repeat(3),
        torch.arange(3).repeat_interleave(6), num_classes=2, num_domains=3,
    )  # fmt: skip
    assert torch.equal(found.counts, together.counts)
    assert torch.allclose(found.means, together.means, atol=1e-3)  # float16


def test_rows_are_clipped_and_a_mean_is_noised_only_where_asked() -> None:
    clipped = share_prototypes(5 * embeddings(0), LABELS, CLASSES)
    assert clipped == share_prototypes(embeddings(0), LABELS, CLASSES)
    assert clipped.noise == 0.0 and sum(clipped.counts) == 6
    noised = share_prototypes(embeddings(0), LABELS, CLASSES, noise=0.5, seed=7)
    assert noised.noise == 0.5 and noised.means != clipped.means
    assert noised.counts == clipped.counts


def test_an_owner_without_rows_shares_that_it_has_none() -> None:
    none = share_prototypes(torch.empty(0, 8), torch.empty(0, dtype=torch.int64), CLASSES)
    assert none.counts == (0, 0)
    found = read_prototypes(
        [share_prototypes(embeddings(0), LABELS, CLASSES), none], CLASSES, width=8
    )
    assert not found.means[1].any()


def test_a_class_with_one_row_is_shared_as_one_without_rows() -> None:
    """Its mean would be that row's embedding."""
    labels = torch.tensor([0, 0, 1])
    one = share_prototypes(embeddings(0)[:3], labels, CLASSES)
    assert one.counts == (2, 0)
    assert not prototypes_in(one).means[0, 1].any() and prototypes_in(one).means[0, 0].any()


def test_records_that_do_not_fit_are_refused_with_what_to_change() -> None:
    one = share_prototypes(embeddings(0), LABELS, CLASSES)
    with pytest.raises(ConfigError, match=r"prototypes of 1: fetch adapters whose manifests"):
        read_prototypes([one], CLASSES, width=8)
    other = share_prototypes(embeddings(0), LABELS, ("neg", "zest"))
    with pytest.raises(ConfigError, match=r"prototypes 1 are of 2 classes .*leave their owner out"):
        read_prototypes([one, other], CLASSES, width=8)
    with pytest.raises(ConfigError, match="prototypes 0 are of 2 classes and width 8, not"):
        read_prototypes([one, one], CLASSES, width=16)
    no_pos = share_prototypes(embeddings(0)[:2], LABELS[:1].repeat(2), CLASSES)
    with pytest.raises(ConfigError, match="no domain has rows of class 'pos'"):
        read_prototypes([no_pos, no_pos], CLASSES, width=8)


@pytest.mark.parametrize(
    "change",
    [
        {"classes": ("neg",)},
        {"classes": ("neg", "neg")},
        {"classes": ("neg", "")},
        {"counts": (3,)},
        {"counts": (3, -1)},
        {"domains": 2},
        {"domains": 0},
        {"width": 7},
        {"means": "A" * 43},
        {"means": "not base64!"},
        {"means": "AHwAfAB8AHwAfAB8AHwAfAB8AHwAfAB8AHwAfAB8AHw="},  # infinities
        {"noise": -0.1},
        {"noise": float("nan")},
    ],
)
def test_a_malformed_record_is_refused(change: dict[str, object]) -> None:
    one = share_prototypes(embeddings(0), LABELS, CLASSES).model_dump()
    SharedPrototypes.model_validate(one)
    with pytest.raises(ValidationError):
        SharedPrototypes.model_validate({**one, **change})


def test_a_record_is_bounded() -> None:
    width = MAX_PROTOTYPE_BYTES // 4
    rows = torch.zeros(2, width)
    share_prototypes(rows, LABELS[:2], CLASSES)
    with pytest.raises(ValidationError, match="means must be domains x classes x width"):
        share_prototypes(torch.zeros(2, width + 1), LABELS[:2], CLASSES)


def test_a_record_travels_in_the_manifest_and_leaves_no_trace_where_absent() -> None:
    rows = F.normalize(torch.randn(6, HIDDEN, generator=torch.Generator().manual_seed(0)), dim=-1)
    shared = share_prototypes(rows, LABELS, CLASSES, noise=0.2, seed=3)
    manifest, _ = sample(0, prototypes=shared)
    assert parse_manifest(manifest.canonical_json()).prototypes == shared
    without, _ = sample(0)
    assert b"prototypes" not in without.canonical_json()
    narrow = share_prototypes(rows[:, :-1], LABELS, CLASSES)
    text = json.dumps({**json.loads(manifest.canonical_json()), "prototypes": narrow.model_dump()})
    with pytest.raises(InvalidManifestError, match=r"manifest refused: invalid \(whole\)"):
        Manifest.from_json(text)
    broken = {**json.loads(shared.canonical_json()), "counts": [1]}
    text = json.dumps({**json.loads(manifest.canonical_json()), "prototypes": broken})
    with pytest.raises(InvalidManifestError, match="invalid prototypes"):
        Manifest.from_json(text)


def test_the_head_is_nearest_centre_of_the_domains_prototypes() -> None:
    shared = [share_prototypes(embeddings(seed), LABELS, CLASSES) for seed in (0, 1, 2)]
    prototypes = read_prototypes(shared, CLASSES, width=8)
    head, pooled = PrototypeHead(prototypes), 3 * embeddings(5)
    centres = prototypes.means.double().mean(0)
    unit = F.normalize(pooled.double(), dim=-1)
    far = -SHARPNESS / 2 * (unit[:, None] - centres[None]).square().sum(-1)
    found = head(pooled).softmax(-1).double()
    assert torch.allclose(found, far.softmax(-1), atol=1e-5)
    assert not list(head.parameters())
    absent = Prototypes(prototypes.means.clone(), prototypes.counts.clone())
    absent.means[0, 1], absent.counts[0, 1] = 0.0, 0
    assert torch.allclose(PrototypeHead(absent).centres[1], absent.means[1:, 1].mean(0), atol=1e-6)

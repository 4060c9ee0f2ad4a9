"""Fingerprints and the choice by them, against formulas in float64 and brute force."""

import base64
import json
from typing import Any

import numpy as np
import pytest
import torch

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder, load_encoder, pack
from adapterdistill.errors import EncoderMismatchError, InvalidManifestError
from adapterdistill.manifest import FINGERPRINT_BYTES, Fingerprint, Manifest
from adapterdistill.selection import (
    NEAR_COPY,
    STEPS_PER_DEVIATION,
    TOLERANCE,
    Probes,
    by_relevance,
    probe_sha256,
    probe_texts,
)
from tests.tiny_encoders import random_adapter
from tests.unit.registry.samples import sample


@pytest.fixture(scope="module")
def probes(tiny_encoder: Encoder) -> Probes:
    return Probes(tiny_encoder)


def values_of(fingerprint: Fingerprint) -> np.ndarray[Any, Any]:
    return np.frombuffer(fingerprint.to_bytes(), dtype=np.int8).astype(np.float64)


def fingerprint_of(values: np.ndarray[Any, Any]) -> Fingerprint:
    return Fingerprint.of(probe_sha256(), values.astype(np.int8).tobytes())


def random_values(count: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(-127, 128, size=(count, FINGERPRINT_BYTES))


def random_profile(seed: int = 0) -> torch.Tensor:
    draw = np.random.default_rng(1000 + seed).normal(size=FINGERPRINT_BYTES)
    draw -= draw.mean()
    return torch.from_numpy(draw / np.linalg.norm(draw)).float()


def test_the_probes_are_as_many_as_a_fingerprint_has_bytes_short_and_all_different() -> None:
    texts = probe_texts()
    assert len(texts) == len(set(texts)) == FINGERPRINT_BYTES
    assert all(5 <= len(text) <= 80 and text == text.strip() for text in texts)


def test_a_fingerprint_is_the_formula_text_by_text_in_float64(
    tiny_encoder: Encoder, probes: Probes
) -> None:
    """So it does not depend on how the probes were batched either."""
    adapter = random_adapter(tiny_encoder, seed=3)
    down = adapter.down_weight.double().numpy()
    read = []
    for ids in tiny_encoder.tokenize(probe_texts()):
        seen: list[np.ndarray[Any, Any]] = []

        def keep(layer: int, x: torch.Tensor, seen: list[Any] = seen) -> torch.Tensor:
            seen.append(x.double().numpy())
            return torch.zeros_like(x)

        tiny_encoder.hidden(pack([ids]), keep)
        norms = [np.linalg.norm(x @ d.T, axis=1) for x, d in zip(seen, down, strict=True)]
        read.append(sum(norms).mean())
    expected = STEPS_PER_DEVIATION * (np.array(read) - np.mean(read)) / np.std(read, ddof=1)
    found = values_of(probes.fingerprint(adapter))
    assert np.abs(found - expected.clip(-127, 127)).max() < 0.51
    assert np.abs(found).max() > STEPS_PER_DEVIATION


def test_a_fingerprint_is_the_same_every_time_and_whatever_the_adapters_scale(
    tiny_encoder: Encoder, probes: Probes
) -> None:
    adapter = random_adapter(tiny_encoder, seed=3)
    fingerprint = probes.fingerprint(adapter)
    assert Probes(tiny_encoder).fingerprint(adapter) == fingerprint
    louder = BottleneckAdapter(*(4 * p.detach() for p in adapter.parameters()))
    assert probes.fingerprint(louder) == fingerprint
    assert probes.fingerprint(random_adapter(tiny_encoder, seed=4)) != fingerprint


def test_the_probes_lie_where_the_encoder_does(tiny_encoder: Encoder) -> None:
    elsewhere = tiny_encoder.weights.copied_to(torch.device("meta"), torch.float32)
    Probes(tiny_encoder.with_weights(elsewhere))  # tensors of two devices do not mix


def test_an_adapter_that_reads_nothing_has_a_fingerprint_of_zeros(
    tiny_encoder: Encoder, probes: Probes
) -> None:
    fingerprint = probes.fingerprint(random_adapter(tiny_encoder, seed=1, scale=0.0))
    assert set(values_of(fingerprint)) == {0}


def test_another_dtype_stays_far_within_the_tolerance(minilm: Encoder) -> None:
    adapter = random_adapter(minilm, seed=5, scale=0.02)
    coarse = Probes(load_encoder(dtype="bfloat16"))
    fingerprint = Probes(minilm).fingerprint(adapter)
    worst = np.abs(values_of(fingerprint) - values_of(coarse.fingerprint(adapter))).max()
    assert worst <= TOLERANCE / 2
    coarse.prove(adapter, fingerprint)


def test_an_adapter_is_proved_by_its_own_fingerprint_alone(
    tiny_encoder: Encoder, probes: Probes
) -> None:
    adapter = random_adapter(tiny_encoder, seed=3)
    fingerprint = probes.fingerprint(adapter)
    probes.prove(adapter, fingerprint)
    values = values_of(fingerprint)
    step = -1 if values[17] > 0 else 1
    values[17] += step * TOLERANCE
    probes.prove(adapter, fingerprint_of(values))
    values[17] += step
    with pytest.raises(EncoderMismatchError, match=f"to {TOLERANCE + 1} steps other than its fin"):
        probes.prove(adapter, fingerprint_of(values))
    # Nothing can be said of a fingerprint of probes that are not at hand.
    probes.prove(adapter, Fingerprint.of("0" * 64, values.astype(np.int8).tobytes()))


def test_a_fingerprint_survives_the_manifest(tiny_encoder: Encoder, probes: Probes) -> None:
    fingerprint = probes.fingerprint(random_adapter(tiny_encoder, seed=3))
    manifest, _ = sample(1, fingerprint=fingerprint)
    text = manifest.canonical_json()
    assert Manifest.from_json(text) == manifest
    assert Manifest.from_json(text).fingerprint == fingerprint
    assert len(text) - len(sample(1)[0].canonical_json()) < 500


def test_a_manifest_without_a_fingerprint_keeps_its_bytes() -> None:
    manifest, _ = sample(1)
    assert manifest.fingerprint is None
    assert "signature" not in json.loads(manifest.canonical_json())
    assert Manifest.from_json(manifest.canonical_json()) == manifest


@pytest.mark.parametrize(
    "values",
    [
        base64.b64encode(bytes(FINGERPRINT_BYTES - 1)).decode(),
        base64.b64encode(bytes(1_000_000)).decode(),
        base64.b64encode(bytes(FINGERPRINT_BYTES)).decode().rstrip("="),
        base64.b64encode(bytes(FINGERPRINT_BYTES)).decode() + "\n",
        "*" * 344,
        "",
        "NaN",
        float("nan"),
        [0.0] * FINGERPRINT_BYTES,
        None,
    ],
    ids=["short", "huge", "unpadded", "newline", "symbols", "empty", "word", "nan", "list", "null"],
)
def test_a_malformed_fingerprint_is_refused_by_name(values: object) -> None:
    fields = json.loads(sample(1)[0].canonical_json())
    fields["signature"] = {"probe_sha256": "a" * 64, "values": values}
    with pytest.raises(InvalidManifestError, match=r"signature\.values|\(whole\)"):
        Manifest.from_json(json.dumps(fields))


@pytest.mark.parametrize("values", [b"", bytes(255), bytes(257)])
def test_raw_values_of_a_wrong_length_are_refused(values: bytes) -> None:
    with pytest.raises(InvalidManifestError, match=f"256 bytes, got {len(values)}"):
        Fingerprint.of(probe_sha256(), values)


def less_what_all_share(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    own = values - values.mean(1, keepdims=True)
    own = own / np.linalg.norm(own, axis=1, keepdims=True)
    return np.asarray(own - own.mean(0))


@pytest.mark.parametrize("seed", range(5))
def test_the_order_is_that_of_brute_force(seed: int) -> None:
    values, profile = random_values(40, seed), random_profile(seed)
    own = less_what_all_share(values)
    relevance = [np.corrcoef(row, profile.numpy())[0, 1] for row in own]
    expected = sorted(range(40), key=lambda i: -relevance[i])
    assert list(by_relevance(profile, [fingerprint_of(row) for row in values])) == expected


def test_ties_keep_their_order() -> None:
    fingerprints = [fingerprint_of(np.zeros(FINGERPRINT_BYTES))] * 7
    assert list(by_relevance(random_profile(), fingerprints)) == list(range(7))


def test_ties_among_others_keep_their_order() -> None:
    """As an unstable sort does not. Every number here is exact, so that the ties are."""
    halves = np.tile(np.repeat([64, -64], FINGERPRINT_BYTES // 2), (10, 1))
    halves = np.random.default_rng(0).permuted(halves, axis=1)
    values = np.zeros((40, FINGERPRINT_BYTES))
    values[::2] = [*halves, *-halves]
    found = list(by_relevance(random_profile(), [fingerprint_of(row) for row in values]))
    assert [place for place in found if place % 2] == list(range(1, 40, 2))


def test_near_copies_come_after_all_others() -> None:
    values, random = random_values(12), np.random.default_rng(0)
    order = list(by_relevance(random_profile(), [fingerprint_of(row) for row in values]))
    best = values[order[0]]
    copies = [(best + random.integers(-6, 7, best.shape)).clip(-127, 127) for _ in range(30)]
    rows = [*copies, *(row for i, row in enumerate(values) if i != order[0])]
    found = list(by_relevance(random_profile(), [fingerprint_of(row) for row in rows]))
    assert sorted(found) == list(range(41))
    assert found[0] < 30
    assert set(found[1:12]) == set(range(30, 41))
    assert set(found[12:]) < set(range(30))


def test_copies_are_put_off_wherever_others_come_between_them() -> None:
    values, profile = random_values(12), random_profile()
    noise = np.random.default_rng(0).integers(-20, 21, size=(4, *values.shape))
    rows = (values + noise).clip(-127, 127).reshape(-1, FINGERPRINT_BYTES)
    own = less_what_all_share(rows)
    alike = np.corrcoef(own) > NEAR_COPY
    relevance = [np.corrcoef(row, profile.numpy())[0, 1] for row in own]
    first: list[int] = []
    put_off: list[int] = []
    for place in sorted(range(48), key=lambda place: -relevance[place]):
        (put_off if any(alike[place, first]) else first).append(place)
    assert len(first) == 12
    assert list(by_relevance(profile, [fingerprint_of(row) for row in rows])) == first + put_off


def test_those_without_a_comparable_fingerprint_come_last_as_they_were_listed() -> None:
    mine = fingerprint_of(random_values(1)[0])
    other = Fingerprint.of("0" * 64, mine.to_bytes())
    found = list(by_relevance(random_profile(), [None, mine, other, None, mine]))
    assert found == [1, 4, 0, 2, 3]
    assert list(by_relevance(random_profile(), [None, None])) == [0, 1]
    assert list(by_relevance(random_profile(), [])) == []


def test_the_profile_of_a_probe_peaks_at_it(tiny_encoder: Encoder, probes: Probes) -> None:
    for place in (0, 40, 255):
        profile = probes.profile(tiny_encoder.tokenize(probe_texts()[place : place + 1]))
        assert abs(float(profile.sum())) < 1e-4 and abs(float(profile.norm()) - 1) < 1e-4
        assert int(profile.argmax()) == place


def test_the_adapter_that_reads_a_tenants_subject_comes_first(minilm: Encoder) -> None:
    """Adapters whose down-projections are the hidden states of a few texts of one subject."""
    subjects = (
        ["is my cat allowed to eat eggs", "our puppy limps on one paw"],
        ["the parcel was left at a wrong house", "my delivery is a week late"],
        ["which bus goes to the airport", "the tram was cancelled again"],
    )
    probes = Probes(minilm)
    fingerprints = []
    for texts in subjects:
        seen: list[torch.Tensor] = []

        def keep(layer: int, x: torch.Tensor, seen: list[torch.Tensor] = seen) -> torch.Tensor:
            seen.append(x)
            return torch.zeros_like(x)

        minilm.hidden(pack(minilm.tokenize(texts)), keep)
        down = torch.stack([x[:8] - x.mean(0) for x in seen])
        adapter = random_adapter(minilm, seed=0, bottleneck_size=8)
        reader = BottleneckAdapter(
            down, *(p.detach() for name, p in adapter.named_parameters() if name != "down_weight")
        )
        fingerprints.append(probes.fingerprint(reader))
    asked = ["a kitten with a cough", "when will my shipment arrive", "when does the next train go"]
    for subject, text in enumerate(asked):
        profile = probes.profile(minilm.tokenize([text]))
        assert next(by_relevance(profile, fingerprints)) == subject

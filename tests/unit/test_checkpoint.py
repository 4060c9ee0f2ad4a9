"""Adapters as bytes, and the proof that loaded bytes are active."""

import io
import json
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder, load_encoder, pack
from adapterdistill.checkpoint import (
    GOLDEN_TOLERANCE,
    adapter_config,
    check_probe_rows,
    golden_vectors,
    load_proven,
    pack_adapter,
    probe_rows,
    probe_sentences,
    prove_active,
    state_digest,
    telling_probes,
    tensor_specs,
    unpack_adapter,
)
from adapterdistill.errors import EncoderMismatchError, InvalidPayloadError
from adapterdistill.manifest import GoldenVectors
from adapterdistill.testbed.random_adapters import random_manifest
from tests.tiny_encoders import random_adapter, save_tiny_encoder

SHAPES = {
    "down.weight": (2, 3, 8),
    "down.bias": (2, 3),
    "up.weight": (2, 8, 3),
    "up.bias": (2, 8),
}


def tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def made(encoder: Encoder, *, seed: int, move: float) -> BottleneckAdapter:
    """An adapter of a trained one's strength: moves the probes by `move` on average."""
    adapter = random_adapter(encoder, seed=seed, bottleneck_size=24, scale=0.02)
    probes = probe_sentences()
    bare = encoder.embed_texts(probes)
    low, high = 0.1, 40.0
    start = adapter.up_weight.clone()
    for _ in range(8):
        scale = (low * high) ** 0.5
        adapter.up_weight.copy_(start * scale)
        moved = float((encoder.embed_texts(probes, adapter) - bare).norm(dim=-1).mean())
        low, high = (scale, high) if moved < move else (low, scale)
    assert moved == pytest.approx(move, rel=0.1)
    return adapter


def test_what_is_packed_comes_back_exactly(tiny_encoder: Encoder) -> None:
    adapter = random_adapter(tiny_encoder, seed=1)
    again = unpack_adapter(pack_adapter(adapter, model_name="tiny"))
    for one, other in zip(adapter.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other) and other.dtype == torch.float32


def test_equal_adapters_give_equal_bytes_and_others_do_not(tiny_encoder: Encoder) -> None:
    payloads = {
        pack_adapter(random_adapter(tiny_encoder, seed=1).copy(), model_name="tiny")
        for _ in range(20)
    }
    assert len(payloads) == 1
    adapter = random_adapter(tiny_encoder, seed=1)
    adapter.up_bias[1, 7] += 1e-3
    assert pack_adapter(adapter, model_name="tiny") not in payloads


def test_a_payload_names_its_tensors_and_configuration(tiny_encoder: Encoder) -> None:
    adapter = random_adapter(tiny_encoder, seed=1, bottleneck_size=4)
    payload = pack_adapter(adapter, model_name="tiny")
    header = json.loads(payload[8 : 8 + int.from_bytes(payload[:8], "little")])
    assert set(header.pop("__metadata__")) == {"adapter_config"}
    specs = tensor_specs(adapter)
    assert {name: (h["dtype"], tuple(h["shape"])) for name, h in header.items()} == {
        name: (spec.dtype, spec.shape) for name, spec in specs.items()
    }
    assert specs["down.weight"].shape == (2, 4, 32)


def test_the_configuration_has_the_adapters_library_s_keys(
    tiny_encoder: Encoder, tmp_path: Path
) -> None:
    payload = pack_adapter(random_adapter(tiny_encoder, seed=1, bottleneck_size=4), model_name="m")
    (tmp_path / "payload").write_bytes(payload)
    with safe_open(tmp_path / "payload", framework="pt") as file:
        config = json.loads(file.metadata()["adapter_config"])
    assert (config["model_name"], config["hidden_size"]) == ("m", 32)
    seq_bn = config["config"]
    assert (seq_bn["reduction_factor"], seq_bn["non_linearity"]) == (8.0, "relu")
    assert seq_bn["output_adapter"] and not seq_bn["mh_adapter"]
    assert seq_bn["original_ln_before"] and seq_bn["original_ln_after"]
    assert seq_bn["residual_before_ln"] and not seq_bn["adapter_residual_before_ln"]
    assert not seq_bn["is_parallel"] and seq_bn["scaling"] == 1.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_payloads_load_as_float32(dtype: torch.dtype) -> None:
    halves = {name: value.to(dtype) for name, value in tensors().items()}
    adapter = unpack_adapter(safetensors.torch.save(halves))
    assert torch.equal(adapter.up_weight, halves["up.weight"].float())


def bad_payloads() -> dict[str, bytes]:
    def changed(**changes: Tensor | None) -> bytes:
        kept = {**tensors(), **{name.replace("_", "."): v for name, v in changes.items()}}
        return safetensors.torch.save({n: v for n, v in kept.items() if v is not None})

    good = changed()
    nan, infinite = tensors()["up.bias"], tensors()["up.bias"]
    nan[1, 2], infinite[0, 0] = float("nan"), float("-inf")
    torch_file = io.BytesIO()
    torch.save(tensors(), torch_file)
    return {
        "empty": b"",
        "noise": bytes(range(256)) * 4,
        "pickle": pickle.dumps({"down.weight": [1.0]}),
        "torch file": torch_file.getvalue(),
        "truncated header": good[:20],
        "truncated tensors": good[:-1],
        "longer": good + b"\0",
        "header past the end": (1 << 40).to_bytes(8, "little") + good[8:],
        "missing": changed(up_bias=None),
        "extra": changed(gate_weight=torch.zeros(1)),
        "nan": changed(up_bias=nan),
        "infinite": changed(up_bias=infinite),
        "float64": changed(up_bias=torch.zeros(2, 8, dtype=torch.float64)),
        "integers": changed(up_bias=torch.zeros(2, 8, dtype=torch.int32)),
        "transposed": changed(up_weight=torch.zeros(2, 3, 8)),
        "layers differ": changed(down_bias=torch.zeros(3, 3)),
        "flat": changed(down_weight=torch.zeros(48)),
        "no layers": safetensors.torch.save(
            {name: torch.zeros(0, *shape[1:]) for name, shape in SHAPES.items()}
        ),
    }


@pytest.mark.parametrize("fault", list(bad_payloads()))
def test_a_payload_that_is_no_adapter_is_refused(fault: str) -> None:
    with pytest.raises(InvalidPayloadError):
        unpack_adapter(bad_payloads()[fault])


def test_every_truncation_is_refused() -> None:
    good = safetensors.torch.save(tensors())
    for length in range(0, len(good), 7):
        with pytest.raises(InvalidPayloadError):
            unpack_adapter(good[:length])


def test_the_adapter_at_work_passes_its_proof(tiny_encoder: Encoder) -> None:
    adapter = random_adapter(tiny_encoder, seed=1)
    golden = golden_vectors(tiny_encoder, adapter)
    assert len(golden.distances) == len(probe_sentences()) and min(golden.distances) > 0.1
    prove_active(tiny_encoder, unpack_adapter(pack_adapter(adapter, model_name="t")), golden)


def test_golden_distances_are_between_unit_vectors(tiny_encoder: Encoder) -> None:
    adapter = random_adapter(tiny_encoder, seed=1)
    for text, distance in zip(
        probe_sentences(), golden_vectors(tiny_encoder, adapter).distances, strict=True
    ):
        one, two = (tiny_encoder.embed_texts([text], d)[0].double() for d in (None, adapter))
        assert distance == pytest.approx(float((2 - 2 * (one @ two)) ** 0.5), abs=1e-4)


def test_another_adapter_none_and_another_encoder_fail_the_proof(
    tiny_encoder: Encoder, tmp_path_factory: pytest.TempPathFactory
) -> None:
    adapter = random_adapter(tiny_encoder, seed=1)
    golden = golden_vectors(tiny_encoder, adapter)
    silent = adapter.copy().requires_grad_(False)
    silent.up_weight.zero_()
    silent.up_bias.zero_()
    other = save_tiny_encoder(tmp_path_factory.mktemp("other"), seed=7)
    for encoder, delta in (
        (tiny_encoder, random_adapter(tiny_encoder, seed=2)),
        (tiny_encoder, silent),
        (load_encoder(str(other), dtype="float32"), adapter),
    ):
        with pytest.raises(EncoderMismatchError, match="tolerance"):
            prove_active(encoder, delta, golden)


def test_one_probe_sentence_tells_none_and_another_encoder_from_the_adapter(
    tiny_encoder: Encoder, tmp_path_factory: pytest.TempPathFactory
) -> None:
    adapter = random_adapter(tiny_encoder, seed=1)
    golden = golden_vectors(tiny_encoder, adapter)
    silent = adapter.copy().requires_grad_(False)
    silent.up_weight.zero_()
    silent.up_bias.zero_()
    other = load_encoder(str(save_tiny_encoder(tmp_path_factory.mktemp("other"), seed=7)))
    strange = golden.model_copy(update={"probe_sha256": "0" * 64})
    prove_on_one(tiny_encoder, adapter, golden)
    with pytest.raises(EncoderMismatchError, match="tolerance"):
        prove_on_one(tiny_encoder, silent, golden)
    with pytest.raises(EncoderMismatchError, match="other probe sentences"):
        prove_on_one(tiny_encoder, adapter, strange)
    with pytest.raises(EncoderMismatchError, match="tolerance"):
        prove_on_one(other, adapter, golden)


@torch.no_grad()
def prove_on_one(encoder: Encoder, adapter: BottleneckAdapter, golden: GoldenVectors) -> None:
    [row] = probe_rows(encoder, golden)
    check_probe_rows(encoder, golden, encoder.embed(pack([row]), adapter))


def test_the_shortest_probe_sentence_that_is_moved_far_tells_or_else_all(
    tiny_encoder: Encoder,
) -> None:
    golden = golden_vectors(tiny_encoder, random_adapter(tiny_encoder, seed=1))
    by_length = sorted(range(8), key=lambda n: len(probe_sentences()[n]))
    moved = {by_length[0]: 0.09, by_length[1]: 0.1, by_length[2]: 0.3}
    some = golden.model_copy(update={"distances": tuple(moved.get(n, 0.0) for n in range(8))})
    assert telling_probes(some) == [by_length[1]]
    none = golden.model_copy(update={"distances": (0.09,) * 8})
    assert list(telling_probes(none)) == list(range(8))


def test_an_adapter_that_overflows_fails_the_proof(tiny_encoder: Encoder) -> None:
    """Finite weights whose outputs are not: NaN compares with nothing."""
    adapter = random_adapter(tiny_encoder, seed=1)
    golden = golden_vectors(tiny_encoder, adapter)
    adapter.up_weight.fill_(3e38)
    adapter.down_weight.fill_(3e38)
    assert unpack_adapter(pack_adapter(adapter, model_name="t")).bottleneck_size == 6
    with pytest.raises(EncoderMismatchError):
        prove_active(tiny_encoder, adapter, golden)


def test_the_tolerance_of_the_proof_is_the_loaders_whatever_a_manifest_says(
    tiny_encoder: Encoder,
) -> None:
    silent = random_adapter(tiny_encoder, seed=1, scale=0.0)
    claimed = golden_vectors(tiny_encoder, silent).model_copy(
        update={"distances": (0.9,) * len(probe_sentences()), "tolerance": 2.0}
    )
    with pytest.raises(EncoderMismatchError, match=r"tolerance 0\.02"):
        prove_active(tiny_encoder, silent, claimed)
    with pytest.raises(EncoderMismatchError, match=r"tolerance 0\.02"):
        prove_on_one(tiny_encoder, silent, claimed)


ENCODER_CHANGES: dict[str, object] = {
    "name": "another name",
    "model_type": "roberta",
    "hidden_size": 64,
    "num_layers": 3,
    "weights_sha256": "0" * 64,
    "tokenizer_sha256": "0" * 64,
}


def test_an_adapter_is_loaded_for_its_whole_encoder_only(tiny_encoder: Encoder) -> None:
    """Every field but the name counts, those that come later too."""
    adapter = random_adapter(tiny_encoder, seed=1)
    payload = pack_adapter(adapter, model_name="t")
    manifest = random_manifest(tiny_encoder, adapter, payload, tenant="acme")
    for field, value in ENCODER_CHANGES.items():
        other = tiny_encoder.ref.model_copy(update={field: value})
        told = manifest.model_copy(update={"encoder": other})
        if field == "name":
            load_proven(tiny_encoder, told, payload)
            continue
        with pytest.raises(EncoderMismatchError, match="another encoder"):
            load_proven(tiny_encoder, told, payload)


def test_a_payload_of_other_shapes_than_declared_is_refused(tiny_encoder: Encoder) -> None:
    adapter = random_adapter(tiny_encoder, seed=1)
    payload = pack_adapter(adapter, model_name="t")
    manifest = random_manifest(tiny_encoder, adapter, payload, tenant="acme")
    other = random_adapter(tiny_encoder, seed=1, bottleneck_size=5)
    with pytest.raises(InvalidPayloadError, match="other shapes than its manifest says"):
        load_proven(tiny_encoder, manifest, pack_adapter(other, model_name="t"))
    wide = BottleneckAdapter.new(2, 64, 3, seed=0)
    payload = pack_adapter(wide, model_name="t")
    told = manifest.model_copy(update={"tensors": tensor_specs(wide)})
    with pytest.raises(EncoderMismatchError, match="hidden size 64, the encoder"):
        load_proven(tiny_encoder, told, payload)


def test_settings_that_cannot_be_parsed_are_refused(tiny_encoder: Encoder) -> None:
    for settings in ("[" * 30_000, "[]", "1", '{"config":[]}', "null"):
        payload = safetensors.torch.save(tensors(), {"adapter_config": settings})
        with pytest.raises(InvalidPayloadError, match="adapter_config is malformed"):
            unpack_adapter(payload)
    long = safetensors.torch.save(tensors(), {"adapter_config": " " * 70_000})
    with pytest.raises(InvalidPayloadError, match="header has more than 65536 bytes"):
        unpack_adapter(long)


def test_golden_vectors_of_other_probes_prove_nothing(tiny_encoder: Encoder) -> None:
    adapter = random_adapter(tiny_encoder, seed=1)
    golden = golden_vectors(tiny_encoder, adapter)
    with pytest.raises(EncoderMismatchError, match="other probe sentences"):
        prove_active(tiny_encoder, adapter, golden.model_copy(update={"probe_sha256": "0" * 64}))
    short = GoldenVectors(
        probe_sha256=golden.probe_sha256, distances=golden.distances[:-1], tolerance=1.0
    )
    with pytest.raises(EncoderMismatchError):
        prove_active(tiny_encoder, adapter, short)


@pytest.mark.parametrize("move", [0.2, 0.6])
def test_bfloat16_stays_within_the_golden_tolerance(minilm: Encoder, move: float) -> None:
    """Both ways: published from one precision, loaded in the other."""
    half = load_encoder(dtype="bfloat16")
    adapter = made(minilm, seed=3, move=move)
    golden = golden_vectors(minilm, adapter)
    rough = golden_vectors(half, adapter)
    worst = max(abs(a - b) for a, b in zip(golden.distances, rough.distances, strict=True))
    assert worst <= GOLDEN_TOLERANCE / 4
    prove_active(half, adapter, golden)
    prove_active(minilm, adapter, rough)


def test_a_module_s_digest_changes_with_any_parameter(tiny_encoder: Encoder) -> None:
    adapter = random_adapter(tiny_encoder, seed=1)
    before = state_digest(adapter)
    assert state_digest(adapter.copy()) == before
    adapter.down_bias[0, 0] += 1e-6
    assert state_digest(adapter) != before


def test_a_payload_that_declares_another_kind_of_adapter_is_refused() -> None:
    adapter = BottleneckAdapter.new(2, 8, 4, seed=0)
    config = adapter_config(adapter, model_name="m")
    tensors = safetensors.torch.load(pack_adapter(adapter, model_name="m"))

    def payload(declared: str) -> bytes:
        return safetensors.torch.save(tensors, {"adapter_config": declared})

    for key, value in {"non_linearity": "gelu", "scaling": 4.0, "is_parallel": True}.items():
        other = {**config, "config": {**config["config"], key: value}}
        with pytest.raises(InvalidPayloadError, match=key):
            unpack_adapter(payload(json.dumps(other)))
    for malformed in ("{", "[]", "{}", '{"config": 1}'):
        with pytest.raises(InvalidPayloadError, match="malformed"):
            unpack_adapter(payload(malformed))
    assert unpack_adapter(safetensors.torch.save(tensors)).bottleneck_size == 4


def test_weights_whose_products_are_denormal_are_loaded_as_zeros(tiny_encoder: Encoder) -> None:
    adapter = random_adapter(tiny_encoder, seed=1)
    adapter.up_weight[0].fill_(1e-20)
    adapter.down_weight[1, 2, 3] = -1e-39
    found = unpack_adapter(pack_adapter(adapter, model_name="t"))
    assert not found.up_weight[0].any() and found.down_weight[1, 2, 3] == 0
    assert torch.equal(found.up_weight[1], adapter.up_weight[1])

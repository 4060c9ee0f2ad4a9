"""The fuzzer's cases and the judge of what the registry accepts."""

import json
import struct
from random import Random
from typing import Any

import pytest

from adapterdistill.drills.registry.fuzz_cases import SERVICE, case
from adapterdistill.drills.registry.mutations import dumped, mutated_json
from adapterdistill.drills.registry.verify import fault_of
from adapterdistill.manifest import sha256_hex
from adapterdistill.registry.v1 import registry_pb2 as pb
from adapterdistill.testbed.random_adapters import SMALL, adapter
from tests.unit.registry.samples import arrays, manifest_of, payload_of


def test_cases_come_of_seed_and_number_alone() -> None:
    forwards = [case(3, number) for number in range(200)]
    backwards = [case(3, number) for number in reversed(range(200))]
    assert forwards == backwards[::-1]
    assert forwards != [case(4, number) for number in range(200)]


def test_every_call_and_every_kind_is_tried_and_some_cases_are_sound() -> None:
    cases = [case(0, number) for number in range(3000)]
    assert {one.method for one in cases} == {method.name for method in SERVICE.methods}
    sound = 0
    for one in cases:
        if one.kind == "unmutated":
            header, *chunks = (pb.PublishRequest.FromString(message) for message in one.messages)
            payload = b"".join(part.chunk.data for part in chunks)
            assert fault_of(header.header.name, header.header.manifest_json, payload) is None
            sound += 1
    assert 30 < sound < 120


def test_json_is_mutated_whatever_numbers_it_holds() -> None:
    draw = Random(0)
    for number in (10**4000, -(10**400), float("nan"), float("inf"), 1e308):
        for _ in range(50):
            mutated_json([number], draw)


def spoilt(path: str, value: Any) -> tuple[str, bytes, bytes]:
    """An upload whose manifest has `value` at this place, the header's name kept true."""
    manifest, payload = adapter(SMALL, 1, tenant="acme", name="faq")
    fields = json.loads(manifest.canonical_json())
    *parents, last = path.split(".")
    holder = fields
    for parent in parents:
        holder = holder[parent]
    holder[last] = value
    name = f"tenants/{fields['tenant']}/adapters/{fields['adapter']}/versions/{fields['version']}"
    return name, dumped(fields), payload


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("version", "0" * 64),
        ("payload_bytes", 1),
        ("payload_bytes", True),
        ("tenant", "Acme"),
        ("adapter", "a\n"),
        ("kind", "fusion"),
        ("extra", 1),
        ("seed", "1"),
        ("privacy", "x" * 2001),
        ("teachers", ["acme"]),
        ("encoder.hidden_size", 9),
        ("encoder.weights_sha256", "g" * 64),
        ("tensors", {}),
        ("tensors.up", {"dtype": "F32", "shape": [1]}),
        ("golden.tolerance", 0),
        ("golden.distances", [float("inf")]),
        ("metrics.held_out_mrr", {"value": 1, "count": -1}),
    ],
)
def test_judge_finds_what_is_wrong_with_a_manifest(path: str, value: Any) -> None:
    assert fault_of(*spoilt(path, value)) is not None


def test_judge_finds_what_is_wrong_with_bytes() -> None:
    manifest, payload = adapter(SMALL, 1, tenant="acme", name="faq")
    text = manifest.canonical_json()
    assert fault_of(manifest.ref.name, text, payload) is None
    assert fault_of(manifest.ref.name + "0", text, payload) is not None
    assert fault_of(manifest.ref.name, text + b" ", payload) is not None
    assert fault_of(manifest.ref.name, text, payload[:-1]) is not None
    poisoned = payload[:-4] + struct.pack("<f", float("nan"))
    claims = manifest.model_copy(update={"version": sha256_hex(poisoned)})
    assert fault_of(claims.ref.name, claims.canonical_json(), poisoned) is not None
    noted = payload_of(arrays(1), {"note": "x"})
    claims = manifest_of(noted)
    assert fault_of(claims.ref.name, claims.canonical_json(), noted) is not None

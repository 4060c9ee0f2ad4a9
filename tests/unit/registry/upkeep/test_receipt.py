"""Receipts: what they say is what was signed, and no field can be changed."""

import base64
import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from adapterdistill.errors import (
    AdapterDistillError,
    AuditBrokenError,
    DigestMismatchError,
    IntegrityError,
    InvalidManifestError,
    SignatureError,
)
from adapterdistill.manifest import canonical_json, sha256_hex
from adapterdistill.registry.access import EVERYONE, Caller
from adapterdistill.registry.answers import Evidence
from adapterdistill.registry.commitments import committed
from adapterdistill.registry.trust.bundle import Bundle
from adapterdistill.registry.trust.statement import PREFIX, make_statement
from adapterdistill.registry.upkeep import receipt
from adapterdistill.registry.upkeep.audit import AuditLog
from adapterdistill.registry.upkeep.audit_verify import LOG
from adapterdistill.software import installed, software
from tests.unit.registry.samples import sample
from tests.unit.registry.signers import TestAuthority

AUTHORITY = TestAuthority()
BUNDLE = Bundle.of([AUTHORITY.certificate])
SIGNER = AUTHORITY.signer(Caller("owner", "acme"))
TEACHERS = [sample(seed, tenant=tenant)[0].ref.name for seed, tenant in ((2, "bolt"), (3, "corn"))]
MANIFEST, OPENINGS = committed(
    sample(
        1,
        teachers=TEACHERS,
        privacy="rows stay with the owner",
        metrics={
            "held_out_top1": {"value": 0.5, "count": 40},
            "membership_auc": {"value": 0.53, "count": 60},
            "membership_auc_high": {"value": 0.61, "count": 60},
        },
        software=software().model_dump(),
    )[0]
)
PAYLOAD = sample(1)[1]
SIGNED = make_statement(
    MANIFEST,
    consent=EVERYONE,
    previous=None,
    key=SIGNER.key,
    certificate=SIGNER.certificate,
    registry=BUNDLE.registry,
)
EVIDENCE = Evidence(MANIFEST.canonical_json(), SIGNED, OPENINGS[:1])  # the other one is hidden


def logged(root: Path, *bodies: dict[str, str | int]) -> Path:
    """An audit log with lines of these events."""
    log = AuditLog(root, lambda _: [])
    log.append(bodies)
    log.close()
    return root / "audit" / LOG


def event(kind: str = "published", **other: str | int) -> dict[str, str | int]:
    told = {"kind": kind, "revision": 1, "caller": "owner/acme", "name": MANIFEST.ref.name}
    return told | {"other_name": "", "reason": ""} | other


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return logged(tmp_path, event())


def test_a_receipt_says_who_what_when_from_whom_and_with_which_software() -> None:
    made = receipt.make(EVIDENCE, BUNDLE)
    said = made.content
    assert said["_type"] == "https://in-toto.io/Statement/v1"
    assert said["subject"] == [
        {"name": MANIFEST.ref.name, "digest": {"sha256": sha256_hex(PAYLOAD)}}
    ]
    told = said["predicate"]
    certificate = x509.load_der_x509_certificate(SIGNER.certificate)
    assert told["publisher"]["name"] == "owner/acme"
    assert int(told["publisher"]["certificate"], 16) == certificate.serial_number
    assert told["time"] == json.loads(SIGNED.statement_json)["time"]
    assert told["teachers"] == [TEACHERS[0], MANIFEST.teachers[1]]
    assert told["teachers"][1].startswith("hidden/")
    assert told["privacy"]["metrics"].keys() == {"membership_auc", "membership_auc_high"}
    assert told["privacy"]["statement"] == "rows stay with the owner"
    assert told["software"] == MANIFEST.software.model_dump()
    assert told["registry"] == BUNDLE.registry and told["audit"] is None
    # Whoever has only the file verifies the owner's signature without this project's code.
    outer = json.loads(made.envelope())
    evidence = json.loads(base64.b64decode(outer["payload"]))["predicate"]["evidence"]
    key = certificate.public_key()
    assert isinstance(key, Ed25519PublicKey)
    statement = base64.b64decode(evidence["statement"])
    key.verify(base64.b64decode(outer["signatures"][0]["sig"]), PREFIX + statement)
    manifest = base64.b64decode(evidence["manifest"])
    assert json.loads(statement)["manifest_sha256"] == sha256_hex(manifest)


def test_what_was_written_is_read_again(log: Path) -> None:
    line = receipt.audited(log, MANIFEST.ref.name, None)
    for made in (receipt.make(EVIDENCE, BUNDLE), receipt.make(EVIDENCE, BUNDLE, line)):
        found = receipt.read(made.envelope() + b"\n", BUNDLE)
        assert found == made
        receipt.check_audited(found, line)


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Paths of all values in JSON, containers too."""
    if path:
        yield path
    match value:
        case dict():
            for key, one in value.items():
                yield from leaves(one, (*path, key))
        case list():
            for number, one in enumerate(value):
                yield from leaves(one, (*path, number))


def spoilt(value: Any) -> Iterator[Any]:
    """Other values in its place."""
    match value:
        case str():
            yield from (value[:-1], f"{value}x", "", value.swapcase())
        case int() | float():
            yield from (value + 1, str(value))
        case list():
            yield from ([*value, "x"], value[:-1] if value else ["x"])
        case dict():
            yield value | {"added": 1}
            yield {}
        case None:
            yield "x"
    yield None


def with_log(log: Path) -> dict[str, Any]:
    line = receipt.audited(log, MANIFEST.ref.name, None)
    outer: dict[str, Any] = json.loads(receipt.make(EVIDENCE, BUNDLE, line).envelope())
    return outer | {"payload": json.loads(base64.b64decode(outer["payload"]))}


def sealed(opened: dict[str, Any]) -> bytes:
    payload = base64.b64encode(canonical_json(opened["payload"])).decode()
    return canonical_json(opened | {"payload": payload})


def test_no_field_can_be_changed(log: Path) -> None:
    good = with_log(log)
    receipt.read(sealed(good), BUNDLE)
    unnoticed, named = [], 0
    for path in leaves(good):
        for number in range(5):
            bad = copy.deepcopy(good)
            place: Any = bad
            for key in path[:-1]:
                place = place[key]
            values = [one for one in spoilt(place[path[-1]]) if one != place[path[-1]]]
            if number >= len(values):
                break
            # A receipt without a line of the log is whole as well.
            if path == ("payload", "predicate", "audit") and values[number] is None:
                continue
            place[path[-1]] = values[number]
            try:
                receipt.read(sealed(bad), BUNDLE)
            except AdapterDistillError as error:
                where = ".".join(map(str, path)).replace(".0", "[0]")
                named += where in str(error)
            else:
                unnoticed.append((path, values[number]))
    assert unnoticed == []
    assert named > 100


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"payload": 1}', b"\xff", b'{"payload":""}']
)
def test_what_is_no_receipt_says_so(content: bytes) -> None:
    with pytest.raises(IntegrityError, match="not a receipt"):
        receipt.read(content, BUNDLE)


@pytest.mark.parametrize("odd", ["\ud800", float("nan")])
def test_what_no_json_in_utf_8_can_hold_is_no_receipt(odd: object, log: Path) -> None:
    opened = with_log(log)
    opened["payload"]["predicate"]["audit"]["reason"] = odd
    payload = base64.b64encode(json.dumps(opened["payload"]).encode()).decode()
    with pytest.raises(IntegrityError, match="not a receipt"):
        receipt.read(json.dumps(opened | {"payload": payload}).encode(), BUNDLE)


def test_other_spellings_of_a_receipt_are_refused() -> None:
    made = receipt.make(EVIDENCE, BUNDLE)
    with pytest.raises(IntegrityError, match="not in canonical JSON"):
        receipt.read(json.dumps(json.loads(made.envelope()), indent=1).encode(), BUNDLE)


def test_evidence_is_believed_by_the_trusted_authorities_alone() -> None:
    other = Bundle.of([TestAuthority().certificate])
    with pytest.raises(SignatureError, match="not issued by the registry's authority"):
        receipt.read(receipt.make(EVIDENCE, BUNDLE).envelope(), other)
    with pytest.raises(SignatureError, match="is not signed by its owner"):
        receipt.make(replace(EVIDENCE, signed=None), BUNDLE)
    bolt = AUTHORITY.signer(Caller("owner", "bolt"))
    forged = make_statement(
        MANIFEST,
        consent=EVERYONE,
        previous=None,
        key=bolt.key,
        certificate=bolt.certificate,
        registry=BUNDLE.registry,
    )
    with pytest.raises(SignatureError, match="owner/bolt signed for owner/acme"):
        receipt.make(replace(EVIDENCE, signed=forged), BUNDLE)
    elsewhere = make_statement(
        MANIFEST,
        consent=EVERYONE,
        previous=None,
        key=SIGNER.key,
        certificate=SIGNER.certificate,
        registry="6" * 32,
    )
    with pytest.raises(SignatureError, match="for registry 6"):
        receipt.make(replace(EVIDENCE, signed=elsewhere), BUNDLE)
    wrong = replace(OPENINGS[0], name=TEACHERS[1])
    with pytest.raises(InvalidManifestError, match="a teacher is opened"):
        receipt.make(replace(EVIDENCE, openings=(wrong,)), BUNDLE)
    spaced = json.dumps(json.loads(MANIFEST.canonical_json())).encode()
    with pytest.raises(InvalidManifestError, match="not in canonical JSON"):
        receipt.make(replace(EVIDENCE, manifest_json=spaced), BUNDLE)


def test_a_payload_is_compared_by_its_digest() -> None:
    made = receipt.make(EVIDENCE, BUNDLE)
    receipt.check_payload(made, PAYLOAD)
    with pytest.raises(DigestMismatchError, match="the payload is not that of"):
        receipt.check_payload(made, PAYLOAD + b"x")


def test_the_log_must_publish_the_version_by_its_publisher(tmp_path: Path, log: Path) -> None:
    made = receipt.make(EVIDENCE, BUNDLE)
    with pytest.raises(AuditBrokenError, match="no line publishes tenants/other"):
        receipt.audited(log, MANIFEST.ref.name.replace("acme", "other"), None)
    with pytest.raises(AuditBrokenError, match="signed by another key"):
        receipt.audited(log, MANIFEST.ref.name, ["AAAA"])
    for name, bodies, says in (
        ("by-another", [event(caller="owner/bolt")], "names another publisher"),
        ("void", [event(), {"kind": "void"}], "no line publishes"),
        ("withdrawn", [event("withdrawn")], "no line publishes"),
    ):
        (tmp_path / name).mkdir()
        other = logged(tmp_path / name, *bodies)
        with pytest.raises(AuditBrokenError, match=says):
            receipt.check_audited(made, receipt.audited(other, MANIFEST.ref.name, None))
    (tmp_path / "again").mkdir()
    line = receipt.audited(log, MANIFEST.ref.name, None)
    later = logged(tmp_path / "again", event("published", revision=2))
    with pytest.raises(AuditBrokenError, match=r"is not line \d of the log"):
        receipt.check_audited(
            receipt.make(EVIDENCE, BUNDLE, line), receipt.audited(later, MANIFEST.ref.name, None)
        )
    log.write_bytes(log.read_bytes().replace(b"owner/acme", b"owner/acne"))
    with pytest.raises(AuditBrokenError, match=r"log\.jsonl line \d: edited"):
        receipt.audited(log, MANIFEST.ref.name, None)


def test_the_software_is_the_digest_of_all_that_is_installed() -> None:
    lines = installed().decode().splitlines()
    assert lines == sorted(set(lines)) and any(one.startswith("cryptography==") for one in lines)
    said = software()
    assert said.distributions == len(lines)
    assert said.distributions_sha256 == sha256_hex(("\n".join(lines) + "\n").encode())

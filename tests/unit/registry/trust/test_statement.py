"""Sign, mutate, verify: whatever is changed of what an owner signed, it is refused."""

import base64
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapterdistill.errors import ClockSkewError, SignatureError
from adapterdistill.manifest import Fingerprint, Manifest, canonical_json, sha256_hex
from adapterdistill.registry.access import EVERYONE, NOBODY, Caller, Consent
from adapterdistill.registry.trust import pem
from adapterdistill.registry.trust.certificates import Usage
from adapterdistill.registry.trust.statement import (
    MAX_CERTIFICATE_BYTES,
    MAX_STATEMENT_BYTES,
    PREFIX,
    WINDOW,
    Signed,
    Statement,
    check_fresh,
    make_statement,
    verify_statement,
)
from tests.unit.registry.samples import HIDDEN, encoder_fields, sample
from tests.unit.registry.signers import LIFETIME, Signer, TestAuthority

ACME, BOLT = Caller("owner", "acme"), Caller("owner", "bolt")
AUTHORITY = TestAuthority()
SIGNER = AUTHORITY.signer(ACME)
MANIFEST = sample(1, teachers=[sample(2, tenant="bolt")[0].ref.name])[0]
NOW = datetime.now(UTC).replace(microsecond=0)
REGISTRY = "5" * 32


def signed(
    manifest: Manifest = MANIFEST,
    *,
    signer: Signer = SIGNER,
    consent: Consent = EVERYONE,
    previous: str | None = "e" * 64,
    at: datetime = NOW,
) -> Signed:
    return make_statement(
        manifest,
        consent=consent,
        previous=previous,
        key=signer.key,
        certificate=signer.certificate,
        registry=REGISTRY,
        at=at,
    )


def verified(one: Signed, manifest: Manifest = MANIFEST) -> Statement:
    return verify_statement(one, manifest, AUTHORITY.certify, REGISTRY)


def resigned(changes: dict[str, Any], signer: Signer = SIGNER) -> Signed:
    """Sign another statement with the owner's own key."""
    said = canonical_json(json.loads(signed().statement_json) | changes)
    return Signed(said, signer.key.sign(PREFIX + said), signer.certificate)


def test_what_the_owner_signed_is_what_is_read() -> None:
    found = verified(signed(consent=frozenset({"bolt", "apex"})))
    assert found.model_dump(exclude={"nonce", "manifest_sha256"}) == {
        "version": MANIFEST.version,
        "tenant": "acme",
        "adapter": "faq",
        "previous": sha256_hex(b"e" * 64),  # others must not read its name
        "consent": ("apex", "bolt"),
        "time": NOW.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "registry": REGISTRY,
    }
    assert found.moment == NOW
    assert verified(signed(previous=None, consent=NOBODY)).previous is None


@pytest.fixture
def far_east(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This machine's clock is nine hours ahead of UTC."""
    with monkeypatch.context() as there:
        there.setenv("TZ", "JST-9")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("far_east")
def test_a_statement_tells_utc_wherever_it_is_made() -> None:
    in_the_west = NOW.astimezone(timezone(timedelta(hours=-5)))
    assert verified(signed(at=in_the_west)).moment == NOW
    made = make_statement(
        MANIFEST,
        consent=EVERYONE,
        previous=None,
        key=SIGNER.key,
        certificate=SIGNER.certificate,
        registry=REGISTRY,
    )
    assert abs(verified(made).moment - datetime.now(UTC)) < timedelta(hours=1)


def test_no_two_statements_have_one_nonce() -> None:
    assert len({verified(signed()).nonce for _ in range(50)}) == 50


# A value of each field that is as sound as the one it replaces.
OTHERS: dict[str, Any] = {
    "manifest_sha256": "0" * 64,
    "version": "1" * 64,
    "tenant": "bolt",
    "adapter": "other",
    "previous": None,
    "consent": ["bolt"],
    "nonce": "0" * 32,
    "time": "2020-02-29T00:00:00Z",
    "registry": "6" * 32,
}


def test_others_cover_every_field() -> None:
    assert OTHERS.keys() == Statement.model_fields.keys()


@pytest.mark.parametrize("field", OTHERS)
def test_no_field_can_be_changed_after_signing(field: str) -> None:
    one = signed()
    said = json.loads(one.statement_json)
    assert said[field] != OTHERS[field]
    with pytest.raises(SignatureError):
        verified(replace(one, statement_json=canonical_json(said | {field: OTHERS[field]})))


@pytest.mark.parametrize("field", ["manifest_sha256", "version", "tenant", "adapter"])
def test_not_even_the_owner_can_sign_for_another_manifest(field: str) -> None:
    with pytest.raises(SignatureError, match=field):
        verified(resigned({field: OTHERS[field]}))


def test_a_statement_holds_at_its_own_registry_alone() -> None:
    one = signed()
    with pytest.raises(SignatureError, match=f"for registry {REGISTRY}, this is {'6' * 32}"):
        verify_statement(one, MANIFEST, AUTHORITY.certify, "6" * 32)
    assert verify_statement(one, MANIFEST, AUTHORITY.certify).registry == REGISTRY
    # Statements of an earlier release are still read, and not taken any more.
    said = {
        key: value for key, value in json.loads(one.statement_json).items() if key != "registry"
    }
    old = canonical_json(said)
    earlier = verified(Signed(old, SIGNER.key.sign(PREFIX + old), SIGNER.certificate))
    assert earlier.registry is None
    with pytest.raises(SignatureError, match=r"does not name the registry .*this release's client"):
        check_fresh(earlier, EVERYONE, NOW)


def test_all_that_a_statement_says_wrongly_is_told() -> None:
    said = "^statement refused: its version, adapter differ from the manifest$"
    with pytest.raises(SignatureError, match=said):
        verified(resigned({field: OTHERS[field] for field in ("adapter", "version")}))
    with pytest.raises(SignatureError, match=r"^statement refused: invalid consent\.0, nonce$"):
        verified(resigned({"nonce": "x", "consent": [1]}))


# As sound as the one that was signed, but for one field.
OTHER_MANIFESTS: dict[str, Any] = {
    "tenant": "bolt",
    "adapter": "other",
    "version": "1" * 64,
    "payload_bytes": 1,
    "kind": "fusion",
    "task": "other",
    "language": "de",
    "labels": ["other"],
    "encoder": encoder_fields("9"),
    "tensors": {},
    "method": "other",
    "config_sha256": "0" * 64,
    "seed": 99,
    "metrics": {"held_out": {"value": 1.0, "count": 1}},
    "teachers": [],
    "privacy": "everything is told",
    "golden": {"probe_sha256": "d" * 64, "distances": [0.5, 0.25], "tolerance": 0.5},
    "fingerprint": Fingerprint.of("a" * 64, bytes(256)),
    "prototypes": {
        "classes": ["a", "b"],
        "counts": [1, 1],
        "width": HIDDEN,
        "means": base64.b64encode(bytes(4 * HIDDEN)).decode(),
        "noise": 0.0,
    },
    "init": {"name": "other", "sha256": "0" * 64},
    "software": {
        "version": "0.1.0",
        "python": "3.11.2",
        "distributions": 1,
        "distributions_sha256": "0" * 64,
    },
}


def test_other_manifests_cover_every_field() -> None:
    assert {*OTHER_MANIFESTS, "schema_version"} == Manifest.model_fields.keys()


@pytest.mark.parametrize("field", OTHER_MANIFESTS)
def test_no_field_of_the_manifest_can_be_changed_after_signing(field: str) -> None:
    forged = Manifest.model_validate(MANIFEST.model_dump() | {field: OTHER_MANIFESTS[field]})
    assert forged != MANIFEST
    with pytest.raises(SignatureError):
        verified(signed(), forged)


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_no_byte_can_be_changed_added_or_dropped(data: st.DataObject) -> None:
    one = signed(at=NOW)
    part = data.draw(st.sampled_from(["statement_json", "signature", "certificate"]))
    content = bytearray(getattr(one, part))
    place = data.draw(st.integers(0, len(content) - 1))
    kind = data.draw(st.sampled_from(["flip", "drop", "add", "cut"]))
    if kind == "flip":
        content[place] ^= data.draw(st.integers(1, 255))
    elif kind == "drop":
        del content[place]
    elif kind == "add":
        content.insert(place, data.draw(st.integers(0, 255)))
    else:
        del content[place:]
    mutated = replace(one, **{part: bytes(content)})
    if mutated != one:
        with pytest.raises(SignatureError):
            verified(mutated)


@given(st.binary(max_size=300), st.binary(max_size=80), st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_any_bytes_at_all_are_refused(statement: bytes, signature: bytes, der: bytes) -> None:
    with pytest.raises(SignatureError):
        verified(Signed(statement, signature, der))


@pytest.mark.parametrize("field", OTHERS)
@given(
    value=st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=70)
    | st.lists(st.text(max_size=5), max_size=3)
)
@settings(max_examples=30, deadline=None)
def test_what_the_owner_signs_is_still_checked(field: str, value: object) -> None:
    """Either it is the statement that was made, or sound, or refused; nothing else happens."""
    try:
        found = verified(resigned({field: value}))
    except SignatureError:
        return
    assert canonical_json(getattr(found, field)) == canonical_json(value)
    assert field in ("previous", "consent", "nonce", "time")


@pytest.mark.parametrize(
    "said",
    [
        lambda text: text + b" ",
        lambda text: text.replace(b":", b": ", 1),
        lambda text: text[:-1] + b',"nonce":"' + b"0" * 32 + b'"}',
        lambda text: text.replace(b'"adapter"', b'"\\u0061dapter"'),
    ],
)
def test_there_is_one_spelling_of_a_statement(said: Any) -> None:
    text = said(signed().statement_json)
    one = Signed(text, SIGNER.key.sign(PREFIX + text), SIGNER.certificate)
    with pytest.raises(SignatureError, match=r"^statement refused: not in canonical JSON$"):
        verified(one)


def test_a_statement_with_more_fields_is_refused() -> None:
    with pytest.raises(SignatureError, match=r"^statement refused: invalid more$"):
        verified(resigned({"more": 1}))


def test_what_was_signed_for_another_purpose_is_no_statement() -> None:
    one = signed()
    without_prefix = replace(one, signature=SIGNER.key.sign(one.statement_json))
    with pytest.raises(SignatureError, match=r"^statement refused: its signature does not verify$"):
        verified(without_prefix)


@pytest.mark.parametrize("time", ["2026-02-30T00:00:00Z", "2026-13-01T00:00:00Z", "x"])
def test_a_time_that_there_never_was_is_refused(time: str) -> None:
    with pytest.raises(SignatureError, match=r"^statement refused: invalid time$"):
        verified(resigned({"time": time}))


# Each with what is said of it.
OTHER_SIGNERS = {
    "another tenant": (AUTHORITY.signer(BOLT), "refused: owner/bolt signed for owner/acme$"),
    "an operator of that name": (
        AUTHORITY.signer(Caller("operator", "acme")),
        "refused: operator/acme signed for owner/acme$",
    ),
    "the certificate of a connection": (
        AUTHORITY.signer(ACME, Usage.client),
        "refused at its time",
    ),
    "of another authority": (TestAuthority().signer(ACME), "refused at its time"),
    "the certificate of another": (
        replace(AUTHORITY.signer(BOLT), certificate=SIGNER.certificate),
        "signature does not verify",
    ),
}


@pytest.mark.parametrize("who", OTHER_SIGNERS)
def test_nobody_else_can_sign_for_a_tenant(who: str) -> None:
    signer, said = OTHER_SIGNERS[who]
    with pytest.raises(SignatureError, match=said):
        verified(signed(signer=signer))


def test_a_certificate_for_another_kind_of_key_signs_for_nobody() -> None:
    for_tls = AUTHORITY.certified(pem.new_tls_key().public_key(), ACME)
    said = "^statement refused: its certificate is not for an ed25519 key$"
    with pytest.raises(SignatureError, match=said):
        verified(replace(signed(), certificate=for_tls))


def test_a_certificate_counts_for_the_time_of_the_statement() -> None:
    assert verified(signed(at=NOW + LIFETIME - timedelta(hours=1)))
    for at in (NOW + LIFETIME + timedelta(hours=1), NOW - timedelta(days=1)):
        with pytest.raises(SignatureError, match="at its time"):
            verified(signed(at=at))


def test_parts_of_absurd_size_are_refused_before_they_are_read() -> None:
    for part, limit, read in (
        ("statement_json", MAX_STATEMENT_BYTES, r"^statement refused: invalid \(whole\)$"),
        ("certificate", MAX_CERTIFICATE_BYTES, "refused at its time"),
    ):
        with pytest.raises(SignatureError, match=f"at most {limit}"):
            verified(replace(signed(), **{part: b"[" * (limit + 1)}))
        with pytest.raises(SignatureError, match=read):
            verified(replace(signed(), **{part: b"[" * limit}))


def test_a_statement_for_a_thousand_tenants_fits() -> None:
    consent = frozenset(f"{n:063}" for n in range(1000))
    assert len(verified(signed(consent=consent)).consent) == 1000


def test_an_upload_and_its_statement_agree_on_consent_and_clock() -> None:
    statement = verified(signed(consent=frozenset({"bolt"})))
    check_fresh(statement, frozenset({"bolt"}), NOW)
    for consent in (EVERYONE, NOBODY, frozenset({"bolt", "apex"})):
        with pytest.raises(
            SignatureError, match=r"^statement refused: its consent differs from the upload's$"
        ):
            check_fresh(statement, consent, NOW)
    for sign in (-1, 1):
        check_fresh(statement, frozenset({"bolt"}), NOW + sign * WINDOW)
        with pytest.raises(ClockSkewError, match=r"clock shows .* differ by 10 minutes$"):
            check_fresh(
                statement, frozenset({"bolt"}), NOW + sign * (WINDOW + timedelta(seconds=1))
            )

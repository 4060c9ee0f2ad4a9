"""Receipts: who published a version, when, from what, with which software, and how that is proven.

A receipt is an in-toto Statement (https://in-toto.io/Statement/v1) in an envelope like DSSE's. All
that it says is derived from the evidence within it: the manifest and the statement that the owner
signed. So whoever trusts the registry's authority verifies it without the registry, by deriving it
again. The signature is the owner's, over its own statement (`trust.statement`), not over the
envelope's payload.
"""

import base64
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509

from adapterdistill.errors import (
    AuditBrokenError,
    DigestMismatchError,
    IntegrityError,
    InvalidManifestError,
    SignatureError,
    listed,
)
from adapterdistill.manifest import Manifest, canonical_json, sha256_hex
from adapterdistill.registry.answers import Evidence
from adapterdistill.registry.commitments import Opening, opened
from adapterdistill.registry.trust.bundle import Bundle, public_bytes
from adapterdistill.registry.trust.certificates import bearer_of, serial_of
from adapterdistill.registry.trust.statement import Signed, verify_statement
from adapterdistill.registry.upkeep.audit_line import unseal
from adapterdistill.registry.upkeep.audit_verify import Record, verify

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:adapterdistill:receipt:v1"
MAX_BYTES = 1 << 20
_PRIVACY_METRICS = ("membership_auc", "membership_auc_high")
_LOGGED = ("published", "quarantined")


@dataclass(frozen=True)
class Receipt:
    """A receipt that was verified, but for what only other files can show."""

    manifest: Manifest
    content: dict[str, Any]
    """The in-toto Statement."""
    signed: Signed

    @property
    def predicate(self) -> dict[str, Any]:
        found: dict[str, Any] = self.content["predicate"]
        return found

    def envelope(self) -> bytes:
        """Serialise the receipt as its file."""
        signature = {
            "keyid": _key_id(self.signed.certificate),
            "sig": _text(self.signed.signature),
        }
        return canonical_json(
            {
                "payloadType": PAYLOAD_TYPE,
                "payload": _text(canonical_json(self.content)),
                "signatures": [signature],
            }
        )


def make(evidence: Evidence, bundle: Bundle, audit: Record | None = None) -> Receipt:
    """Verify the evidence by the trusted authorities, and derive the receipt from it.

    Args:
        audit: the line of the audit log that publishes the version, if it was looked up.

    Raises:
        SignatureError: the version is not signed by its owner, for this registry, with a
            certificate of one of the authorities that was valid then.
        InvalidManifestError: the manifest is malformed, or a teacher's commitment does not open.
    """
    manifest = Manifest.from_json(evidence.manifest_json)
    signed = evidence.signed
    if signed is None:
        raise SignatureError(f"{manifest.ref.name} is not signed by its owner")
    if manifest.canonical_json() != evidence.manifest_json:
        raise InvalidManifestError("manifest refused: not in canonical JSON")
    statement = verify_statement(signed, manifest, bundle.verify, bundle.registry)
    certificate = x509.load_der_x509_certificate(signed.certificate)
    issuer = bundle.issuer_of(certificate)
    shown = manifest.model_dump(mode="json")
    predicate = {
        "publisher": {
            "name": str(bearer_of(certificate)),
            "certificate": serial_of(certificate),
            "certificateExpires": certificate.not_valid_after_utc.isoformat(),
            # Its key's, not its certificate's, which a rotation replaces.
            "authority": sha256_hex(public_bytes(issuer)),
        },
        "time": statement.time,
        "registry": statement.registry,
        "consent": list(statement.consent),
        "manifestSha256": statement.manifest_sha256,
        "method": manifest.method,
        "configSha256": manifest.config_sha256,
        "encoder": {
            "name": manifest.encoder.name,
            "weightsSha256": manifest.encoder.weights_sha256,
        },
        "teachers": list(opened(manifest, evidence.openings).teachers),
        "privacy": {
            "statement": manifest.privacy,
            "metrics": {
                name: metric
                for name, metric in shown["metrics"].items()
                if name in _PRIVACY_METRICS
            },
        },
        "software": shown.get("software"),
        "audit": audit,
        "evidence": {
            "manifest": _text(evidence.manifest_json),
            "statement": _text(signed.statement_json),
            "signature": _text(signed.signature),
            "certificate": _text(signed.certificate),
            "teachers": [{"name": one.name, "salt": _text(one.salt)} for one in evidence.openings],
        },
    }
    content = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": manifest.ref.name, "digest": {"sha256": manifest.version}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": predicate,
    }
    return Receipt(manifest, content, signed)


def read(envelope: bytes, bundle: Bundle) -> Receipt:
    """Verify a receipt's file: derive it again from its evidence, and compare.

    Raises:
        IntegrityError: it is not a receipt, or something in it is not what its evidence says; the
            message names it.
        SignatureError, InvalidManifestError: like `make`.
    """
    try:
        outer = json.loads(envelope)
        content = json.loads(base64.b64decode(outer["payload"], validate=True))
        canonical_json(content)  # refuses what JSON in UTF-8 cannot hold
        predicate = content["predicate"]
        found = predicate["evidence"]
        openings = [Opening(_str(one["name"]), _bytes(one["salt"])) for one in found["teachers"]]
        signed = Signed(*(_bytes(found[k]) for k in ("statement", "signature", "certificate")))
        evidence = Evidence(_bytes(found["manifest"]), signed, tuple(openings))
        audit = predicate["audit"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise IntegrityError("not a receipt: expected what `registry receipt` writes") from None
    made = make(evidence, bundle, audit)
    derived = json.loads(made.envelope()) | {"payload": made.content}
    faults = [*_differences(derived, outer | {"payload": content}, "")]
    if audit is not None and not _is_line_of(audit, made.manifest.ref.name):
        faults.append("payload.predicate.audit")
    if faults:
        raise IntegrityError(
            listed("the receipt was changed: it differs from its signed evidence in", faults)
        )
    if made.envelope() != envelope.strip():
        raise IntegrityError("the receipt was changed: it is not in canonical JSON")
    return made


def _is_line_of(record: Any, name: str) -> bool:
    """Say whether a line of an audit log publishes the version, by its own digest alone."""
    sound = unseal(canonical_json(record))
    return sound is not None and sound["kind"] in _LOGGED and sound.get("name") == name


def check_payload(receipt: Receipt, payload: bytes) -> None:
    """Raise DigestMismatchError unless these bytes are the version's payload."""
    if sha256_hex(payload) != receipt.manifest.version:
        raise DigestMismatchError(f"the payload is not that of {receipt.manifest.ref.name}")


def audited(log: Path, name: str, keys: Collection[str] | None) -> Record:
    """Return the line of the audit log that publishes the version, after verifying all of the log.

    Args:
        name: of the version.
        keys: public keys that may sign the log; None: those that it names itself.

    Raises:
        AuditBrokenError: the log was changed, or no line publishes the version.
        ConfigError: the log cannot be read.
    """
    last: Record = {}
    lines: list[Record] = []

    def visit(record: Record) -> None:
        nonlocal last
        if record["kind"] == "void" and lines and lines[-1] is last:
            lines.pop()
        elif record["kind"] in _LOGGED and record.get("name") == name:
            lines.append(record)
        last = record

    verify(log, trusted=keys, visit=visit)
    if not lines:
        raise AuditBrokenError(f"{log.name}: no line publishes {name}")
    return lines[-1]


def check_audited(receipt: Receipt, record: Record) -> None:
    """Raise AuditBrokenError unless this line of the log is the receipt's, if it has one."""
    told = receipt.predicate["audit"]
    if told not in (None, record):
        raise AuditBrokenError(
            f"the receipt's line of the audit log is not line {record['number']} of the log"
        )
    if record["caller"] != receipt.predicate["publisher"]["name"]:
        raise AuditBrokenError(f"line {record['number']} of the audit log names another publisher")


def _differences(made: Any, found: Any, path: str) -> Iterator[str]:
    """Name the places at which two JSON values differ, `path` first."""
    if isinstance(made, dict) and isinstance(found, dict):
        for key in sorted({*made, *found}):
            yield from _differences(made.get(key), found.get(key), f"{path}.{key}".lstrip("."))
    elif isinstance(made, list) and isinstance(found, list) and len(made) == len(found):
        for number, pair in enumerate(zip(made, found, strict=True)):
            yield from _differences(*pair, f"{path}[{number}]")
    elif type(made) is not type(found) or made != found:
        yield path


def _key_id(certificate: bytes) -> str:
    return sha256_hex(public_bytes(x509.load_der_x509_certificate(certificate)))


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _str(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value

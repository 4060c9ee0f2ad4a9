"""The part of `fsck` that checks versions: manifests, statements and lineage."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography import x509
from google.protobuf.message import DecodeError

from adapterdistill.errors import InvalidManifestError, SignatureError, UnauthenticatedError
from adapterdistill.manifest import VersionRef
from adapterdistill.registry.admission.admission import parse_manifest
from adapterdistill.registry.commitments import Opening
from adapterdistill.registry.index.database import Database
from adapterdistill.registry.trust.bundle import Bundle
from adapterdistill.registry.trust.certificates import bearer_of, is_revoked
from adapterdistill.registry.trust.pem import (
    CA_PEM,
    CRL_PEM,
    SERVER_FOLDER,
    read_certificates,
    read_crls,
)
from adapterdistill.registry.trust.statement import Certify, stored_statement, verify_statement

Kind = Literal[
    "index_corrupt",
    "payload_missing",
    "payload_corrupt",
    "payload_orphaned",
    "manifest_bad",
    "statement_bad",
    "signer_revoked",
    "lineage_broken",
    "alias_dangling",
    "audit_broken",
    "audit_behind",
    "audit_differs",
]


@dataclass(frozen=True)
class Finding:
    """A fault or a note of `fsck`."""

    kind: Kind
    name: str
    """Name of the version, alias or file that it is about."""
    detail: str


@dataclass(frozen=True)
class PublishedVersion:
    """The parts of a row of `versions` that `fsck` compares."""

    name: str
    revision: int
    state: str
    withdrawn_teacher: str
    encoder: tuple[str, str]
    payload_bytes: int
    manifest_json: bytes
    statement: bytes | None


def read_versions(db: Database) -> list[PublishedVersion]:
    rows = db.execute(
        "SELECT tenant, adapter, version, revision, state, withdrawn_teacher, weights_sha256,"
        " tokenizer_sha256, payload_bytes, manifest_json, statement FROM versions ORDER BY revision"
    )
    return [
        PublishedVersion(
            f"tenants/{tenant}/adapters/{adapter}/versions/{version}",
            revision,
            state,
            withdrawn_teacher,
            (weights, tokenizer),
            *rest,
        )
        for tenant, adapter, version, revision, state, withdrawn_teacher, weights, tokenizer, *rest
        in rows
    ]  # fmt: skip


def manifest_findings(versions: list[PublishedVersion]) -> Iterator[Finding]:
    for version in versions:
        try:
            manifest = parse_manifest(version.manifest_json)
            VersionRef.parse(version.name)
        except InvalidManifestError as error:
            yield Finding("manifest_bad", version.name, str(error))
            continue
        if manifest.ref.name != version.name:
            yield Finding("manifest_bad", version.name, f"the manifest is of {manifest.ref.name}")
        encoder = manifest.encoder.weights_sha256, manifest.encoder.tokenizer_sha256
        if encoder != version.encoder:
            yield Finding("manifest_bad", version.name, "the index has another encoder for it")
        if manifest.payload_bytes != version.payload_bytes:
            yield Finding("manifest_bad", version.name, "the index has another size for it")


def certify_by(root: Path) -> tuple[Certify, str | None]:
    """Return what verifies certificates, and the registry's name: the server's authorities.

    Without any, as in backups, the certificates are believed. One that was revoked since counts:
    `revocation_notes` tells of it.
    """
    authorities = root / SERVER_FOLDER / CA_PEM
    if authorities.exists():
        bundle = Bundle.of(read_certificates(authorities))
        return bundle.verify, bundle.registry
    return lambda der, _at: bearer_of(x509.load_der_x509_certificate(der)), None


def revocation_notes(root: Path, versions: list[PublishedVersion]) -> Iterator[Finding]:
    """Tell of versions that stay published although their signer's certificate is revoked."""
    revoked = root / SERVER_FOLDER / CRL_PEM
    if not revoked.exists():
        return
    crls = read_crls(revoked)
    for version in versions:
        if version.statement is None or version.state == "withdrawn":
            continue
        try:
            certificate = stored_statement(version.statement).certificate
            signer = x509.load_der_x509_certificate(certificate)
        except (ValueError, DecodeError):
            continue  # `statement_findings` reports it
        if any(is_revoked(signer, crl) for crl in crls):
            detail = (
                "its owner's certificate was revoked after it was published, and others may still"
                " fetch it: `registry withdraw` ends that"
            )
            yield Finding("signer_revoked", version.name, detail)


def statement_findings(
    versions: list[PublishedVersion], certify: Certify, registry: str | None
) -> Iterator[Finding]:
    for version in versions:
        if version.statement is None:
            continue
        try:
            manifest = parse_manifest(version.manifest_json)
            signed = stored_statement(version.statement)
            verify_statement(signed, manifest, certify, registry)
        except InvalidManifestError:
            continue  # `manifest_findings` reports it
        except (SignatureError, UnauthenticatedError) as error:
            yield Finding("statement_bad", version.name, str(error))
        except (ValueError, DecodeError):
            yield Finding("statement_bad", version.name, "it or its certificate is malformed")


def lineage_findings(db: Database, versions: list[PublishedVersion]) -> Iterator[Finding]:
    """Compare lineage, its order and the marks of withdrawn teachers with the manifests."""
    by_name = {version.name: version for version in versions}
    taught: dict[str, dict[str, str]] = {}  # names of teachers, by what the manifest says
    for student, *opening in db.execute("SELECT student, teacher, salt FROM lineage"):
        one = Opening(*opening)
        taught.setdefault(student, {})[one.commitment] = one.name
    for student in taught.keys() - by_name.keys():
        yield Finding("lineage_broken", student, "it has teachers but is not a version")
    from_withdrawn: set[str] = set()
    for version in versions:  # teachers come before their students
        teachers = taught.get(version.name, {})
        try:
            declared = set(parse_manifest(version.manifest_json).teachers)
        except InvalidManifestError:
            continue
        if teachers.keys() != declared:
            yield Finding(
                "lineage_broken",
                version.name,
                f"its manifest names {len(declared)} teachers, the index {len(teachers)},"
                f" of which {len(declared & teachers.keys())} are the same",
            )
        for name in sorted({*teachers.values(), *(declared - teachers.keys())}):
            teacher = by_name.get(name)
            if teacher is None:
                yield Finding("lineage_broken", version.name, f"teacher {name} does not exist")
            elif teacher.revision >= version.revision:
                yield Finding("lineage_broken", version.name, f"teacher {name} was published later")
            elif teacher.state == "withdrawn" or name in from_withdrawn:
                from_withdrawn.add(version.name)
        if (version.name in from_withdrawn) != bool(version.withdrawn_teacher):
            detail = "none is marked" if not version.withdrawn_teacher else "there is none"
            yield Finding("lineage_broken", version.name, f"withdrawn teachers: {detail}")

"""The drill of wrong clocks: an owner's statements, its certificates, and tokens of the endpoint.

Clocks of the machine stay as they are. A statement is dated by a clock that goes wrong, and
certificate and token end in the past, which is how a clock that is too fast sees good ones.
"""

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
from cryptography.hazmat.primitives.serialization import Encoding

from adapterdistill.drills.drill import Outcome, not_refused, seconds_until
from adapterdistill.drills.registry.acknowledged import OWNER, Acknowledged, fsck_findings
from adapterdistill.manifest import Manifest
from adapterdistill.registry import wire
from adapterdistill.registry.access import EVERYONE, Caller
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.registry.status import from_call
from adapterdistill.registry.streams import upload
from adapterdistill.registry.trust import pem
from adapterdistill.registry.trust.authority import LIFETIME, opened
from adapterdistill.registry.trust.credentials import read_credentials
from adapterdistill.registry.trust.statement import WINDOW, make_statement, statement_message
from adapterdistill.registry.v1 import registry_pb2 as pb
from adapterdistill.registry.v1 import registry_pb2_grpc
from adapterdistill.serve.tokens import Tokens, new_token, revoke
from adapterdistill.testbed.registry import Federation, registry_process

_TIMEOUT_S = 30.0
_HOUR = timedelta(hours=1)


def clock_skew(folder: Path, draw: random.Random) -> Outcome:
    """Set an owner's clock wrong by little and by much; then let its certificates expire."""
    federation, told = Federation(folder), Acknowledged()
    credentials = federation.credentials(OWNER)
    with (
        registry_process(federation.root) as server,
        RegistryClient(server.address, timeout_s=_TIMEOUT_S, credentials=credentials) as client,
    ):
        told.publish(client)
        way = draw.choice((-1, 1))
        findings = []
        off = way * draw.uniform(1.01, 100) * WINDOW
        reasons = ("CLOCK_SKEW", "SIGNATURE_INVALID")  # early, no certificate holds yet
        never = told.draw("much")
        findings += not_refused(
            lambda: _publish(server.address, credentials, *never, off), *reasons
        )
        off = way * draw.uniform(0, 0.9) * WINDOW
        little = told.draw("little")
        _publish(server.address, credentials, *little, off)
        told.versions.append(little)
        _renew(federation.root, credentials, -draw.uniform(0.1, 10) * _HOUR)
        findings += not_refused(lambda: told.publish(client), "UNAUTHENTICATED")
        _renew(federation.root, credentials, LIFETIME)
        recovery_s = seconds_until(lambda: told.publish(client))
        findings += told.findings(client)
        if never[0] in client.list(latest_only=False):
            findings.append("a statement was refused, and its version is there")
    findings += _token_findings(folder / "tokens", draw)
    return Outcome(recovery_s, (*findings, *fsck_findings(federation.root)))


def _publish(
    address: str, credentials: Path, manifest: Manifest, payload: bytes, off: timedelta
) -> None:
    """Publish as the client does, by a clock that is `off`; raises as the client."""
    own = read_credentials(credentials)
    signed = make_statement(
        manifest,
        consent=EVERYONE,
        previous=None,
        key=own.signing_key,
        certificate=own.signing_certificate.public_bytes(Encoding.DER),
        registry=own.registry,
        at=datetime.now(UTC) + off,
    )
    header = pb.PublishHeader(
        name=manifest.ref.name,
        manifest_json=manifest.canonical_json(),
        consent=wire.consent_message(EVERYONE),
        statement=statement_message(signed),
    )
    with grpc.secure_channel(address, own.for_grpc()) as channel:
        # Generated stubs have no annotations.
        stub = registry_pb2_grpc.RegistryServiceStub(channel)  # type: ignore[no-untyped-call]
        try:
            upload(stub, header, payload, _TIMEOUT_S, None)
        except grpc.RpcError as error:
            raise from_call(error, "publish") from None


def _renew(root: Path, credentials: Path, lifetime: timedelta) -> None:
    with opened(root) as authority:
        request = credentials / pem.REQUEST
        found = authority.enrol(Caller("owner", OWNER), request, lifetime=lifetime)
    pem.write(credentials / pem.CERTIFICATES, found)


def _token_findings(file: Path, draw: random.Random) -> list[str]:
    """A token that has expired opens nothing, and its successor does at the next look."""
    old, _ = new_token(file, OWNER, days=-draw.uniform(0.1, 10))
    tokens = Tokens(file)
    findings = (
        ["a token that had expired was admitted"] if tokens.admit(old.encode(), OWNER) else []
    )
    revoke(file, OWNER, None)
    new, _ = new_token(file, OWNER, days=1)
    tokens.reload()
    if not tokens.admit(new.encode(), OWNER):
        findings.append("a renewed token was refused")
    return findings

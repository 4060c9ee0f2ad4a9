"""Rotation of the authority: who is trusted at each step, and by whom."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from adapterdistill.errors import ConfigError, UnauthenticatedError
from adapterdistill.registry.access import Caller
from adapterdistill.registry.trust import pem, renewal, rotation
from adapterdistill.registry.trust.authority import create, opened
from adapterdistill.registry.trust.bundle import Bundle, registry_of, vouched
from adapterdistill.registry.trust.certificates import Usage, serial_of
from adapterdistill.registry.trust.credentials import (
    Credentials,
    ServerCredentials,
    read_credentials,
)
from adapterdistill.registry.trust.issuing import link, new_authority
from tests.enrolment import ACME, BOLT, enrolled

OPERATOR = Caller("operator", "operator")
WORDS = b"correct horse"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    create(tmp_path / "root", ["127.0.0.1"], passphrase=WORDS)
    return tmp_path / "root"


@pytest.fixture
def step(root: Path) -> Callable[..., None]:
    def one(name: str, **how: bool) -> None:
        with opened(root, WORDS) as authority:
            getattr(rotation, name)(authority, **how)

    return one


@pytest.fixture
def renewed(root: Path, tmp_path: Path) -> Callable[[Caller], Credentials]:
    """Enrols a caller, or renews its certificates as the registry does."""

    def one(caller: Caller) -> Credentials:
        folder = root / "operator" if caller == OPERATOR else tmp_path / caller.name
        with opened(root, WORDS) as authority:
            if folder.exists():
                request = renewal.begin(folder).read_bytes()
                return renewal.install(folder, authority.renew(caller, request).certificates)
            request_file = pem.request_credentials(folder, caller)
            pem.write(folder / pem.CERTIFICATES, authority.enrol(caller, request_file))
            return read_credentials(folder)

    return one


def der(own: Credentials, usage: Usage = Usage.client) -> bytes:
    one = own.certificate if usage is Usage.client else own.signing_certificate
    return one.public_bytes(Encoding.DER)


def test_everyone_works_at_each_step_and_the_old_certificates_end_with_their_authority(
    root: Path, step: Callable[..., None], renewed: Callable[[Caller], Credentials]
) -> None:
    server = ServerCredentials(root / "server")
    first, other = renewed(ACME), renewed(BOLT)
    registry, signed_at = server.registry, datetime.now(UTC)
    assert first.registry == registry

    step("begin")
    with pytest.raises(ConfigError, match="a rotation has begun already"):
        step("begin")
    for own in (first, other):
        assert server.verify(der(own), Usage.client) == own.caller
    with pytest.raises(ConfigError, match="do not trust the successor") as caught:
        step("switch")
    for late in (ACME, BOLT, OPERATOR):
        assert str(late) in str(caught.value)
    second = renewed(ACME)
    assert len(first.bundle.authorities) == 1 and len(second.bundle.authorities) == 2
    assert second.registry == registry and first.certify(der(second, Usage.signing), signed_at)
    renewed(BOLT), renewed(OPERATOR)
    # Revocations of the old authority go on.
    with opened(root, WORDS) as authority:
        authority.revoke(serial=serial_of(other.certificate))
    with pytest.raises(UnauthenticatedError, match="owner/bolt is revoked"):
        server.verify(der(other), Usage.client)

    step("switch")
    with pytest.raises(ConfigError, match="certificates are of the old authority") as caught:
        step("drop")
    assert str(ACME) in str(caught.value)
    third = renewed(ACME)
    assert third.ca != second.ca and third.registry == registry
    for own in (first, second, third):
        assert server.verify(der(own), Usage.client) == ACME
    # An owner that has the successor in its bundle verifies what the successor's owner signs.
    assert second.certify(der(third, Usage.signing), datetime.now(UTC)) == ACME
    renewed(BOLT), renewed(OPERATOR)

    step("drop")
    for own in (first, second):
        with pytest.raises(UnauthenticatedError, match="of the authority expired at"):
            server.verify(der(own), Usage.client, datetime.now(UTC) + timedelta(seconds=1))
    assert server.verify(der(third), Usage.client) == ACME
    # What was signed before stays valid, for the server and for those who renew since.
    assert server.certify(der(first, Usage.signing), signed_at) == ACME
    fourth = renewed(ACME)
    assert fourth.certify(der(first, Usage.signing), signed_at) == ACME
    with pytest.raises(UnauthenticatedError, match="of the authority expired at"):
        fourth.certify(der(first, Usage.signing), datetime.now(UTC) + timedelta(seconds=1))

    with pytest.raises(ConfigError, match="no rotation has begun"):
        step("switch")
    with pytest.raises(ConfigError, match="no earlier authority is left"):
        step("drop")
    step("begin")  # and again
    assert renewed(ACME).registry == registry and len(read(root)) == 3


def read(root: Path) -> tuple[object, ...]:
    return Bundle.of(pem.read_certificates(root / "server" / pem.CA_PEM)).authorities


def test_force_goes_on_without_those_who_are_late(
    root: Path, step: Callable[..., None], renewed: Callable[[Caller], Credentials]
) -> None:
    own = renewed(ACME)
    step("begin")
    step("switch", force=True)
    step("drop", force=True)
    with pytest.raises(UnauthenticatedError, match="of the authority expired at"):
        ServerCredentials(root / "server").verify(
            der(own), Usage.client, datetime.now(UTC) + timedelta(seconds=1)
        )


def test_each_authoritys_key_is_encrypted_and_a_wrong_passphrase_is_named(
    root: Path, step: Callable[..., None]
) -> None:
    with (
        opened(root, b"battery") as authority,
        pytest.raises(ConfigError, match=r"ca\.key: wrong passphrase"),
    ):
        rotation.begin(authority)
    assert not (root / "authority" / "2").exists()
    step("begin")
    for key in ("authority/ca.key", "authority/2/ca.key"):
        assert (root / key).read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    step("switch", force=True)
    with (
        opened(root) as authority,
        pytest.raises(ConfigError, match=r"2/ca\.key: it is encrypted"),
    ):
        authority.unlock()


def test_a_begun_step_that_was_killed_is_taken_again(
    root: Path, step: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", kill)
        with pytest.raises(Killed):
            step("begin")
    with opened(root, WORDS) as authority:
        assert len(authority.issuers) == 1
    step("begin")
    with opened(root, WORDS) as authority:
        assert len(authority.issuers) == 2 and authority.issuer is authority.issuers[0]


def test_an_answer_with_an_authority_that_no_trusted_one_signed_is_refused(
    root: Path, step: Callable[..., None], renewed: Callable[[Caller], Credentials], tmp_path: Path
) -> None:
    """A registry's server without its authority's key cannot bring in an authority of its own."""
    own = renewed(ACME)
    folder = tmp_path / "acme"
    request = renewal.begin(folder).read_bytes()
    with opened(root, WORDS) as authority:
        honest = authority.renew(ACME, request).certificates
    key = pem.new_tls_key()
    rogue = new_authority(key, timedelta(days=1), own.registry)
    with pytest.raises(UnauthenticatedError, match="authority that the present one has not"):
        renewal.install(folder, honest + pem.certificate_pem(rogue))
    linked = link(rogue, own.ca, key)  # as if the old authority had, by the rogue's own key
    with pytest.raises(ConfigError, match="authorities of one registry"):
        renewal.install(folder, honest + pem.certificate_pem(rogue, linked))
    assert serial_of(read_credentials(folder).certificate) == serial_of(own.certificate)
    step("begin")
    assert len(renewed(ACME).bundle.authorities) == 2


def test_links_lead_from_one_successor_to_the_next() -> None:
    keys = [pem.new_tls_key() for _ in range(4)]
    chain = [new_authority(key, timedelta(days=9), "5" * 32) for key in keys]
    links = [link(chain[n + 1], chain[n], keys[n]) for n in range(3)]
    assert [*vouched(chain[:1], [*chain, *links])] == chain
    assert [*vouched(chain[:1], [*chain, *links[1:]])] == chain[:1]
    assert [*vouched(chain[1:2], [*chain, *links])] == chain[1:]


def test_authorities_of_two_registries_make_no_bundle(root: Path, tmp_path: Path) -> None:
    create(tmp_path / "other", ["127.0.0.1"])
    authorities = [
        one
        for folder in (root, tmp_path / "other")
        for one in pem.read_certificates(folder / "server" / pem.CA_PEM)
    ]
    assert len({registry_of(one) for one in authorities}) == 2
    with pytest.raises(UnauthenticatedError, match="authorities of one registry"):
        Bundle.of(authorities)
    file = tmp_path / "acme" / pem.CERTIFICATES
    enrolled(tmp_path / "other", tmp_path / "acme")
    pem.write(file, file.read_bytes() + pem.certificate_pem(authorities[0]))
    with pytest.raises(ConfigError, match=r"certificates\.pem: expected the authorities of one"):
        read_credentials(tmp_path / "acme")
    assert json.dumps(registry_of(authorities[0])) == f'"{registry_of(authorities[0])}"'

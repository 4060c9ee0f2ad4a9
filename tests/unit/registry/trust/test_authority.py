"""The authority's folder, what it issues, and what of that is believed."""

import base64
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from adapterdistill.errors import ConfigError, NotFoundError, UnauthenticatedError
from adapterdistill.registry.access import Caller
from adapterdistill.registry.trust import issuing, pem
from adapterdistill.registry.trust.authority import LIFETIME, create, opened
from adapterdistill.registry.trust.certificates import (
    MALFORMED,
    Usage,
    bearer_of,
    caller_uri,
    check_crl,
    read_caller_uri,
    serial_of,
    verify_certificate,
)
from adapterdistill.registry.trust.credentials import ServerCredentials, read_credentials
from adapterdistill.registry.trust.statement import WINDOW
from tests.enrolment import ACME, enrolled


def now() -> datetime:
    """Return the time of the test, because a certificate is not valid before it was made."""
    return datetime.now(UTC)


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def named(root: Path, *names: x509.GeneralName) -> bytes:
    """A certificate for connections with any names in it, as our authority would never give."""
    key = pem.read_tls_key(root / "authority/ca.key")
    (ca,) = pem.read_certificates(root / "authority/ca.pem")
    san = x509.SubjectAlternativeName(names)
    return der(
        issuing.new_certificate(
            ca, key, pem.new_tls_key().public_key(), Usage.client, san, timedelta(days=1)
        )
    )


def parts_of(content: bytes) -> list[bytes]:
    """The PEM blocks of a file."""
    return [b"-----BEGIN" + part for part in content.split(b"-----BEGIN")[1:]]


def changed(content: bytes) -> Iterator[bytes]:
    """Change, add or drop one byte, at any place."""
    for position in range(len(content)):
        for mask in (0x01, 0x20, 0x80):
            flipped = bytearray(content)
            flipped[position] ^= mask
            yield bytes(flipped)
    yield content + b"\0"
    yield content[:-1]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    create(tmp_path / "root", ["registry.example", "127.0.0.1"])
    return tmp_path / "root"


def test_enrolled_caller_is_who_was_enrolled_for_either_use(root: Path, tmp_path: Path) -> None:
    for caller in (ACME, Caller("operator", "ops"), Caller("auditor", "kpm.example")):
        own = enrolled(root, tmp_path / caller.role, caller)
        assert own.caller == caller
        for usage, certificate in (
            (Usage.client, own.certificate),
            (Usage.signing, own.signing_certificate),
        ):
            assert verify_certificate(der(certificate), own.ca, None, now(), usage) == caller
            for other in set(Usage) - {usage}:
                with pytest.raises(UnauthenticatedError, match="not for"):
                    verify_certificate(der(certificate), own.ca, None, now(), other)


def test_private_keys_are_their_owners_alone_and_never_in_what_travels(
    root: Path, tmp_path: Path
) -> None:
    enrolled(root, tmp_path / "acme")
    private = [
        tmp_path / "acme" / pem.TLS_KEY,
        tmp_path / "acme" / pem.SIGNING_KEY,
        root / "authority/ca.key",
        root / "server/server.pem",
        root / "operator" / pem.TLS_KEY,
    ]
    for file in private:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    for name in (pem.REQUEST, pem.CERTIFICATES):
        assert b"PRIVATE" not in (tmp_path / "acme" / name).read_bytes()
    for file in private[:2]:
        file.chmod(0o640)
        with pytest.raises(
            ConfigError, match=f"{file.name}: holds a secret, but others may .*mode 0640"
        ):
            read_credentials(tmp_path / "acme")
        file.chmod(0o600)
    private[3].chmod(0o604)
    with pytest.raises(
        ConfigError, match=r"server\.pem: holds a secret, but others may .*mode 0604"
    ):
        ServerCredentials(root / "server")


def test_operator_is_there_from_the_start(root: Path) -> None:
    assert read_credentials(root / "operator").caller == Caller("operator", "operator")


def test_certificate_holds_from_its_issue_to_its_end(root: Path, tmp_path: Path) -> None:
    own = enrolled(root, tmp_path / "acme")
    shown = der(own.certificate)
    for later, says in (
        (-timedelta(hours=1), "not valid before"),
        (LIFETIME + timedelta(hours=1), f"{serial_of(own.certificate)} of owner/acme expired at"),
    ):
        with pytest.raises(UnauthenticatedError, match=says):
            verify_certificate(shown, own.ca, None, now() + later, Usage.client)
    stale = enrolled(root, tmp_path / "acme", lifetime=-timedelta(minutes=1))
    with pytest.raises(UnauthenticatedError, match="expired at"):
        stale.check()


def test_new_certificate_holds_by_every_clock_that_a_statement_may_be_dated_by(
    root: Path, tmp_path: Path
) -> None:
    certificate = enrolled(root, tmp_path / "acme").signing_certificate
    assert certificate.not_valid_before_utc <= now() - WINDOW


def test_revoked_certificates_hold_no_longer_and_renewed_ones_do(
    root: Path, tmp_path: Path
) -> None:
    first = enrolled(root, tmp_path / "acme")
    other = enrolled(root, tmp_path / "bolt", Caller("owner", "bolt"))
    server = ServerCredentials(root / "server")
    assert server.verify(der(first.certificate), Usage.client) == ACME
    with opened(root) as authority:
        assert all(one.revoked for one in authority.revoke(ACME))
        assert len(authority.revoke(ACME)) == 2  # again: harmless
    for usage, certificate in (
        (Usage.client, first.certificate),
        (Usage.signing, first.signing_certificate),
    ):
        with pytest.raises(UnauthenticatedError, match="owner/acme is revoked"):
            server.verify(der(certificate), usage)
    assert server.verify(der(other.certificate), Usage.client).name == "bolt"
    renewed = enrolled(root, tmp_path / "acme-again")
    assert server.verify(der(renewed.certificate), Usage.client) == ACME
    with opened(root) as authority:
        serial = serial_of(renewed.signing_certificate)
        assert [one.usage for one in authority.revoke(serial=serial)] == [Usage.signing]
        held = [one.serial for one in authority.issued() if not one.revoked]
    assert serial_of(renewed.certificate) in held and serial not in held
    assert server.verify(der(renewed.certificate), Usage.client) == ACME


def test_nobody_is_let_in_without_a_revocation_list_of_the_authority(
    root: Path, tmp_path: Path
) -> None:
    own = enrolled(root, tmp_path / "acme")
    server = ServerCredentials(root / "server")
    create(tmp_path / "other", ["localhost"])
    crl = root / "server/crl.pem"
    good = crl.read_bytes()
    for bad in (b"", good[:100], (tmp_path / "other/server/crl.pem").read_bytes(), None):
        crl.unlink()
        if bad is not None:
            crl.write_bytes(bad)
        with pytest.raises(UnauthenticatedError, match="refuses everyone") as caught:
            server.verify(der(own.certificate), Usage.client)
        assert str(root) not in str(caught.value)
        with pytest.raises(ConfigError, match=r"crl\.pem"):
            ServerCredentials(root / "server")
    crl.write_bytes(good)
    assert server.verify(der(own.certificate), Usage.client) == ACME


def test_another_authoritys_certificates_are_not_believed(root: Path, tmp_path: Path) -> None:
    """The other authority has the same name as ours."""
    create(tmp_path / "other", ["localhost"])
    stranger = enrolled(tmp_path / "other", tmp_path / "stranger")
    own = enrolled(root, tmp_path / "acme")
    crl = pem.read_crl(tmp_path / "other/server/crl.pem")
    for shown in (der(stranger.certificate), der(stranger.ca), b"", b"\x30\x03abc"):
        with pytest.raises(UnauthenticatedError, match="not issued by the registry's authority"):
            verify_certificate(shown, own.ca, None, now(), Usage.client)
    with pytest.raises(UnauthenticatedError, match="not for"):
        verify_certificate(der(own.ca), own.ca, None, now(), Usage.client)
    with pytest.raises(UnauthenticatedError, match="not signed"):
        check_crl(crl, own.ca)


URI = x509.UniformResourceIdentifier


@pytest.mark.parametrize(
    "names",
    [
        [URI("adapterdistill://owner/acme"), URI("adapterdistill://owner/bolt")],
        [URI("adapterdistill://owner/acme"), x509.DNSName("acme")],
        [x509.DNSName("acme")],
        *(
            [URI(f"adapterdistill://{wrong}")]
            for wrong in (
                "",
                "owner",
                "owner/",
                "/acme",
                "anyone/anonymous",
                "root/acme",
                "owner/ACME",
                "owner/acme/",
                "owner/acme?x",
                "owner/acme\n",
                "owner/a%63me",
                "owner/" + "a" * 64,
            )
        ),
        [URI("https://owner/acme")],
        [URI("Adapterdistill://owner/acme")],
    ],
)
def test_certificate_that_does_not_name_exactly_one_caller_names_nobody(
    root: Path, names: list[x509.GeneralName]
) -> None:
    (ca,) = pem.read_certificates(root / "authority/ca.pem")
    with pytest.raises(UnauthenticatedError, match=r"names no caller|exactly one"):
        verify_certificate(named(root, *names), ca, None, now(), Usage.client)


@given(st.text(max_size=40))
def test_only_the_uri_of_a_caller_is_read_as_one(text: str) -> None:
    for uri in (text, f"adapterdistill://{text}", f"adapterdistill://owner/{text}"):
        try:
            assert caller_uri(read_caller_uri(uri)) == uri
        except UnauthenticatedError:
            continue


def test_request_for_another_name_or_with_other_keys_is_refused(root: Path, tmp_path: Path) -> None:
    enrolled(root, tmp_path / "acme")
    request = pem.request_credentials(tmp_path / "acme", ACME)
    with opened(root) as authority:
        for caller in (Caller("owner", "bolt"), Caller("operator", "acme")):
            with pytest.raises(ConfigError, match=f"of owner/acme, not of {caller}"):
                authority.enrol(caller, request)
    impostor = tmp_path / "impostor"
    with pytest.raises(ConfigError, match="--new-keys"):
        enrolled(root, impostor)
    assert enrolled(root, impostor, new_keys=True).caller == ACME
    assert enrolled(root, tmp_path / "acme").caller == ACME  # renewed, with the keys of before


def test_malformed_requests_are_refused_by_name(root: Path, tmp_path: Path) -> None:
    good = pem.request_credentials(tmp_path / "acme", ACME).read_bytes()
    other = pem.request_credentials(tmp_path / "bolt", Caller("owner", "bolt")).read_bytes()
    tls, signing = parts_of(good)
    _, other_signing = parts_of(other)
    request = tmp_path / "request.pem"
    flipped = bytearray(good)
    flipped[good.index(b"\n") + 200] ^= 1
    for bad in (
        b"",
        tls,
        tls + tls,
        signing + tls,
        good + tls,
        tls + other_signing,
        bytes(flipped),
        (root / "server/ca.pem").read_bytes(),
    ):
        request.write_bytes(bad)
        with opened(root) as authority, pytest.raises(ConfigError, match=r"request\.pem: expected"):
            authority.enrol(ACME, request)
    with opened(root) as authority:
        assert {one.caller.name for one in authority.issued()} == {"operator"}
        with pytest.raises(ConfigError, match="No such file"):
            authority.enrol(ACME, tmp_path / "absent.pem")


def test_credentials_that_do_not_fit_together_are_refused_by_name(
    root: Path, tmp_path: Path
) -> None:
    enrolled(root, tmp_path / "acme")
    enrolled(root, tmp_path / "bolt", Caller("owner", "bolt"))
    file = tmp_path / "acme" / pem.CERTIFICATES
    good = file.read_bytes()
    for bad, says in (
        ((tmp_path / "bolt" / pem.CERTIFICATES).read_bytes(), r"another key than .*tls\.key"),
        (good + good, "expected a certificate for connections"),
        ((root / "server/ca.pem").read_bytes(), "expected a certificate for connections"),
        (b"none", "no certificates in PEM"),
    ):
        file.write_bytes(bad)
        with pytest.raises(ConfigError, match=rf"certificates\.pem: .*{says}"):
            read_credentials(tmp_path / "acme")
    file.write_bytes(good)
    (tmp_path / "acme" / pem.SIGNING_KEY).unlink()
    with pytest.raises(ConfigError, match=r"signing\.key: No such file"):
        read_credentials(tmp_path / "acme")
    tls_key = (tmp_path / "acme" / pem.TLS_KEY).read_bytes()
    pem.write(tmp_path / "acme" / pem.SIGNING_KEY, tls_key)
    with pytest.raises(ConfigError, match=r"signing\.key: expected an ed25519 key"):
        read_credentials(tmp_path / "acme")


def test_server_is_certified_for_its_hosts_and_again_for_the_same(root: Path) -> None:
    def names() -> list[str]:
        _, certificate = pem.read_server(root / "server/server.pem")
        san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return [str(name.value) for name in san]

    assert names() == ["registry.example", "127.0.0.1"]
    before = (root / "server/server.pem").read_bytes()
    with opened(root) as authority:
        authority.certify_server()
        assert names() == ["registry.example", "127.0.0.1"]
        authority.certify_server(["::1"])
    assert names() == ["::1"]
    assert (root / "server/server.pem").read_bytes() != before
    assert not list((root / "server").glob(".*"))


def test_authority_is_made_once_and_needed_for_all_else(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="authority already"):
        create(root, ["localhost"])
    for hosts in ([], [""], ["two words"], ["host:443"], ["http://host"]):
        with pytest.raises(ConfigError, match="host"):
            create(tmp_path / "new", hosts)
    assert not (tmp_path / "new").exists()
    with pytest.raises(ConfigError, match="registry init"), opened(tmp_path / "new"):
        pass
    with opened(root) as authority:
        for absent in ({"caller": ACME}, {"serial": "12ab"}):
            with pytest.raises(NotFoundError):
                authority.revoke(**absent)  # type: ignore[arg-type]


def test_certificates_do_not_outlive_the_authority(root: Path, tmp_path: Path) -> None:
    own = enrolled(root, tmp_path / "acme", lifetime=timedelta(days=36500))
    assert own.certificate.not_valid_after_utc <= own.ca.not_valid_after_utc
    assert bearer_of(own.certificate) == ACME


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_no_byte_of_a_certificate_or_a_revocation_list_can_be_changed(
    root: Path, tmp_path: Path
) -> None:
    own = enrolled(root, tmp_path / "acme")
    good = pem.read_crl(root / "server/crl.pem")
    crl = good.public_bytes(Encoding.DER)
    shown = der(own.certificate)

    for one in changed(shown):
        with pytest.raises(UnauthenticatedError):
            verify_certificate(one, own.ca, None, now(), Usage.client)
    for one in changed(crl):
        try:
            read = x509.load_der_x509_crl(one)
        except MALFORMED:
            continue
        if read.tbs_certlist_bytes == good.tbs_certlist_bytes and read.signature == good.signature:
            continue  # only how many bits the signature is said to have
        with pytest.raises(UnauthenticatedError):
            check_crl(read, own.ca)
    assert verify_certificate(shown, own.ca, None, now(), Usage.client) == ACME


def test_changed_requests_are_refused_or_say_the_same(root: Path, tmp_path: Path) -> None:
    good = pem.request_credentials(tmp_path / "acme", ACME).read_bytes()
    tls, signing = (x509.load_pem_x509_csr(part) for part in parts_of(good))
    request = tmp_path / "request.pem"
    rest = signing.public_bytes(Encoding.PEM)
    for one in changed(tls.public_bytes(Encoding.DER)):
        body = base64.encodebytes(one).decode()
        armour = f"-----BEGIN CERTIFICATE REQUEST-----\n{body}-----END CERTIFICATE REQUEST-----\n"
        request.write_bytes(armour.encode() + rest)
        try:
            assert (
                pem.read_request(request.read_bytes(), "request.pem").tls == tls.public_key()
            )  # other bits of no meaning
        except (ConfigError, UnauthenticatedError):
            continue

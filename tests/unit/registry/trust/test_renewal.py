"""Renewal in a credentials folder: keys and certificates always belong together."""

import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from adapterdistill.errors import ConfigError, NotPermittedError, UnauthenticatedError
from adapterdistill.registry.access import Caller
from adapterdistill.registry.trust import pem, renewal
from adapterdistill.registry.trust.authority import create, opened
from adapterdistill.registry.trust.certificates import is_due, left_of, serial_of
from adapterdistill.registry.trust.credentials import Credentials, read_credentials
from tests.enrolment import ACME, BOLT, enrolled


@pytest.fixture
def root(tmp_path: Path) -> Path:
    create(tmp_path / "root", ["127.0.0.1"])
    return tmp_path / "root"


@pytest.fixture
def folder(root: Path, tmp_path: Path) -> Path:
    enrolled(root, tmp_path / "acme")
    return tmp_path / "acme"


def answered(root: Path, folder: Path, caller: Caller = ACME) -> bytes:
    """What the registry answers to the request of a renewal that begins in the folder."""
    request = renewal.begin(folder)
    with opened(root) as authority:
        return authority.renew(caller, request.read_bytes()).certificates


def told(own: Credentials) -> tuple[object, ...]:
    """Credentials by value."""
    return own.certificate, own.tls_key_pem, own.signing_key.private_bytes_raw(), own.bundle


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def test_a_renewal_brings_new_keys_and_new_certificates_in_closed_files(
    root: Path, folder: Path
) -> None:
    before = read_credentials(folder)
    own = renewal.install(folder, answered(root, folder))
    assert told(read_credentials(folder)) == told(own)
    assert own.caller == before.caller and own.registry == before.registry
    assert own.tls_key_pem != before.tls_key_pem
    assert own.signing_certificate.public_key() != before.signing_certificate.public_key()
    assert names(folder) == {pem.TLS_KEY, pem.SIGNING_KEY, pem.CERTIFICATES, pem.REQUEST}
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}


def test_keys_and_certificates_match_wherever_a_renewal_ends(
    root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A renewal that is killed at any change of a file, then goes on."""
    serials: set[str] = {serial_of(read_credentials(folder).certificate)}

    class Killed(BaseException):
        pass

    def killed_at(change: int) -> bool:
        """Renew, and end before the change of this number; false if there are fewer."""
        left = change

        def counting(function: str) -> None:
            original = getattr(Path, function)

            def counted(self: Path, *given: object, **named: object) -> object:
                nonlocal left
                if left == 0:
                    raise Killed
                left -= 1
                return original(self, *given, **named)

            patch.setattr(Path, function, counted)

        with monkeypatch.context() as patch:
            counting("replace")
            try:
                answer = answered(root, folder)
                renewal.install(folder, answer)
            except Killed:
                return True
            return False

    change = 0
    while killed_at(change):
        serials.add(serial_of(read_credentials(folder).certificate))  # raises unless they match
        assert read_credentials(folder).caller == ACME
        change += 1
    assert change >= 5  # keys, request, answer, certificates, and the keys to their place
    renewal.settle(folder)
    assert pem.RENEWAL not in names(folder)
    assert len(serials) > 1


def test_a_reader_meets_whole_credentials_while_they_are_renewed(root: Path, folder: Path) -> None:
    """A reader between any two steps, by every interleaving that has one reader."""
    answer = answered(root, folder)
    old = read_credentials(folder)
    pem.write(folder / pem.CERTIFICATES, answer)  # committed, the keys are still in `renewal`
    new = read_credentials(folder)
    assert serial_of(new.certificate) != serial_of(old.certificate)
    (folder / pem.RENEWAL / pem.TLS_KEY).replace(folder / pem.TLS_KEY)
    assert told(read_credentials(folder)) == told(new)
    renewal.settle(folder)
    assert told(read_credentials(folder)) == told(new) and pem.RENEWAL not in names(folder)


def test_an_operators_answer_is_put_into_the_folder_like_the_first(
    root: Path, folder: Path
) -> None:
    """Without the registry: the request proves itself, so that enrolling it needs no --new-keys."""
    request = renewal.begin(folder)
    again = renewal.begin(folder)
    assert request == again == folder / pem.RENEWAL / pem.REQUEST
    with opened(root) as authority:
        pem.write(folder / pem.CERTIFICATES, authority.enrol(ACME, request))
    own = read_credentials(folder)
    assert own.signing_key.public_key() != pem.read_signing_key(folder / pem.SIGNING_KEY)
    renewal.settle(folder)
    assert told(read_credentials(folder)) == told(own) and pem.RENEWAL not in names(folder)


@pytest.fixture
def bolts_answer(root: Path, tmp_path: Path) -> bytes:
    enrolled(root, tmp_path / "bolt", BOLT)
    return answered(root, tmp_path / "bolt", BOLT)


def test_answers_to_another_request_are_refused_and_change_nothing(
    root: Path, folder: Path, bolts_answer: bytes, tmp_path: Path
) -> None:
    before = (folder / pem.CERTIFICATES).read_bytes()
    good = answered(root, folder)
    create(tmp_path / "other", ["127.0.0.1"])
    request = folder / pem.RENEWAL / pem.REQUEST
    with opened(tmp_path / "other") as authority:
        another = authority.enrol(ACME, request)
    with opened(root) as authority:
        ended = authority.renew(ACME, request.read_bytes(), -timedelta(minutes=1)).certificates
    for bad, says in (
        (bolts_answer, "is for another key"),
        (another, "not for owner/acme at"),
        (ended, "expired at"),
        (b"", "no certificates in PEM"),
    ):
        with pytest.raises((ConfigError, UnauthenticatedError), match=says):
            renewal.install(folder, bad)
        assert (folder / pem.CERTIFICATES).read_bytes() == before
    assert renewal.install(folder, good).caller == ACME


def unproven(folder: Path) -> bytes:
    return pem.request_credentials(folder / "new", ACME).read_bytes()


def requests(folder: Path, other: Path) -> Iterator[tuple[bytes, str]]:
    """Requests in the name of acme that it did not make, or not all of."""
    request = renewal.begin(folder).read_bytes()
    bare = unproven(folder)
    yield bare, "must be signed by the signing key"
    yield bare + pem.proof_of(bare, read_credentials(other).signing_key), "must be signed"
    # The proof of another request.
    yield bare + request[request.index(b"-----BEGIN RENEWAL") :], "must be signed"
    marker = b"-----BEGIN RENEWAL PROOF-----\n"
    yield request.replace(marker, marker + b"AAAA"), "must be signed"
    yield pem.request_credentials(other, BOLT).read_bytes(), "owner/acme asks for .* of owner/bolt"
    yield b"", "expected two certificate requests"


def test_only_who_has_the_signing_key_renews(root: Path, folder: Path, tmp_path: Path) -> None:
    enrolled(root, tmp_path / "bolt", BOLT)
    with opened(root) as authority:
        before = [one.serial for one in authority.issued()]
        for request, says in requests(folder, tmp_path / "bolt"):
            with pytest.raises((ConfigError, NotPermittedError), match=says):
                authority.renew(ACME, request)
        assert [one.serial for one in authority.issued()] == before


def test_the_proof_of_a_revoked_or_ended_certificate_proves_nothing(
    root: Path, folder: Path, tmp_path: Path
) -> None:
    request = renewal.begin(folder).read_bytes()
    enrolled(root, tmp_path / "ended", BOLT, lifetime=-timedelta(minutes=1))
    late = renewal.begin(tmp_path / "ended").read_bytes()
    with opened(root) as authority:
        with pytest.raises(NotPermittedError, match="must be signed by the signing key of a valid"):
            authority.renew(BOLT, late)
        authority.revoke(ACME)
        with pytest.raises(NotPermittedError, match="must be signed by the signing key of a valid"):
            authority.renew(ACME, request)


def test_certificates_are_due_when_a_third_of_their_time_is_left(root: Path, folder: Path) -> None:
    own: Credentials = read_credentials(folder)
    start, end = own.certificate.not_valid_before_utc, own.certificate.not_valid_after_utc
    third = (end - start) / 3
    assert not is_due(own.certificate, end - third - timedelta(seconds=1))
    assert is_due(own.certificate, end - third + timedelta(seconds=1))
    assert not own.is_due(datetime.now(UTC)) and own.is_due(end)
    assert left_of(own.certificate, end - timedelta(days=3, hours=1)).endswith("(3 days)")
    assert left_of(own.certificate, end + timedelta(days=3)).endswith("(0 days)")


def test_a_folder_that_cannot_be_written_says_so(
    root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = answered(root, folder)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(ConfigError, match=r"cannot write .*No space left"):
        renewal.install(folder, answer)
    monkeypatch.undo()
    pem.write(folder / pem.CERTIFICATES, answer)
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(ConfigError, match=f"cannot write {folder}: No space left"):
        renewal.settle(folder)

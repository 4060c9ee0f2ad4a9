"""Keys: those of revoked certificates are refused, and the authority's own may be encrypted."""

from pathlib import Path

import pytest

from adapterdistill.errors import ConfigError
from adapterdistill.registry.access import Caller
from adapterdistill.registry.trust import pem
from adapterdistill.registry.trust.authority import create, opened
from tests.enrolment import ACME, enrolled


@pytest.fixture
def root(tmp_path: Path) -> Path:
    create(tmp_path / "registry", ["127.0.0.1"])
    return tmp_path / "registry"


def test_keys_of_a_revoked_certificate_are_refused_for_ever_and_for_everybody(
    root: Path, tmp_path: Path
) -> None:
    enrolled(root, tmp_path / "acme")
    signing_key = (tmp_path / "acme" / pem.SIGNING_KEY).read_bytes()
    with opened(root) as authority:
        serials = [one.serial for one in authority.issued() if one.caller == ACME]
        authority.revoke(ACME)
    for new_keys in (False, True):
        with pytest.raises(
            ConfigError, match=r"revoked, and which is refused for ever: owner/acme"
        ):
            enrolled(root, tmp_path / "acme", new_keys=new_keys)
    # One key of the two is enough, under any name and in any folder.
    bolt = tmp_path / "bolt"
    pem.write(bolt / pem.SIGNING_KEY, signing_key)
    with pytest.raises(ConfigError, match="refused for ever"):
        enrolled(root, bolt, Caller("owner", "bolt"))
    with opened(root) as authority:
        assert [one.serial for one in authority.issued() if one.caller == ACME] == serials
    assert enrolled(root, tmp_path / "new").caller == ACME


def test_an_encrypted_key_of_the_authority_signs_with_its_passphrase_alone(tmp_path: Path) -> None:
    root, words = tmp_path / "encrypted", b"correct horse"
    create(root, ["localhost"], passphrase=words)
    key = (root / "authority" / "ca.key").read_bytes()
    assert key.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----") and words not in key
    request = pem.request_credentials(tmp_path / "acme", ACME)
    for wrong, said in ((None, "is encrypted, and needs"), (b"battery", "this passphrase opens")):
        with (
            opened(root, wrong) as authority,
            pytest.raises(ConfigError, match=rf"ca\.key: .*{said}"),
        ):
            authority.enrol(ACME, request)
    with opened(root) as authority:  # whoever may only list needs no key
        assert {one.caller.name for one in authority.issued()} == {"operator"}
    with opened(root, words) as authority:
        authority.enrol(ACME, request)
        assert all(one.revoked for one in authority.revoke(ACME))


def test_a_passphrase_is_read_from_a_closed_file_that_is_not_empty(tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    pem.write(file, b"correct horse\n")
    assert pem.read_passphrase(file) == b"correct horse"
    pem.write(file, b"\n")
    with pytest.raises(ConfigError, match="expected a passphrase, found nothing"):
        pem.read_passphrase(file)
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        pem.read_passphrase(file)

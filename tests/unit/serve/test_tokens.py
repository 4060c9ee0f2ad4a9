"""The token file: its contents, the tokens that it admits, and the faults that it refuses."""

import hashlib
import json
import os
from pathlib import Path
from unittest import mock

import pytest

from adapterdistill.errors import ConfigError
from adapterdistill.files import read_secret
from adapterdistill.serve import tokens as module
from adapterdistill.serve.tokens import MAX_PER_HOLDER, Tokens, new_token, read_tokens, revoke

KINDS = {"tenant": "acme", "operator": None}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


def made(path: Path, tenant: str | None, *, days: float = 1) -> str:
    return new_token(path, tenant, days=days)[0]


@pytest.mark.parametrize("holder", KINDS.values(), ids=KINDS)
def test_a_token_opens_what_it_was_made_for_and_nothing_else(
    path: Path, holder: str | None
) -> None:
    text = made(path, holder)
    held = Tokens(path)
    for other in ("acme", "acme2", "nobody", "", None):
        assert held.admit(text.encode(), other) == (other == holder)
    for wrong in (b"", text[:-1].encode(), text.encode() + b"A", text.upper().encode(), b"\xff"):
        assert not held.admit(wrong, holder)
    digest = read_tokens(path)[0].sha256
    assert not held.admit(digest.encode(), holder)  # the file holds nothing that lets one in
    assert not held.admit(bytes.fromhex(digest), holder)


def test_a_token_has_256_random_bits_and_only_its_hash_is_kept(path: Path) -> None:
    text, other = made(path, "acme"), made(path, "acme")
    assert text.startswith("adt_") and len(text) == 4 + 43 and text != other
    assert text not in path.read_text() and text[4:] not in path.read_text()
    kept = json.loads(path.read_text())["tokens"]
    assert [t["sha256"] for t in kept] == [
        hashlib.sha256(t.encode()).hexdigest() for t in (text, other)
    ]
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_tokens_rotate_without_a_restart_and_without_a_gap(path: Path) -> None:
    old = made(path, "acme")
    held = Tokens(path)
    assert not held.reload()  # unchanged: not read
    new = made(path, "acme")
    assert held.reload()
    assert held.admit(old.encode(), "acme") and held.admit(new.encode(), "acme")
    [gone] = revoke(path, "acme", read_tokens(path)[0].id)
    assert gone.sha256 == hashlib.sha256(old.encode()).hexdigest()
    assert held.reload()
    assert not held.admit(old.encode(), "acme") and held.admit(new.encode(), "acme")


def test_without_a_file_nobody_is_admitted_until_there_is_one(path: Path) -> None:
    held = Tokens(path)
    assert not held.admit(b"", None) and not held.open_to_somebody
    with pytest.raises(ConfigError, match="No such file"):
        held.reload()  # told once
    assert not held.reload()
    text = made(path, "acme")
    assert held.reload() and held.admit(text.encode(), "acme")


def test_revoking_all_of_a_tenant_leaves_the_others(path: Path) -> None:
    holders = ("acme", "acme", "other", None)
    texts = [made(path, holder) for holder in holders]
    assert len(revoke(path, "acme", None)) == 2
    held = Tokens(path)
    admitted = [held.admit(t.encode(), h) for t, h in zip(texts, holders, strict=True)]
    assert admitted == [False, False, True, True]
    for holder, token_id in (("acme", None), ("other", "0" * 12)):
        with pytest.raises(ConfigError, match="no such token"):
            revoke(path, holder, token_id)


def test_an_expired_token_opens_nothing_though_the_file_is_as_before(path: Path) -> None:
    text = made(path, "acme", days=0.5)
    held = Tokens(path)
    assert held.admit(text.encode(), "acme")
    now = module.time.time()
    with mock.patch.object(module.time, "time", return_value=now + 43_201):
        assert not held.admit(text.encode(), "acme")


def test_expired_rows_go_when_one_is_made_and_a_holder_has_only_so_many(path: Path) -> None:
    made(path, "acme", days=-1)
    for _ in range(MAX_PER_HOLDER):
        made(path, "acme")
    assert len(read_tokens(path)) == MAX_PER_HOLDER
    with pytest.raises(ConfigError, match="tenant acme has 8 tokens already"):
        made(path, "acme")
    made(path, None)  # others may


def test_every_holder_costs_as_many_comparisons(path: Path) -> None:
    text = made(path, "acme")
    for _ in range(3):
        made(path, "many")
    held = Tokens(path)
    for token, holder in ((text, "acme"), (text, "many"), (text, "nobody"), ("", None)):
        with mock.patch.object(
            module.hmac, "compare_digest", wraps=module.hmac.compare_digest
        ) as compare:
            held.admit(token.encode(), holder)
        assert compare.call_count == MAX_PER_HOLDER


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o666])
def test_a_file_that_others_may_read_or_write_is_refused(path: Path, mode: int) -> None:
    made(path, "acme")
    path.chmod(mode)
    for use in (lambda: Tokens(path), lambda: made(path, "acme"), lambda: read_secret(path)):
        with pytest.raises(ConfigError, match=f"mode {mode:04o}"):
            use()


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"tokens": [{"tenant": "acme"}]}', '{"version": 2}', '{"tokens": [], "x": 1}'],
)
def test_a_file_of_something_else_is_refused_and_not_quoted(path: Path, content: str) -> None:
    path.write_text(content + " canary-4711")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="not a token file") as raised:
        Tokens(path)
    assert "canary" not in str(raised.value)


def test_a_file_with_too_many_tokens_of_one_holder_is_refused(path: Path) -> None:
    made(path, "acme")
    contents = json.loads(path.read_text())
    contents["tokens"] *= MAX_PER_HOLDER + 1
    path.write_text(json.dumps(contents))
    with pytest.raises(ConfigError, match="more than 8 tokens"):
        read_tokens(path)


def test_a_missing_file_and_a_missing_folder_are_named(path: Path) -> None:
    for use in (lambda: read_tokens(path), lambda: revoke(path, "acme", None)):
        with pytest.raises(ConfigError, match=r"tokens\.json: No such file"):
            use()
    with pytest.raises(ConfigError, match="No such file"):
        made(path / "deeper" / "tokens.json", "acme")


@pytest.mark.parametrize("what", ["file", "folder"])
def test_without_its_file_no_token_is_valid_until_there_is_one_again(path: Path, what: str) -> None:
    text, operator = made(path, "acme"), made(path, None)
    held = Tokens(path)
    there, elsewhere = (path, "elsewhere") if what == "file" else (path.parent, "elsewhere.d")
    away = there.rename(there.with_name(elsewhere))
    with pytest.raises(ConfigError, match=r"tokens\.json: No such file"):
        held.reload()
    assert not held.open_to_somebody
    assert not held.admit(text.encode(), "acme") and not held.admit(operator.encode(), None)
    assert not held.reload()  # told of once
    away.rename(there)
    assert held.reload()
    assert held.admit(text.encode(), "acme") and held.admit(operator.encode(), None)


def test_what_was_read_holds_on_while_the_file_is_damaged(path: Path) -> None:
    text = made(path, "acme")
    held = Tokens(path)
    good = path.read_bytes()
    path.write_bytes(b"{")
    with pytest.raises(ConfigError):
        held.reload()
    assert held.admit(text.encode(), "acme")
    assert not held.reload()  # told of once
    path.write_bytes(good)
    os.utime(path, ns=(1, 1))
    assert held.reload()

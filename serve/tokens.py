"""Bearer tokens: who may ask for which tenant. A file of hashes, read again when it changes.

A token is 256 random bits, so one sha256 is enough. A slow hash protects a secret that a person
chose; nobody guesses 256 bits, and each request would wait for the hash. A reader of the file
learns nothing that opens a tenant. Needs neither torch nor Ray.
"""

import hashlib
import hmac
import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, StringConstraints, ValidationError

from adapterdistill.errors import ConfigError
from adapterdistill.files import alone_in, read_secret, write_secret
from adapterdistill.manifest import NAME_PATTERN

PREFIX = "adt_"
"""The prefix by which scanners for leaked secrets recognise a token."""
MAX_PER_HOLDER = 8
"""Most tokens of one holder: more than a rotation needs. Each request costs as many comparisons."""
_NO_TOKEN = (secrets.token_bytes(32), 0.0)  # expired before it was made
_ABSENT = (-1,)


class Token(BaseModel):
    """The stored part of a token. `tenant`: None for the operator, who reads metrics and
    documents."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenant: Annotated[str, StringConstraints(pattern=NAME_PATTERN)] | None
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    created: AwareDatetime
    expires: AwareDatetime

    @property
    def id(self) -> str:
        """The name of the token for people; it reveals nothing of the token."""
        return self.sha256[:12]

    @property
    def expired(self) -> bool:
        return self.expires <= datetime.now(UTC)


class _Contents(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    version: Literal[1] = 1
    tokens: tuple[Token, ...] = ()


class Tokens:
    """The tokens of a file, for a replica. One thread reloads, any thread may ask."""

    def __init__(self, path: Path) -> None:
        """Read the file. Without one, no token is valid until there is one.

        Raises ConfigError like `read_tokens`, but not for a file that is missing.
        """
        self._path = path
        self._stamp: tuple[int, ...] = ()
        self._held: dict[str | None, tuple[tuple[bytes, float], ...]] = {}
        if _stamp(path) != _ABSENT:
            self.reload()

    def reload(self) -> bool:
        """Read the file if it changed; returns whether it was read.

        Raises:
            ConfigError: the file is refused. The tokens that were read before stay valid until they
                expire; but without a file, no token is valid until there is one again.
        """
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return False
        self._stamp = stamp  # also for a refused file: one message is enough
        if stamp == _ABSENT:
            self._held = {}
            raise ConfigError(f"{self._path}: No such file")
        held: dict[str | None, list[tuple[bytes, float]]] = {}
        for token in read_tokens(self._path):
            known = (bytes.fromhex(token.sha256), token.expires.timestamp())
            held.setdefault(token.tenant, []).append(known)
        nobody = (_NO_TOKEN,) * MAX_PER_HOLDER
        self._held = {h: (*known, *nobody)[:MAX_PER_HOLDER] for h, known in held.items()}
        return True

    @property
    def open_to_somebody(self) -> bool:
        """Whether any token was read that may still be valid."""
        return bool(self._held)

    def admit(self, token: bytes, tenant: str | None) -> bool:
        """Whether this is a valid token of the tenant (None: of the operator).

        Takes the same steps for every holder, known or not: always as many comparisons.
        """
        digest, now, admitted = hashlib.sha256(token).digest(), time.time(), False
        for known, expires in self._held.get(tenant, (_NO_TOKEN,) * MAX_PER_HOLDER):
            admitted |= hmac.compare_digest(digest, known) & (now < expires)
        return admitted

    def admit_anyone(self, token: bytes) -> bool:
        """Whether this is a valid token of any holder."""
        return sum(self.admit(token, holder) for holder in self._held) > 0  # not `any`: equal time


def read_tokens(path: Path) -> tuple[Token, ...]:
    """The tokens of a file.

    Raises:
        ConfigError: the file cannot be read, others than its owner may read or write it, or it is
            not a token file.
    """
    try:
        contents = _Contents.model_validate_json(read_secret(path))
    except ValidationError:
        raise ConfigError(f"{path}: not a token file: make one with `token new`") from None
    held = Counter(token.tenant for token in contents.tokens)
    if any(num_tokens > MAX_PER_HOLDER for num_tokens in held.values()):
        raise ConfigError(f"{path}: a tenant has more than {MAX_PER_HOLDER} tokens: revoke some")
    return contents.tokens


def new_token(path: Path, tenant: str | None, *, days: float) -> tuple[str, Token]:
    """Add a token to the file, which is made if absent.

    Returns the token, to be shown once, and its row. Expired rows are dropped.

    Raises:
        ConfigError: as `read_tokens`, or the holder has the most tokens that it may have.
    """
    text = PREFIX + secrets.token_urlsafe(32)
    created = datetime.now(UTC).replace(microsecond=0)
    token = Token(
        tenant=tenant,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        created=created,
        expires=created + timedelta(days=days),
    )

    def added(tokens: Sequence[Token]) -> list[Token]:
        kept = [known for known in tokens if not known.expired]
        if sum(known.tenant == tenant for known in kept) >= MAX_PER_HOLDER:
            whose = "the operator" if tenant is None else f"tenant {tenant}"
            raise ConfigError(f"{whose} has {MAX_PER_HOLDER} tokens already: revoke one first")
        return [*kept, token]

    _rewrite(path, added, may_be_absent=True)
    return text, token


def revoke(path: Path, tenant: str | None, token_id: str | None) -> tuple[Token, ...]:
    """Remove the holder's token with this id, or all of its tokens; returns the removed ones.

    Raises:
        ConfigError: as `read_tokens`, or there is no such token.
    """
    gone: list[Token] = []

    def without(tokens: Sequence[Token]) -> list[Token]:
        gone.extend(t for t in tokens if t.tenant == tenant and token_id in (None, t.id))
        if not gone:
            raise ConfigError(f"{path} has no such token")
        return [token for token in tokens if token not in gone]

    _rewrite(path, without)
    return tuple(gone)


def _rewrite(
    path: Path,
    change: Callable[[Sequence[Token]], list[Token]],
    *,
    may_be_absent: bool = False,
) -> None:
    """Replace the file in one step: a reader sees the old or the new file, whole."""
    try:
        with alone_in(path.parent):  # concurrent changes take turns
            tokens = () if may_be_absent and not path.exists() else read_tokens(path)
            contents = _Contents(tokens=tuple(change(tokens)))
            write_secret(path, f"{contents.model_dump_json(indent=1)}\n".encode())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return _ABSENT
    except OSError as error:  # such as a file system that does not answer
        return (-2, error.errno or 0)
    return (found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode)

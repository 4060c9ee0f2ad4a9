"""Named bytes in a folder or in an object store: bundles on their way to serving nodes, payloads.

    open      open_objects("s3://bucket/prefix?endpoint_override=https://minio:9000")
              open_objects("file:///mnt/shared"), open_objects("/mnt/shared")
    read      objects.read("live/acme.json")             bytes, or None: there is no such object
    write     objects.write("live/acme.json", content)   whole or not at all; readers see the old
                                                         object or the new one
    look      objects.exists(key), objects.list("live"), objects.delete(key)

A key is a path of plain names, `live/acme.json`. Nothing depends on a lock, because a lock on a
folder may hold on one machine only (NFS), and object stores have none: whoever writes content that
others point to writes it first, under the name of its digest, and replaces the pointer last.

Every method raises `StoreError` when the store cannot be reached or refuses. S3 comes from
`pyarrow.fs`; its credentials come from the environment, from ~/.aws, or from the machine's role,
never from a URI, which logs would show.
"""

import contextlib
import fcntl
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from pyarrow import fs

from adapterdistill.errors import ConfigError, StoreError
from adapterdistill.files import STAGED, alone_in, private_folder, replace_file

_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_S3_OPTIONS = frozenset({"endpoint_override", "region", "scheme"})
_CONNECT_S, _SILENT_S, _ATTEMPTS = 3.0, 5.0, 2
_T = TypeVar("_T")


@dataclass(frozen=True)
class Found:
    """An object of a listing."""

    key: str
    size: int
    """Bytes."""
    modified_ns: int
    """When it was written, by the store's clock. Some stores count in whole seconds."""


class Objects(ABC):
    """A place for objects. Thread-safe.

    where: its address for messages, without anything secret.
    """

    where: str

    @abstractmethod
    def read(self, key: str) -> bytes | None:
        """The object's content; None: there is none."""

    @abstractmethod
    def write(self, key: str, content: bytes) -> None:
        """Put an object in the place of any other of this key, in one step."""

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Whether there is an object of this key."""

    @abstractmethod
    def list(self, folder: str) -> Iterator[Found]:
        """The objects directly below `folder`, in no order; none if nothing was written there."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""

    @contextlib.contextmanager
    def turn(self, folder: str) -> Iterator[None]:
        """Keep out others on this machine that take a turn with `folder`, where the place can.

        It serves those who read an object and then replace it. Object stores have no locks, and a
        lock on a shared folder may not reach other machines: there the last writer holds.
        """
        yield


def open_objects(where: "str | Path | Objects") -> Objects:
    """Open a place for objects; nothing is read yet, and a folder is made by the first write.

    Args:
        where: a folder, `file:///FOLDER` (also one that several machines mount), or
            `s3://BUCKET/PREFIX`, with `?endpoint_override=`, `region=`, `scheme=` if need be.

    Raises:
        ConfigError: it is none of these.
    """
    if isinstance(where, Objects):
        return where
    if isinstance(where, Path) or "://" not in where:
        return Folder(Path(where).expanduser().absolute())
    url = urlsplit(where)
    if url.scheme == "file" and url.netloc in ("", "localhost") and url.path and not url.query:
        return Folder(Path(unquote(url.path)))
    if url.scheme == "s3":
        return _bucket(where)
    raise ConfigError(
        f"{url.scheme}:// is not a place for objects: expected a folder, file:///FOLDER or "
        "s3://BUCKET/PREFIX"
    )


class Folder(Objects):
    """A folder, which machines may share: files of mode 0600 in folders of mode 0700."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.where = str(path)

    def read(self, key: str) -> bytes | None:
        def content() -> bytes | None:
            try:
                return self._file(key).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None

        return self._tried(content)

    def write(self, key: str, content: bytes) -> None:
        file = self._file(key)

        def write() -> None:
            private_folder(self.path)
            for folder in reversed(file.parents[: key.count("/")]):
                folder.mkdir(mode=0o700, exist_ok=True)
            with _writing_in(file.parent):
                try:
                    replace_file(file, content)
                except FileNotFoundError:  # a writer on another machine took this for a left one
                    replace_file(file, content)

        self._tried(write)

    def exists(self, key: str) -> bool:
        return self._tried(self._file(key).is_file)

    def list(self, folder: str) -> Iterator[Found]:
        def found() -> list[Found]:
            if not self.path.is_dir():
                raise FileNotFoundError(2, os.strerror(2))
            listed = []
            try:
                with os.scandir(self._file(folder)) as entries:
                    for entry in entries:
                        if not entry.name.startswith(".") and entry.is_file():
                            stat = entry.stat()
                            key = f"{folder}/{entry.name}"
                            listed.append(Found(key, stat.st_size, stat.st_mtime_ns))
            except FileNotFoundError:
                pass
            return listed

        yield from self._tried(found)

    def delete(self, key: str) -> None:
        self._tried(lambda: self._file(key).unlink(missing_ok=True))

    @contextlib.contextmanager
    def turn(self, folder: str) -> Iterator[None]:
        with contextlib.ExitStack() as alone:
            with contextlib.suppress(OSError):  # no such folder, or no locks
                alone.enter_context(alone_in(self._file(folder)))
            yield

    def _file(self, key: str) -> Path:
        return self.path / _checked(key)

    def _tried(self, act: Callable[[], _T]) -> _T:
        try:
            return act()
        except OSError as error:
            raise StoreError(f"store {self.where} cannot be used: {error.strerror}") from None


@contextlib.contextmanager
def _writing_in(folder: Path) -> Iterator[None]:
    """Announce a writer to the others on this machine; the first removes what killed ones left.

    Without locks nothing is removed, and nothing else changes.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody else is writing here
            for left in folder.glob(f"{STAGED}*"):
                left.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


class Bucket(Objects):
    """A prefix of a file system of `pyarrow.fs` that writes a file whole, such as S3."""

    def __init__(self, system: fs.FileSystem, prefix: str, where: str) -> None:
        self.where = where
        self._system = system
        self._prefix = prefix.rstrip("/")

    def read(self, key: str) -> bytes | None:
        def content() -> bytes | None:
            try:
                with self._system.open_input_stream(self._path(key)) as stream:
                    return bytes(stream.read())
            except FileNotFoundError:
                return None

        return self._tried(content)

    def write(self, key: str, content: bytes) -> None:
        def write() -> None:
            with self._system.open_output_stream(self._path(key)) as stream:
                stream.write(content)

        self._tried(write)

    def exists(self, key: str) -> bool:
        return self._tried(lambda: bool(self._info(key).type == fs.FileType.File))

    def list(self, folder: str) -> Iterator[Found]:
        wanted = fs.FileSelector(self._path(folder), allow_not_found=True)
        for info in self._tried(lambda: self._system.get_file_info(wanted)):
            if info.type == fs.FileType.File:
                yield Found(f"{folder}/{info.base_name}", info.size, info.mtime_ns or 0)

    def delete(self, key: str) -> None:
        def delete() -> None:
            with contextlib.suppress(FileNotFoundError):
                self._system.delete_file(self._path(key))

        self._tried(delete)

    def _info(self, key: str) -> fs.FileInfo:
        return self._system.get_file_info(self._path(key))

    def _path(self, key: str) -> str:
        return f"{self._prefix}/{_checked(key)}"

    def _tried(self, act: Callable[[], _T]) -> _T:
        try:
            return act()
        except OSError as error:
            raise StoreError(f"store {self.where} cannot be used: {_why(error)}") from None


def _bucket(uri: str) -> Bucket:
    url = urlsplit(uri)
    where = f"s3://{url.hostname or ''}{url.path}"
    options = dict(parse_qsl(url.query))
    if "@" in url.netloc:
        raise ConfigError(
            f"{where}: holds credentials, which logs would show: give them in the environment "
            "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY) or in ~/.aws"
        )
    if not url.netloc:
        raise ConfigError(f"{where}: names no bucket: expected s3://BUCKET/PREFIX")
    unknown = sorted(options.keys() - _S3_OPTIONS)
    if unknown:
        raise ConfigError(
            f"{where}: {unknown[0]} is not an option: expected {', '.join(sorted(_S3_OPTIONS))}"
        )
    endpoint = options.get("endpoint_override", "")
    if "://" in endpoint:
        options["scheme"], options["endpoint_override"] = endpoint.split("://", 1)
    if options.get("scheme", "https") not in ("http", "https"):
        raise ConfigError(f"{where}: scheme: expected http or https")
    if "endpoint_override" in options:
        options.setdefault("region", "us-east-1")  # otherwise it would ask AWS
    system = fs.S3FileSystem(
        **options,
        connect_timeout=_CONNECT_S,
        request_timeout=_SILENT_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
    )
    return Bucket(system, f"{url.netloc}{url.path}", where)


def _why(error: OSError) -> str:
    """The reason in a few words: S3's message repeats the whole request."""
    text = str(error)
    for sign, words in (
        ("ACCESS_DENIED", "access denied: check the credentials and what they may do"),
        ("INVALID_ACCESS_KEY", "the access key is unknown there"),
        ("SIGNATURE_DOES_NOT_MATCH", "the secret key is wrong"),
        ("NO_SUCH_BUCKET", "there is no such bucket"),
        ("NETWORK_CONNECTION", "no connection"),
        ("curlCode", "no connection"),
        ("No response body", "the server refused"),
    ):
        if sign in text:
            return words
    return error.strerror or text.splitlines()[0][:200]


def _checked(key: str) -> str:
    if _KEY.fullmatch(key) is None:
        raise ValueError("not a key of an object: expected plain names with slashes between them")
    return key

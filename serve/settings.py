"""Settings of a serving deployment, from the `args` of a Serve config file."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from adapterdistill.errors import ConfigError, StoreError, listed
from adapterdistill.files import private_folder
from adapterdistill.manifest import sha256_hex
from adapterdistill.serve.queue.fair_queue import QueueLimits
from adapterdistill.store.mirror import Mirror
from adapterdistill.store.objects import Folder, Objects, open_objects
from adapterdistill.store.release import CHANGED
from adapterdistill.store.sealing import read_key


class ServeSettings(BaseModel):
    """The settings of one deployment. Replicas may start anywhere, so `store` is an absolute
    path."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: str = Field(
        description="Where the serving bundles are: a folder, or `file://` or `s3://` where it "
        "lies on other machines."
    )
    copies: Path | None = Field(
        default=None,
        description="Folder on each node for copies of a store elsewhere, which are served while "
        "the store is out of reach; unset: below `~/.cache/adapterdistill`.",
    )
    keys: Path | None = Field(
        default=None,
        description="Folder of the tenants' keys, `TENANT.key`, for bundles that are encrypted.",
    )
    push: bool = Field(
        default=False,
        description="Take bundles over HTTP (`adapterdistill bundle push`) with a tenant's token.",
    )
    max_push_mib: float = Field(
        default=256, gt=0, description="Most that one push of a tenant may hold, MiB."
    )
    create_store: bool = Field(
        default=False,
        description="Make the store if it is absent, and serve nobody until it has a bundle.",
    )
    encoder: str = Field(default="minilm-l6", description="The encoder that is loaded at start.")
    other_encoders: tuple[str, ...] = Field(
        default=(),
        description="Encoders that may be loaded beside it, each when a bundle needs it.",
    )
    encoder_mib: float = Field(
        default=2048, gt=0, description="Memory for the weights of all encoders, MiB."
    )
    dtype: Literal["auto", "float32", "bfloat16", "int8"] = "auto"
    device: str = "cpu"
    max_tokens: int = Field(
        default=128,
        ge=8,
        le=8192,
        description="Length at which queries are cut for bundles that do not record one.",
    )
    threads: int = Field(default=1, ge=1, le=256, description="torch threads of a replica.")
    max_batch_tokens: int = Field(
        default=512, ge=8, le=1 << 20, description="Tokens in one forward."
    )
    """Measured on one core: a token costs 116 us in a batch of 32, 73 us in one of 128, 62 us in
    one of 512, and more again from 2,000 on; 512 take 33 ms. A GPU needs thousands."""
    tenant_batch_tokens: int = Field(
        default=16,
        ge=1,
        le=1 << 20,
        description="One tenant's tokens in a batch that others may need.",
    )
    """A batch costs 1.8 ms beside its tokens, as much as 30 tokens. With fewer than 30, a flood
    makes the batches that other tenants meet less than twice as long. The price: while others are
    active, the flood is served at a third of the rate that it has alone."""
    max_wait_ms: float = Field(default=0, ge=0, le=1000)
    """0 is enough: under load batches fill while the engine works, and an idle engine need not
    wait."""
    max_queued: int = Field(default=2048, ge=64, description="Queries waiting in a replica.")
    """About 2 s of work: a later request does better at another replica."""
    max_queued_of_tenant: int = Field(
        default=512, ge=64, description="Most of these for one tenant."
    )
    """A quarter: three floods leave room for everyone else."""
    request_timeout_s: float = Field(default=10.0, gt=0, le=3600, description="Longest wait.")
    """Few users wait for longer. It is less than the 30 s after which the proxy gives up, so that
    no request is computed for nobody."""
    max_slots: int | None = Field(
        default=None,
        ge=1,
        description="Most tenants of an encoder in memory; unset: all that `bank_mib` holds.",
    )
    bank_mib: float = Field(
        default=1024,
        gt=0,
        description="Memory for adapters, MiB; each encoder that is named has an equal part.",
    )
    refresh_s: float = Field(default=1.0, ge=0.05, le=3600)
    registry: str | None = Field(
        default=None, description="HOST:PORT of the registry whose withdrawals are followed."
    )
    registry_credentials: Path | None = Field(
        default=None, description="Folder of an auditor's keys and certificates, for TLS."
    )
    tokens: Path | None = Field(default=None, description="File of `adapterdistill token`.")
    open_to_all: bool = Field(
        default=False,
        description="Instead of `tokens`: everyone who reaches the port may ask for every tenant. "
        "For loopback, or behind a gateway that knows who asks.",
    )
    insecure_cluster: bool = Field(
        default=False,
        description="Accept a Ray cluster that asks for no token: everybody who reaches it "
        "can run code in it.",
    )
    feedback: bool = Field(
        default=False,
        description="Keep the questions that are turned away or answered uncertainly, and 2% of "
        "the others, each beside its tenant's bundles, and take `POST "
        "/v1/tenants/TENANT/feedback`.",
    )
    embeddings: bool = Field(
        default=False,
        description="Answer `POST /v1/embeddings`, in the form of OpenAI's API, with an operator's "
        "token: vectors of texts through a tenant's adapter.",
    )
    log_requests: bool = Field(
        default=True,
        description="One JSON line for each request on stderr, instead of Serve's access log.",
    )
    traces: bool = Field(
        default=False,
        description="OpenTelemetry spans of every request, sent as the `OTEL_*` variables of the "
        "replica say; needs the extra `tracing`.",
    )
    num_replicas: int = Field(
        default=1, ge=1, description="A config file's `autoscaling_config` takes precedence."
    )
    num_cpus: float = Field(default=0.5, ge=0, description="CPUs that a replica reserves in Ray.")

    def open_store(self) -> Objects:
        """Open the store, close a folder to other users, and begin it where `create_store` says so.

        A store elsewhere comes with copies on this node; with them a replica starts without it.

        Raises:
            ConfigError: there is no store, which a misspelt name looks like, or it cannot be used.
        """
        place = open_objects(self.store)
        if isinstance(place, Folder) and "://" not in self.store:
            self._open_folder(place.path)
            return place
        mirror = Mirror(place, self.copies or _copies_of(place.where))
        try:
            if mirror.read(CHANGED) is None:
                if not self.create_store:
                    raise _no_store(place.where)
                mirror.write(CHANGED, b"begun")
        except StoreError as error:
            raise ConfigError(
                f"{error}, and there is no copy of it in {mirror.copies.where}"
            ) from None
        return mirror

    def _open_folder(self, folder: Path) -> None:
        try:
            if not (self.create_store or folder.exists()):
                raise _no_store(str(folder))
            if folder.exists() and not folder.is_dir():
                raise ConfigError(f"store {folder}: expected a folder")
            private_folder(folder)
            os.scandir(folder).close()
        except OSError as error:
            raise ConfigError(f"store {folder} cannot be used: {error.strerror}") from None

    @property
    def feedback_store(self) -> Path | None:
        """The folder of kept questions; None: none are kept."""
        place = open_objects(self.store)
        return place.path if self.feedback and isinstance(place, Folder) else None

    def key_for(self, tenant: str) -> bytes | None:
        """The tenant's key; None: it has none. Raises ConfigError: it is not a key."""
        file = None if self.keys is None else self.keys / f"{tenant}.key"
        return None if file is None or not file.exists() else read_key(file)

    @property
    def queue_limits(self) -> QueueLimits:
        return QueueLimits(
            max_batch_tokens=self.max_batch_tokens,
            tenant_batch_tokens=self.tenant_batch_tokens,
            max_queued=self.max_queued,
            max_queued_of_tenant=self.max_queued_of_tenant,
        )

    @field_validator("store")
    @classmethod
    def _absolute_or_uri(cls, store: str) -> str:
        if "\0" in store:
            raise ValueError("holds a character that no file's name can have")
        if "://" in store:
            try:
                open_objects(store)
            except ConfigError as error:
                raise ValueError(str(error)) from None
            return store
        return str(_absolute(Path(store)))

    @field_validator("copies", "keys", "registry_credentials", "tokens")
    @classmethod
    def _absolute_path(cls, path: Path | None) -> Path | None:
        return None if path is None else _absolute(path)

    @field_validator("other_encoders")
    @classmethod
    def _each_encoder_once(cls, others: tuple[str, ...], given: ValidationInfo) -> tuple[str, ...]:
        named = (given.data.get("encoder"), *others)
        if len(set(named)) < len(named):
            raise ValueError("names an encoder that is named already")
        return others

    @model_validator(mode="after")
    def _guarded_or_open(self) -> "ServeSettings":
        """Ask for an explicit choice: a replica cannot tell who reaches it through which
        proxies."""
        if (self.tokens is None) != self.open_to_all:
            raise ValueError(
                "give either tokens (a file of `adapterdistill token new`) or open_to_all: true, "
                "which lets everyone who reaches the port ask for every tenant"
            )
        if self.push and self.tokens is None:
            raise ValueError("push needs tokens: without them everyone could replace every bundle")
        if self.feedback and self.feedback_store is None:
            raise ValueError("feedback needs a store in a folder: kept questions lie in it")
        return self

    @classmethod
    def of(cls, args: Mapping[str, Any]) -> "ServeSettings":
        """Check settings. Raises ConfigError, which names the settings at fault."""
        try:
            return cls.model_validate(dict(args))
        except ValidationError as error:
            faults = [
                f"{'.'.join(map(str, fault['loc'])) or 'tokens'}: "
                + (
                    "is not a known setting"
                    if fault["type"] == "extra_forbidden"
                    else fault["msg"].removeprefix("Value error, ")
                )
                for fault in error.errors()
            ]
            raise ConfigError(listed("serving settings refused", faults)) from None


def _absolute(path: Path) -> Path:
    path = path.expanduser()
    if "\0" in str(path):
        raise ValueError("holds a character that no file's name can have")
    if not path.is_absolute():
        raise ValueError("must be an absolute path")
    return path


def _copies_of(where: str) -> Path:
    """The folder of this node for copies of a store."""
    return Path("~/.cache/adapterdistill").expanduser() / sha256_hex(where.encode())[:16]


def _no_store(where: str) -> ConfigError:
    return ConfigError(
        f"{where}: no such store: correct its name, or begin an empty one with --create "
        "(create_store: true in a file of Ray Serve)"
    )

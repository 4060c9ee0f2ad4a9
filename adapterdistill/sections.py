"""The sections of a run's TOML, each with its defaults."""

import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from adapterdistill.errors import ConfigError
from adapterdistill.files import read_file
from adapterdistill.manifest import LanguageTag, Name

_MAX_NAME_BYTES = 255
_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")


def _local_path(text: str) -> str:
    if _SCHEME.match(text):
        raise ValueError("must be a local path, not a URI: private data are read locally only")
    expanded = os.path.expandvars(text)
    if "$" in expanded:
        raise ValueError("names an environment variable that is not set")
    if not expanded.strip():
        raise ValueError("must name a file or folder, not be empty")
    if "\0" in expanded:
        raise ValueError("holds a character that no file's name can have")
    if max(map(len, os.fsencode(expanded).split(b"/"))) > _MAX_NAME_BYTES:
        raise ValueError(f"holds a name of over {_MAX_NAME_BYTES} bytes, which no file can have")
    try:
        return str(Path(expanded).expanduser().absolute())
    except RuntimeError:
        raise ValueError("names a user's home folder that is not known") from None


LocalPath = Annotated[str, AfterValidator(_local_path)]
LocalPathOrUri = Annotated[
    str, AfterValidator(lambda text: text if _SCHEME.match(text) else _local_path(text))
]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class EncoderConfig(Section):
    """The shared frozen encoder."""

    name: str = "minilm-l6"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    device: str = "cpu"
    max_tokens: int | None = Field(default=None, ge=8, le=8192)
    """Length at which texts are cut, in training and in service; None: the encoder's own."""
    query_prompt: str | None = Field(default=None, max_length=1000)
    """Put before every query; None: the encoder's own."""
    passage_prompt: str | None = Field(default=None, max_length=1000)
    """Put before every text of an FAQ; None: the encoder's own."""


class RegistryConfig(Section):
    """The teacher registry, and what it may show of the adapter.

    Without an address it is one in the workspace, which runs inside the process that asks it and
    which only the workspace's own tenants share.
    """

    address: str | None = None
    """host:port"""
    address_file: LocalPath | None = None
    """A file that holds host:port, as `registry serve --port-file` writes it."""
    credentials: LocalPath | None = None
    """The owner's folder of keys and certificates, as `adapterdistill owner keygen` makes it; none:
    plain text, to a registry on this machine."""
    timeout_s: float = Field(default=30.0, gt=0)
    start_timeout_s: float = Field(default=1.0, ge=0)
    """Longest wait, when a run begins, for a registry that refuses connections."""
    share_with: Literal["everyone", "nobody"] | tuple[Name, ...] = "everyone"
    """The tenants that may see the adapter and learn from it. Decides for its first version;
    `adapterdistill registry consent` changes it."""
    labels: tuple[Name, ...] = Field(default=(), max_length=16)
    """Words that others may find the adapter by."""

    @model_validator(mode="after")
    def _one_address(self) -> "RegistryConfig":
        if self.address is not None and self.address_file is not None:
            raise ValueError("give one of address and address_file, or neither")
        if self.is_embedded and self.credentials is not None:
            raise ValueError("credentials are for a registry with an address: give one")
        return self

    @property
    def is_embedded(self) -> bool:
        """Whether it is the registry in the workspace."""
        return self.address is None and self.address_file is None

    def resolve(self) -> str:
        """host:port; raises ConfigError if the address file cannot be read or is empty."""
        if self.address is not None:
            return self.address
        try:
            address = read_file(Path(str(self.address_file))).decode().strip()
        except ConfigError as error:
            raise ConfigError(f"registry.address_file {error}") from None
        except UnicodeDecodeError:
            address = ""
        if not address:
            raise ConfigError(f"registry.address_file {self.address_file}: holds no host:port")
        return address


class TrainingConfig(Section):
    """Both training stages, and the method of the second or of a variant of its adapter."""

    method: str = "averaged_teachers"
    """One of `adapterdistill.distill.methods`. `averaged_teachers`, `adapter_distillation` and
    `attention_distillation` make the student of stage 2. The others make a cheaper variant of the
    chosen adapter, which is served if it ranks as well; each has a section of its own."""
    bottleneck_size: int = Field(default=24, ge=1, le=1024)
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the initialisation, which is public: averaging adapters gains from sharing one."""
    public_seed: bool = False
    """Draw the order of rows and all else from `seed`, too, instead of the owner's secret: anyone
    can then repeat the run, and whoever knows the other rows can confirm a guessed one."""
    batch_size: int = Field(default=64, ge=4, le=4096)
    extract_steps: int = Field(default=50, ge=1, le=100_000)
    extract_learning_rate: float = Field(default=1e-3, gt=0, le=1)
    distil_steps: int = Field(default=40, ge=1, le=100_000)
    distil_learning_rate: float = Field(default=2e-3, gt=0, le=1)
    evaluate_every: int = Field(default=10, ge=1)
    patience: int = Field(default=3, ge=1)
    held_out_fraction: float = Field(default=0.2, gt=0, lt=1)
    """Share of the training rows that bound the steps if a tenant has no valid rows, and too many
    training rows for cross-validation."""
    num_workers: int = Field(default=0, ge=0, le=256)
    """0 trains in the owner's process; more start that many Ray Train workers on its node."""
    min_workers: int | None = Field(default=None, ge=1)
    """Number of workers to train with if there is no room for `num_workers`; none: no fewer. The
    result is the same except for rounding, which may change its digest."""
    use_gpu: bool = False
    """One GPU a worker, also if the owner's process has none; `encoder.device` asks for both."""
    threads: int = Field(default=1, ge=1, le=1024)
    """torch threads of each training process. More than the node has idle cores for is many times
    slower, not faster, because threads wait for each other at every product."""
    start_timeout_s: float = Field(default=120.0, gt=0)
    """Longest wait for room for the workers."""

    @model_validator(mode="after")
    def _fewest_of_the_workers(self) -> "TrainingConfig":
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(
                f"min_workers {self.min_workers} is more than num_workers, {self.num_workers}"
            )
        return self


class TeacherConfig(Section):
    """Choice of the teachers among other tenants' adapters."""

    max_teachers: int = Field(default=16, ge=0, le=256)
    """Number of teachers: those that suit the own texts best of all that the registry lists."""
    language: LanguageTag | None = Field(default=None, exclude_if=lambda value: value is None)
    """Language of the adapters that may teach, `en` with `en-GB`; none: every language."""
    round: int = Field(default=0, ge=0)
    """Raise it to run again with the teachers that have joined since: otherwise a finished run
    answers from its kept results."""
    leave_one_out: bool = False
    """Report what the held-out score of the teachers' composition loses without each of them."""


class ReleaseConfig(Section):
    """Release of the run's bundle if another is live. A tenant's first bundle is live."""

    mode: Literal["live", "canary", "shadow"] = "live"
    """`canary`: it answers a share of the requests. `shadow`: it is asked the same as the live one
    afterwards, and compared. `adapterdistill release` changes it, promotes it and drops it."""
    share: float = Field(default=0.1, ge=0, le=1)
    max_wrong_answers: float | None = Field(default=None, gt=0, le=1)
    """Share of answers that may be wrong, estimated on held-out rows: the threshold is raised until
    it is kept. None: the threshold turns away about 5% of answerable queries."""

    @model_validator(mode="after")
    def _share_of_a_candidate(self) -> "ReleaseConfig":
        if self.mode == "live" and self.share != type(self).model_fields["share"].default:
            raise ValueError('only a candidate has a share: set mode to "canary" or "shadow"')
        return self


class PrivacyConfig(Section):
    """What the published adapter may reveal of the rows."""

    max_membership_auc: float | None = Field(default=None, gt=0.5, le=1)
    """Publish nothing whose rows a membership audit tells from others with a higher AUC (0.5 is a
    guess, 1 names every row), or that cannot be audited."""
    epsilon: float | None = Field(default=None, gt=0, le=1000)
    """Publish, in place of the served adapter, one that is differentially private with this epsilon
    for one labelled query: a mixture of the teachers (`distill.private.mixing`)."""
    delta: float = Field(default=1e-5, gt=0, lt=0.01)
    """Delta of that guarantee; well below one over the number of queries."""


class TrackingConfig(Section):
    """Places that get the run's numbers beside `tracking.jsonl` in its folder. Never a text."""

    tensorboard: LocalPath | None = None
    """Folder of TensorBoard's event files."""
    mlflow: LocalPathOrUri | None = None
    """Folder of MLflow's database, or the URI of its tracking server."""


class PlacementConfig(Section):
    """The node that the data owner is pinned to."""

    resource: str | None = None
    """A Ray custom resource that only the owner's node has; None lets any node run the owner."""
    timeout_s: float = Field(default=30.0, gt=0)
    num_cpus: float = Field(default=0.5, ge=0)

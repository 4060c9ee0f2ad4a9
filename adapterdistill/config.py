"""What a run's TOML may say. Parsed at the edge; pure code takes keyword values instead.

Paths may hold `~` and `$VARIABLES`; relative ones are relative to the working folder.
"""

import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError, model_validator

from adapterdistill.errors import ConfigError, listed
from adapterdistill.files import read_file
from adapterdistill.manifest import FormKind, Name, canonical_json, sha256_hex
from adapterdistill.sections import (
    ConditionalConfig,
    EncoderConfig,
    LightConfig,
    LocalPath,
    MetaConfig,
    PlacementConfig,
    RegistryConfig,
    ReleaseConfig,
    Section,
    TeacherConfig,
    TrainingConfig,
)

S = TypeVar("S", bound=Section)


class OnboardConfig(Section):
    """One tenant's way from private Parquet to a serving bundle."""

    tenant: Name
    adapter: Name = "faq"
    data: LocalPath
    """Folder with faqs.parquet and queries.parquet on the owner's node."""
    workspace: LocalPath
    """Owner-local folder for state, checkpoints and reports."""
    serving_store: LocalPath
    """The tenant's own serving store, read by its Serve deployment."""
    encoder: EncoderConfig = EncoderConfig()
    registry: RegistryConfig
    training: TrainingConfig = TrainingConfig()
    teachers: TeacherConfig = TeacherConfig()
    release: ReleaseConfig = ReleaseConfig()
    placement: PlacementConfig = PlacementConfig()
    conditional: ConditionalConfig | None = None
    light: LightConfig | None = None
    meta: MetaConfig | None = None

    @model_validator(mode="after")
    def _sections_of_the_method(self) -> "OnboardConfig":
        method = self.training.method
        for section, its_methods in _METHODS_OF.items():
            if getattr(self, section) is not None and method not in its_methods:
                others = " or ".join(f'"{one}"' for one in its_methods)
                raise ValueError(
                    f"[{section}] is for another method than {method}: remove it, or set "
                    f"training.method = {others}"
                )
        return self

    @model_validator(mode="after")
    def _form_that_can_be(self) -> "OnboardConfig":
        form = self.form
        if isinstance(form, ConditionalConfig) and form.speed > self.encoder.max_tokens:
            raise ValueError(
                f"conditional.speed {form.speed:g} leaves less than one of encoder.max_tokens, "
                f"{self.encoder.max_tokens}: lower it"
            )
        if isinstance(form, LightConfig) and self.training.num_workers > 1:
            raise ValueError(
                f"method {self.form_kind} trains in one worker: set training.num_workers to 0 or 1"
            )
        if self.form_kind == "meta_kd" and isinstance(form, LightConfig) and form.body == "bilstm":
            raise ValueError(
                "method meta_kd makes a Transformer, whose layers learn the teacher's: set "
                'light.body = "transformer", or training.method = "multitask_kd"'
            )
        return self

    @property
    def form(self) -> ConditionalConfig | LightConfig | None:
        """Settings of the form that the method makes of the adapter; None: it makes none."""
        match self.training.method:
            case "conditional":
                return self.conditional or ConditionalConfig()
            case "multitask_kd" | "meta_kd":
                return self.light or LightConfig()
            case "adapter_distillation":
                return None

    @property
    def form_kind(self) -> FormKind | None:
        """The form that the method makes of the adapter; None: it makes none."""
        method = self.training.method
        return None if method == "adapter_distillation" else method

    @property
    def sharing(self) -> MetaConfig | None:
        """How prototypes are shared; None: they are not."""
        return self.meta if self.meta is not None and self.meta.share_prototypes else None

    def digest(self) -> str:
        """sha256 of what decides the result: everything but addresses and places."""
        keep = self.model_dump(
            mode="json",
            include={"encoder", "training", "teachers", "adapter"},
            exclude={"training": {"min_workers"}},
        )
        if self.form is not None:
            keep["form"] = self.form.model_dump(mode="json")
        if self.sharing is not None:
            keep["meta"] = self.sharing.model_dump(mode="json")
        return sha256_hex(canonical_json(keep))


_METHODS_OF = {
    "conditional": ("conditional",),
    "light": ("multitask_kd", "meta_kd"),
    "meta": ("meta_kd",),
}
"""Section of a form's settings to the methods that it is for."""


def load_toml(path: Path) -> OnboardConfig:
    """Read a run's TOML; raises as `load_section` does."""
    return load_section(path, OnboardConfig)


def load_section(path: Path, kind: type[S]) -> S:
    """Read a TOML file.

    Raises:
        ConfigError: the file is missing or not TOML, or keys are missing, unknown or out of
            range; the message names file and keys.
    """
    try:
        return _parsed(kind, tomllib.loads(read_file(path).decode("utf-8-sig")), source=str(path))
    except RecursionError:
        raise ConfigError(f"{path}: not TOML: nested too deeply") from None
    except ValueError as error:  # of syntax, bytes, or a vast number
        raise ConfigError(f"{path}: not TOML: {error}") from None


def parse_config(values: dict[str, Any], *, source: str) -> OnboardConfig:
    """Like `load_toml`, from values already parsed; `source` names them in errors."""
    return _parsed(OnboardConfig, values, source=source)


def _parsed(kind: type[S], values: dict[str, Any], *, source: str) -> S:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, e['loc'])) or '(file)'}: {e['msg']}" for e in error.errors()]
        raise ConfigError(listed(source, faults)) from None

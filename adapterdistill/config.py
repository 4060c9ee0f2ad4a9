"""A run's TOML. It is parsed at the edge; pure code takes keyword values instead.

Paths may hold `~` and `$VARIABLES`; relative ones are relative to the working folder.
"""

import difflib
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails

from adapterdistill.distill.method import Method, VariantConfig
from adapterdistill.distill.methods import DEFAULT, METHODS
from adapterdistill.errors import ConfigError, listed
from adapterdistill.files import read_file
from adapterdistill.manifest import (
    UNDETERMINED,
    LanguageTag,
    Name,
    canonical_json,
    sha256_hex,
)
from adapterdistill.sections import (
    EncoderConfig,
    LocalPath,
    LocalPathOrUri,
    PlacementConfig,
    PrivacyConfig,
    RegistryConfig,
    ReleaseConfig,
    Section,
    TeacherConfig,
    TrackingConfig,
    TrainingConfig,
)

S = TypeVar("S", bound=Section)


class OnboardConfig(Section):
    """One tenant's way from private Parquet to a serving bundle.

    Its further keys are the sections of the method (`Method.sections`).
    """

    model_config = ConfigDict(extra="allow")

    tenant: Name
    adapter: Name = "faq"
    language: LanguageTag = UNDETERMINED
    """BCP 47 tag of the FAQs' language, by which others find the adapter."""
    data: LocalPath
    """Folder with faqs.parquet and queries.parquet on the owner's node."""
    workspace: LocalPath
    """Owner-local folder for state, checkpoints and reports."""
    serving_store: LocalPathOrUri
    """The tenant's own serving store, read by its Serve deployment: a folder, or `file://` or
    `s3://` where its nodes are others (`adapterdistill.store.objects`)."""
    serving_key: LocalPath | None = None
    """A key of `adapterdistill bundle key`, with which the bundle is encrypted; none: it is not."""
    encoder: EncoderConfig = EncoderConfig()
    registry: RegistryConfig = RegistryConfig()
    training: TrainingConfig = TrainingConfig()
    teachers: TeacherConfig = TeacherConfig()
    release: ReleaseConfig = ReleaseConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    placement: PlacementConfig = PlacementConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="before")
    @classmethod
    def _parse_sections_of_the_method(cls, values: Any) -> Any:
        training = values.get("training", {}) if isinstance(values, dict) else None
        name = training.get("method", DEFAULT) if isinstance(training, dict) else None
        if not isinstance(name, str):
            return values
        if name not in METHODS:
            *others, last = map(repr, METHODS)
            expected = f"{', '.join(others)} or {last}"
            fault = InitErrorDetails(
                type="literal_error",
                loc=("training", "method"),
                input=name,
                ctx={"expected": expected},
            )
            raise ValidationError.from_exception_data(cls.__name__, [fault])
        given = {key: value for key, value in values.items() if key not in cls.model_fields}
        for key in given.keys() - METHODS[name].sections.model_fields:
            its = [f'"{one}"' for one, m in METHODS.items() if key in m.sections.model_fields]
            if its:
                raise ValueError(
                    f"[{key}] is for another method than {name}: remove it, or set "
                    f"training.method = {' or '.join(its)}"
                )
        parsed = METHODS[name].sections.model_validate(given)
        return values | {key: getattr(parsed, key) for key in given}

    @model_validator(mode="after")
    def _fit_the_method(self) -> "OnboardConfig":
        self.method.check_config(self.sections, self.encoder)
        if self.privacy.epsilon is not None and self.noise is not None:
            raise ValueError(
                "privacy.epsilon does not cover shared prototypes: set meta.share_prototypes to "
                "false"
            )
        if self.privacy.epsilon is not None and self.privacy.max_membership_auc is not None:
            raise ValueError(
                "privacy.max_membership_auc is for an adapter that rows train: with "
                "privacy.epsilon none of these is published, so leave it out"
            )
        if self.method.one_worker and self.training.num_workers > 1:
            raise ValueError(
                f"method {self.training.method} trains in one worker: set training.num_workers to "
                "0 or 1"
            )
        return self

    @property
    def method(self) -> Method:
        """The method that `training.method` names."""
        return METHODS[self.training.method]

    @property
    def sections(self) -> Section:
        """The method's sections, with defaults for those that the TOML leaves out."""
        given = {key: value for key, value in (self.model_extra or {}).items() if value is not None}
        return self.method.sections.model_validate(given)

    @property
    def variant(self) -> VariantConfig | None:
        """Settings of the variant's training; None: the method makes none."""
        return next((one for _, one in self.sections if isinstance(one, VariantConfig)), None)

    @property
    def student_method(self) -> str:
        """The method that trains the student of stage 2."""
        return DEFAULT if self.method.variant is not None else self.training.method

    @property
    def noise(self) -> float | None:
        """Noise of the prototypes that the owner publishes; None: it publishes none."""
        return self.method.noise(self.sections)

    def digest(self) -> str:
        """sha256 of what decides the result: everything but addresses and places."""
        keep = self.model_dump(
            mode="json",
            include={"encoder", "training", "teachers", "adapter"},
            exclude={"training": {"min_workers", "public_seed"}},
        )
        if not self.training.public_seed:
            keep["order"] = "secret"
        if self.privacy.epsilon is not None:
            keep["privacy"] = [self.privacy.epsilon, self.privacy.delta]
        keep["encoder"] = {k: value for k, value in keep["encoder"].items() if value is not None}
        if self.release.max_wrong_answers is not None:
            keep["max_wrong_answers"] = self.release.max_wrong_answers
        for name, section in self.sections:
            if isinstance(section, VariantConfig):
                keep["form"] = section.model_dump(mode="json")  # the key of earlier runs
            elif section != type(section)():
                keep[name] = section.model_dump(mode="json")
        return sha256_hex(canonical_json(keep))


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
    except ValueError as error:  # bad syntax, bytes that are not UTF-8, or a vast number
        raise ConfigError(f"{path}: not TOML: {error}") from None


def parse_config(values: dict[str, Any], *, source: str) -> OnboardConfig:
    """Validate values that are already parsed; `source` names them in errors."""
    return _parsed(OnboardConfig, values, source=source)


def _parsed(kind: type[S], values: dict[str, Any], *, source: str) -> S:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc'])) or '(file)'}: "
            + (
                _unknown(kind, *fault["loc"])
                if fault["type"] == "extra_forbidden"
                else fault["msg"]
            )
            for fault in error.errors()
        ]
        raise ConfigError(listed(source, faults)) from None


def _unknown(kind: type[Section], *location: int | str) -> str:
    """Say that a key is unknown, and which known one it resembles."""
    fields = dict(kind.model_fields)
    if kind is OnboardConfig:
        for method in METHODS.values():
            fields |= method.sections.model_fields
    *sections, key = map(str, location)
    for section in sections:
        fields = (
            getattr(fields[section].annotation, "model_fields", {}) if section in fields else {}
        )
    alike = difflib.get_close_matches(key, fields, n=1)
    return "is not a known key" + (f": did you mean {alike[0]}?" if alike else "")

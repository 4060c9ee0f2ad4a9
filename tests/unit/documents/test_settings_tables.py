"""Tables of settings name every setting that there is, with its default."""

import json
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from adapterdistill.config import OnboardConfig, parse_config
from adapterdistill.sections import (
    EncoderConfig,
    PlacementConfig,
    PrivacyConfig,
    RegistryConfig,
    ReleaseConfig,
    TeacherConfig,
    TrackingConfig,
    TrainingConfig,
)
from adapterdistill.serve.settings import ServeSettings
from tests.unit.documents.pages import blocks, pages, section, table_rows

SECTIONS: dict[str, type[BaseModel]] = {
    "encoder": EncoderConfig,
    "registry": RegistryConfig,
    "training": TrainingConfig,
    "teachers": TeacherConfig,
    "release": ReleaseConfig,
    "privacy": PrivacyConfig,
    "placement": PlacementConfig,
    "tracking": TrackingConfig,
}


def as_written(model: type[BaseModel]) -> dict[str, str]:
    """Field to its default as the tables write it: as JSON, `none`, or `required`."""
    found = {}
    for name, field in model.model_fields.items():
        if field.is_required():
            found[name] = "required"
            continue
        default = field.default
        if isinstance(default, tuple):
            default = list(default)
        found[name] = "none" if default is None else f"`{json.dumps(default)}`"
    return found


def documented(page: str, heading: str) -> dict[str, str]:
    rows = table_rows(section(page, heading))
    return {row[0].strip("`"): row[1] for row in rows if row[0].startswith("`")}


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_of_a_run_is_described_whole(name: str) -> None:
    assert documented("docs/data-owner.md", f"### `[{name}]`") == as_written(SECTIONS[name])


def test_the_settings_before_the_sections_are_described() -> None:
    plain = {
        name: "required" if field.is_required() else f"`{json.dumps(field.default)}`"
        for name, field in OnboardConfig.model_fields.items()
        if not _is_section(field.annotation)
    }
    assert documented("docs/data-owner.md", "### Before the first section") == plain


def _is_section(annotation: Any) -> bool:
    kinds = (annotation, *get_args(annotation))
    return any(isinstance(kind, type) and issubclass(kind, BaseModel) for kind in kinds)


def test_the_settings_of_a_serving_deployment_are_described() -> None:
    assert documented("docs/operator.md", "### All settings") == as_written(ServeSettings)


def test_every_run_in_a_document_is_accepted() -> None:
    import tomllib

    runs = [
        (str(block), tomllib.loads(block.text))
        for page in pages()
        for block in blocks(page)
        if block.language == "toml" and "tenant =" in block.text.split("[")[0]
    ]
    assert runs
    for place, values in runs:
        parse_config(values, source=place)

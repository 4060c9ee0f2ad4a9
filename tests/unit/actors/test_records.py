"""What may leave a data owner: held to the list, and to types that no free text fits in."""

import inspect
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel, StringConstraints, ValidationError

from adapterdistill.actors.data_owner import DataOwner
from adapterdistill.actors.onboarding import OnboardReport
from adapterdistill.actors.records import (
    Bundled,
    Distilled,
    Fetched,
    Published,
    Validated,
    VariantMade,
)
from adapterdistill.actors.stages import ONBOARDING, STAGES
from adapterdistill.manifest import Manifest

LEAVES_OWNER = [stage.record for stage in ONBOARDING]
SENTENCE = "where is my private parcel"


def public_methods() -> dict[str, Any]:
    members = inspect.getmembers(DataOwner, inspect.isfunction)
    return {name: member for name, member in members if not name.startswith("_")}


def free_text_in(kind: Any, path: str) -> Iterator[str]:
    """Where a value of this type could carry text that no pattern bounds."""
    origin, args = get_origin(kind), get_args(kind)
    if kind in (int, float, bool, type(None)) or origin is Literal:
        return
    if origin is Annotated and args[0] is str:
        patterns = [a.pattern for a in args[1:] if isinstance(a, StringConstraints) and a.pattern]
        if not patterns:
            yield path
        for pattern in patterns:
            assert pattern.startswith("^") and pattern.endswith("$"), path
    elif origin in (typing.Union, types.UnionType, tuple, dict):
        for arg in args:
            if arg is not Ellipsis:
                yield from free_text_in(arg, path)
    elif isinstance(kind, type) and issubclass(kind, BaseModel):
        assert kind.model_config.get("extra") == "forbid" and kind.model_config.get("frozen")
        hints = typing.get_type_hints(kind, include_extras=True)
        for name in kind.model_fields:
            yield from free_text_in(hints[name], f"{path}.{name}")
    else:
        yield path


def test_every_public_method_returns_a_listed_type() -> None:
    methods = public_methods()
    assert set(methods) == set(STAGES)
    returned = {typing.get_type_hints(method)["return"] for method in methods.values()}
    assert returned == set(LEAVES_OWNER)
    for method in methods.values():
        # From the code, not the signature: `ray.remote` adds a parameter of its own to the latter.
        code = inspect.unwrap(method).__code__
        assert code.co_varnames[: code.co_argcount + code.co_kwonlyargcount] == ("self",)
        assert not code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS)


def test_an_owner_has_no_public_attribute_but_its_stages() -> None:
    public = {name for name in vars(DataOwner) if not name.startswith("_")}
    assert public == set(STAGES)


@pytest.mark.parametrize("record", LEAVES_OWNER)
def test_no_listed_type_can_carry_free_text(record: type[BaseModel]) -> None:
    assert list(free_text_in(record, record.__name__)) == []


def test_the_walk_finds_free_text_where_there_is_some() -> None:
    assert "Manifest.privacy" in list(free_text_in(Manifest, "Manifest"))


def test_a_report_adds_only_its_own_name_and_id() -> None:
    assert set(free_text_in(OnboardReport, "")) == {".tenant", ".submission_id"}


def test_the_variant_s_written_keys_are_those_of_earlier_runs() -> None:
    reason = "top-1 lost 0.0100, at most 0.0100 may be, on 12 held-out rows"
    compared = {"rows": 12, "adapter": {}, "form": {}, "lost": 0.01, "lost_low": 0, "lost_high": 0}
    written = {"trained": True, "form": "meta_kd", "reason": reason, "held_out": compared}
    found = VariantMade.model_validate(written)
    assert found.served == "meta_kd" and found.held_out is not None
    assert found.model_dump(mode="json", exclude_unset=True) == written
    assert VariantMade.file_name() == "lightened.json"


@pytest.mark.parametrize(
    ("record", "values"),
    [
        (Validated, {"counts": {SENTENCE: 1}, "data_sha256": "0" * 64}),
        (Validated, {"counts": {}, "data_sha256": SENTENCE}),
        (Fetched, {"teachers": [SENTENCE], "payload_bytes": 1}),
        (Distilled, {"trained": True, "weights": {SENTENCE: 0.5}}),
        (Distilled, {"trained": True, "leave_one_out": {SENTENCE: 0.5}}),
        (Published, {"name": SENTENCE, "payload_bytes": 1, "metrics": {}}),
        (Bundled, {"bundle": SENTENCE, "threshold": 0.1, "index_vectors": 1}),
    ],
)
def test_a_sentence_fits_in_none(record: type[BaseModel], values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        record.model_validate(values)

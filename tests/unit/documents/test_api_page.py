"""`docs/api.md` describes every endpoint and call, as the OpenAPI description and protos do."""

import json
import re
from typing import Any

import pytest
from google.protobuf import json_format

from adapterdistill import errors
from adapterdistill.registry.v1 import registry_pb2
from adapterdistill.serve.http.schema import ErrorBody, Health, SearchResponse, TenantStatus
from adapterdistill.serving.v1 import serving_pb2
from tests.unit.documents.api_reference import PAGE, openapi, with_parts
from tests.unit.documents.pages import ROOT, blocks, section, table_rows

GRPC = {
    "adapterdistill.registry.v1.RegistryService": registry_pb2,
    "adapterdistill.serving.v1.SearchService": serving_pb2,
}


def test_the_generated_parts_are_of_today() -> None:
    page = PAGE.read_text("utf-8")
    assert page == with_parts(page), "run: python -m tests.unit.documents.api_reference"


def test_every_endpoint_and_call_is_described() -> None:
    page = PAGE.read_text("utf-8")
    assert [path for path in openapi()["paths"] if f"{path}`" not in page] == []
    for service, messages in GRPC.items():
        name = service.rsplit(".", 1)[1]
        calls = messages.DESCRIPTOR.services_by_name[name].methods_by_name
        assert [call for call in calls if f"| `{call}` |" not in page] == []


def grpc_calls() -> list[tuple[str, str, str]]:
    """Request, service and call of each grpcurl command on the page."""
    found = []
    for block in blocks("docs/api.md"):
        joined = " ".join(block.text.replace("\\\n", " ").split())
        found += re.findall(r"-d '([^']*)' HOST:PORT (\S+)/(\w+)", joined)
    return found


def examples() -> dict[str, tuple[Any, Any]]:
    """Call to its example's request and response, of both services."""
    rows = table_rows(PAGE.read_text("utf-8"))
    return {
        row[0].strip("`"): (json.loads(row[1].strip("`")), json.loads(row[2].strip("`")))
        for row in rows
        if len(row) == 3 and row[1].startswith(("`{", "`["))
    }


@pytest.mark.parametrize("service", GRPC)
def test_every_call_has_an_example_whose_messages_are_its_own(service: str) -> None:
    messages = GRPC[service]
    methods = messages.DESCRIPTOR.services_by_name[service.rsplit(".", 1)[1]].methods_by_name
    for call, method in methods.items():
        sides = zip(examples()[call], (method.input_type, method.output_type), strict=True)
        for example, kind in sides:
            for one in example if isinstance(example, list) else [example]:
                json_format.ParseDict(one, getattr(messages, kind.name)())


def test_grpcurl_commands_name_calls_and_fields_that_exist() -> None:
    assert len(grpc_calls()) >= 6
    for request, service, call in grpc_calls():
        messages = GRPC[service]
        methods = messages.DESCRIPTOR.services_by_name[service.rsplit(".", 1)[1]].methods_by_name
        message = getattr(messages, methods[call].input_type.name)
        json_format.ParseDict(json.loads(request), message())


def test_grpcurl_commands_name_proto_files_that_exist() -> None:
    text = PAGE.read_text("utf-8")
    [folder] = set(re.findall(r"-import-path (\S+) -proto", text))
    files = set(re.findall(r"-proto (\S+)", text))
    assert len(files) == len(GRPC)
    assert [file for file in files if not (ROOT / folder / file).is_file()] == []


def test_reasons_of_what_every_client_has_to_know_are_those_of_errors() -> None:
    reasons = {getattr(kind, "reason", "") for kind in vars(errors).values()}
    text = section("docs/api.md", "### What every client of the registry has to know")
    named = set(re.findall(r"`([A-Z_]{10,})`", text)) - {"INVALID_ARGUMENT"}
    assert len(named) >= 3
    assert named <= reasons


@pytest.mark.parametrize("model", [SearchResponse, TenantStatus, Health, ErrorBody])
def test_an_example_of_each_answer_is_valid(model: type) -> None:
    examples = [
        json.loads(block.text) for block in blocks("docs/api.md") if block.language == "json"
    ]
    fields = set(model.model_fields)  # type: ignore[attr-defined]
    matching = [one for one in examples if set(one) == fields]
    assert matching
    for one in matching:
        model.model_validate(one)  # type: ignore[attr-defined]

"""The reference parts of `docs/api.md`, made from the OpenAPI description and the protos.

`python -m tests.unit.documents.api_reference` writes them anew; a test says when that is needed.
"""

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import grpc_tools
from google.protobuf import descriptor_pb2 as pb
from grpc_tools import protoc

from adapterdistill import errors
from adapterdistill.errors import error_classes
from adapterdistill.registry.status import code_of
from adapterdistill.serve.http.api import build_api
from tests.unit.documents.pages import ROOT

PAGE = ROOT / "docs" / "api.md"
_INCLUDED = Path(grpc_tools.__file__).with_name("_proto")
_SCALARS = {
    pb.FieldDescriptorProto.TYPE_DOUBLE: "double",
    pb.FieldDescriptorProto.TYPE_FLOAT: "float",
    pb.FieldDescriptorProto.TYPE_INT64: "int64",
    pb.FieldDescriptorProto.TYPE_INT32: "int32",
    pb.FieldDescriptorProto.TYPE_FIXED32: "fixed32",
    pb.FieldDescriptorProto.TYPE_BOOL: "bool",
    pb.FieldDescriptorProto.TYPE_STRING: "string",
    pb.FieldDescriptorProto.TYPE_BYTES: "bytes",
}


def table(header: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield "|---" * len(header) + "|"
    for row in rows:
        yield f"| {' | '.join(one_line(cell) for cell in row)} |"
    yield ""


def one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


# HTTP


def openapi() -> dict[str, Any]:
    """The description that `/openapi.json` of a replica answers with."""
    described: dict[str, Any] = build_api(MagicMock(), MagicMock(), lambda: 0.0).openapi()
    return described


def http_reference() -> str:
    description = openapi()
    return "\n".join([*_endpoints(description), *_schemas(description)]).rstrip()


def _endpoints(description: dict[str, Any]) -> Iterator[str]:
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            yield f"#### `{method.upper()} {path}`\n"
            if said := operation.get("description"):
                yield f"{one_line(said)}\n"
            body = operation.get("requestBody")
            if body:
                yield f"Request: {_kind(body['content']['application/json']['schema'])}.\n"
            yield from table(
                ("status", "answer", "when"),
                (
                    (status, _kind(_schema_of(one)), one.get("description", ""))
                    for status, one in sorted(operation["responses"].items())
                ),
            )


def _schema_of(response: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = (
        response.get("content", {}).get("application/json", {}).get("schema", {})
    )
    return found


def _schemas(description: dict[str, Any]) -> Iterator[str]:
    for name, schema in description["components"]["schemas"].items():
        if name in ("HTTPValidationError", "ValidationError"):  # FastAPI's, never sent
            continue
        yield f"#### `{name}`\n"
        if said := schema.get("description"):
            yield f"{one_line(said)}\n"
        required = set(schema.get("required", ()))
        yield from table(
            ("field", "type", "default", "meaning"),
            (
                (
                    f"`{field}`",
                    _kind(one),
                    "" if field in required else f"`{json.dumps(one.get('default'))}`",
                    one.get("description", ""),
                )
                for field, one in schema["properties"].items()
            ),
        )


def _kind(schema: dict[str, Any]) -> str:
    """The type of a value, with its bounds."""
    if "$ref" in schema:
        return f"`{schema['$ref'].rsplit('/', 1)[1]}`"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind(one) for one in schema["anyOf"]))
    if "enum" in schema:
        return " or ".join(f'`"{value}"`' for value in schema["enum"])
    if "const" in schema:
        return f'`"{schema["const"]}"`'
    kind = str(schema.get("type", "any"))
    if kind == "array":
        kind = f"list of {_kind(schema['items'])}"
    bounds = {
        "minLength": "{} character or more",
        "maxLength": "at most {} characters",
        "minItems": "{} or more",
        "maxItems": "at most {}",
        "minimum": "{} or more",
        "maximum": "at most {}",
    }
    said = [text.format(f"{schema[key]:,g}") for key, text in bounds.items() if key in schema]
    return f"{kind} ({', '.join(said)})" if said else kind


# gRPC


def described(proto: str) -> pb.FileDescriptorProto:
    """A proto file's descriptor, with its comments."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set.binpb"
        arguments = ["", f"-I{ROOT / 'proto'}", f"-I{_INCLUDED}", "--include_source_info"]
        assert protoc.main([*arguments, f"--descriptor_set_out={out}", proto]) == 0
        [found] = pb.FileDescriptorSet.FromString(out.read_bytes()).file
    return found


def grpc_reference(proto: str) -> str:
    file = described(proto)
    said = {tuple(at.path): at.leading_comments for at in file.source_code_info.location}
    return "\n".join([*_services(file, said), *_messages(file, said), *_enums(file, said)]).rstrip()


Comments = dict[tuple[int, ...], str]


def _services(file: pb.FileDescriptorProto, said: Comments) -> Iterator[str]:
    for place, service in enumerate(file.service):
        yield f"#### `{file.package}.{service.name}`\n"
        yield from table(
            ("call", "request", "response", "what it does"),
            (
                (
                    f"`{call.name}`",
                    ("stream of " if call.client_streaming else "") + _link(call.input_type),
                    ("stream of " if call.server_streaming else "") + _link(call.output_type),
                    said.get((6, place, 2, number), ""),
                )
                for number, call in enumerate(service.method)
            ),
        )


def _messages(file: pb.FileDescriptorProto, said: Comments) -> Iterator[str]:
    for place, message in enumerate(file.message_type):
        yield f"#### `{message.name}`\n"
        if comment := said.get((4, place), ""):
            yield f"{one_line(comment)}\n"
        if not message.field:
            yield "No fields.\n"
            continue
        yield from table(
            ("field", "type", "meaning"),
            (
                (f"`{field.name}`", _type(field, message), said.get((4, place, 2, number), ""))
                for number, field in enumerate(message.field)
            ),
        )


def _type(field: pb.FieldDescriptorProto, message: pb.DescriptorProto) -> str:
    kind = _SCALARS.get(field.type) or _link(field.type_name)
    if field.label == pb.FieldDescriptorProto.LABEL_REPEATED:
        return f"list of {kind}"
    if field.proto3_optional:
        return f"optional {kind}"
    if field.HasField("oneof_index"):
        return f"{kind}, one of `{message.oneof_decl[field.oneof_index].name}`"
    return kind


def _link(type_name: str) -> str:
    return f"`{type_name.removeprefix('.').rsplit('.', 1)[1]}`"


def _enums(file: pb.FileDescriptorProto, said: Comments) -> Iterator[str]:
    for place, enum in enumerate(file.enum_type):
        yield f"#### `{enum.name}`\n"
        if comment := said.get((5, place), ""):
            yield f"{one_line(comment)}\n"
        yield from table(
            ("value", "number", "meaning"),
            (
                (f"`{one.name}`", str(one.number), said.get((5, place, 2, number), ""))
                for number, one in enumerate(enum.value)
            ),
        )


def registry_errors() -> str:
    """The reasons that a registry's call may end with, and their gRPC statuses."""
    kinds = [kind for kind in error_classes() if not issubclass(kind, errors.ServingError)]
    rows = ((f"`{kind.reason}`", f"`{code_of(kind()).name}`") for kind in kinds)
    return "\n".join(table(("reason", "gRPC status"), rows)).rstrip()


# The page


def parts() -> dict[str, str]:
    """Every generated part of the page, by the name in its markers."""
    return {
        "http": http_reference(),
        "serving.proto": grpc_reference("adapterdistill/serving/v1/serving.proto"),
        "registry.proto": grpc_reference("adapterdistill/registry/v1/registry.proto"),
        "registry errors": registry_errors(),
    }


def with_parts(page: str) -> str:
    """The page with its generated parts made anew."""
    for name, text in parts().items():
        begin, end = f"<!-- generated: {name} -->", f"<!-- end of {name} -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        assert len(pattern.findall(page)) == 1, f"{PAGE.name} has no part {name}"
        page = pattern.sub(lambda _: f"{begin}\n\n{text}\n\n{end}", page)  # noqa: B023
    return page


if __name__ == "__main__":
    PAGE.write_text(with_parts(PAGE.read_text("utf-8")), "utf-8")

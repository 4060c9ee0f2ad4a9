"""The README's way to call the registry names files, calls and fields that there are."""

import json
import re
from pathlib import Path

from google.protobuf import json_format

from adapterdistill import errors
from adapterdistill.registry.v1 import registry_pb2 as pb

ROOT = Path(__file__).resolve().parents[3]
README = (ROOT / "README.md").read_text("utf-8")


def section() -> str:
    return README.split("## Calling the registry from anything\n")[1].split("\n## ")[0]


def test_the_proto_file_is_where_the_readme_says() -> None:
    (folder,) = re.findall(r"-import-path (\S+) -proto", section())
    (file,) = re.findall(r"-proto (\S+)", section())
    assert (ROOT / folder / file).is_file()


def test_calls_and_their_requests_are_the_services() -> None:
    service = pb.DESCRIPTOR.services_by_name["RegistryService"]
    calls = re.findall(r"-d '(.*?)' HOST:PORT \\\n +(\S+)/(\w+)", section())
    assert len(calls) >= 4
    for request, named, method in calls:
        assert named == service.full_name
        message = getattr(pb, service.methods_by_name[method].input_type.name)
        json_format.ParseDict(json.loads(request), message())
    for method in re.findall(r"`(\w+)` tells how many|Every call but `(\w+)`", section()):
        assert "".join(method) in service.methods_by_name


def test_reasons_are_those_of_errors() -> None:
    reasons = {getattr(kind, "reason", "") for kind in vars(errors).values()}
    named = set(re.findall(r"`([A-Z_]{10,})`", section())) - {"INVALID_ARGUMENT"}
    assert len(named) >= 3 and named <= reasons

"""A registry that records has in its file what passed, byte for byte, and answers as ever."""

import json
from pathlib import Path

import pytest

from adapterdistill.errors import ConfigError, NotFoundError
from adapterdistill.manifest import VersionRef
from adapterdistill.registry.server.server import RegistryServer
from tests.contract.running_registry import Running
from tests.unit.registry.samples import sample


def parts_of(recorded: Path) -> list[tuple[str, str, bytes]]:
    """Call, kind and bytes of each part, in order."""
    parts, rest = [], recorded.read_bytes()
    while rest:
        line, _, rest = rest.partition(b"\n")
        head = json.loads(line)
        parts.append((head["call"].rsplit("/", 1)[1], head["part"], rest[: head["bytes"]]))
        assert rest[head["bytes"] : head["bytes"] + 1] == b"\n"
        rest = rest[head["bytes"] + 1 :]
    return parts


def test_every_message_metadata_and_refusal_is_recorded(tmp_path: Path) -> None:
    recorded = tmp_path / "recorded"
    registry = Running(tmp_path / "root", record=recorded)
    manifest, payload = sample(1)
    absent = VersionRef(tenant="nobody", adapter="nothing", version="0" * 64)
    try:
        registry.client.publish(manifest, payload)
        assert registry.client.fetch(manifest.ref) == (manifest, payload)
        assert [one.ref for one in registry.client.list()] == [manifest.ref]
        with pytest.raises(NotFoundError):
            registry.client.get(absent)
        assert registry.client.health()
    finally:
        registry.close()
    found: dict[tuple[str, str], bytes] = {}
    for call, part, content in parts_of(recorded):
        found[call, part] = found.get((call, part), b"") + content
    assert manifest.canonical_json() in found["Publish", "request"]
    assert payload in found["Publish", "request"]
    assert manifest.canonical_json() in found["Publish", "response"]
    assert payload in found["Fetch", "response"]
    assert manifest.ref.name.encode() in found["Fetch", "request"]
    assert manifest.canonical_json() in found["ListVersions", "response"]
    assert b"NOT_FOUND" in found["GetVersion", "refusal"]
    assert absent.name.encode() in found["GetVersion", "request"]
    assert b"user-agent" in found["Publish", "metadata"]
    assert ("Check", "response") in found


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere/recorded"):
        RegistryServer(tmp_path / "root", record=tmp_path / "nowhere" / "recorded")

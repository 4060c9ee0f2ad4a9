"""The shipped cluster files, read as the programs that they are for read them."""

import json
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

ROOT = Path(__file__).resolve().parents[3]
CLUSTER = ROOT / "cluster"
MANIFESTS = sorted((CLUSTER / "kuberay").glob("*.yaml"))
SCHEMAS = Path(__file__).with_name("kubernetes.schema.yaml")


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text("utf-8")))


def every(*kinds: str) -> Iterator[dict[str, Any]]:
    """Documents of these kinds in all manifests."""
    for path in MANIFESTS:
        yield from (one for one in documents(path) if one["kind"] in kinds)


def named(kind: str, namespace: str, name: str) -> dict[str, Any]:
    [found] = [
        one
        for one in every(kind)
        if (one["metadata"]["namespace"], one["metadata"]["name"]) == (namespace, name)
    ]
    return found


@cache
def schemas() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(SCHEMAS.read_text("utf-8"))
    Draft202012Validator.check_schema(loaded)
    return loaded


def faults(document: dict[str, Any]) -> list[str]:
    """What a manifest has against the schema of its kind, by path."""
    kind = document.get("kind")
    if kind not in schemas()["$defs"]:
        return [f"kind: {kind} is unknown"]
    validator = Draft202012Validator({**schemas(), "$ref": f"#/$defs/{kind}"})
    return [f"{one.json_path}: {one.message}" for one in validator.iter_errors(document)]


def ray_cluster_of(document: dict[str, Any]) -> dict[str, Any]:
    """The part of a Ray kind that describes its Ray cluster."""
    spec: dict[str, Any] = document["spec"]
    field = {"RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}.get(document["kind"])
    found: dict[str, Any] = spec if field is None else spec[field]
    return found


def pods(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Pod templates of a manifest."""
    if document["kind"] == "StatefulSet":
        yield document["spec"]["template"]
    if document["kind"].startswith("Ray"):
        cluster = ray_cluster_of(document)
        yield cluster["headGroupSpec"]["template"]
        yield from (group["template"] for group in cluster.get("workerGroupSpecs", []))


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def offered(group: dict[str, Any]) -> dict[str, float]:
    """Custom resources that a group's nodes offer: KubeRay puts the text into a shell command."""
    text = group["rayStartParams"].get("resources", "'{}'")
    [plain] = shlex.split(text)
    resources: dict[str, float] = json.loads(plain)
    return resources

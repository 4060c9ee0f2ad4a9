"""What the chart and the other cluster files say, as the programs that they are for read them."""

import json
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import yaml
from jsonschema import Draft202012Validator

ROOT = Path(__file__).resolve().parents[3]
CLUSTER = ROOT / "cluster"
CHART = CLUSTER / "chart"
EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))
KUBERAY = Path(__file__).with_name("kuberay.schema.yaml")
KUBERNETES = "1.29"
"""The oldest that the chart is for; its schemas ship in the package kubernetes-validate."""
RAY_KINDS = ("RayCluster", "RayJob", "RayService")


def values_of(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    return loaded


def rendered(values: dict[str, Any]) -> dict[str, str]:
    """Each template's text by its file's name, as Helm's own engine renders it.

    Raises:
        helm_python.HelmError: the values do not suit the chart's schema.
    """
    with helm_python.Chart.load(CHART) as chart:
        texts = chart.render(values, name="release", namespace="default")
    return {name.rpartition("/")[2]: text for name, text in texts.items()}


def render(values: dict[str, Any]) -> list[dict[str, Any]]:
    """The objects that the chart makes of these values."""
    texts = [text for name, text in rendered(values).items() if name.endswith(".yaml")]
    return [one for text in texts for one in yaml.safe_load_all(text) if one]


@cache
def example(name: str) -> tuple[dict[str, Any], ...]:
    return tuple(render(values_of(CHART / "examples" / f"{name}.yaml")))


def every(*kinds: str) -> Iterator[dict[str, Any]]:
    """Objects of these kinds in all examples."""
    for path in EXAMPLES:
        yield from (one for one in example(path.stem) if one["kind"] in kinds)


def named(of: str, kind: str, namespace: str, name: str) -> dict[str, Any]:
    """The one object of an example with this name."""
    [found] = [
        one
        for one in example(of)
        if one["kind"] == kind
        and (one["metadata"]["namespace"], one["metadata"]["name"]) == (namespace, name)
    ]
    return found


@cache
def kuberay() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(KUBERAY.read_text("utf-8"))
    Draft202012Validator.check_schema(loaded)
    return loaded


def faults(document: dict[str, Any]) -> list[str]:
    """What an object has against the schema of its kind, and its pods against that of a pod."""
    kind = document["kind"]
    if kind in RAY_KINDS:
        validator = Draft202012Validator({**kuberay(), "$ref": f"#/$defs/{kind}"})
        found = [f"{one.json_path}: {one.message}" for one in validator.iter_errors(document)]
        if not found:
            for pod in pods(document):
                found += faults({"apiVersion": "v1", "kind": "Pod", **pod})
        return found
    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except kubernetes_validate.SchemaNotFoundError as error:
        return [error.message]
    except kubernetes_validate.ValidationError as error:
        return [f"{error.json_path}: {error.message}"]
    return []


def ray_cluster_of(document: dict[str, Any]) -> dict[str, Any]:
    """The part of a Ray kind that describes its Ray cluster."""
    spec: dict[str, Any] = document["spec"]
    field = {"RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}.get(document["kind"])
    found: dict[str, Any] = spec if field is None else spec[field]
    return found


def pods(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Pod templates of an object."""
    if document["kind"] == "Pod":
        yield document
    if document["kind"] == "StatefulSet":
        yield document["spec"]["template"]
    if document["kind"] in RAY_KINDS:
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

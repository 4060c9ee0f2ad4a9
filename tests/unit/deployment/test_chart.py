"""The Helm chart: its values, what it makes of them, and the schemas that this is held to."""

import copy
import os
import re
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml
from jsonschema import Draft202012Validator

from adapterdistill import __version__
from adapterdistill.config import load_toml
from tests.unit.deployment.manifests import (
    CHART,
    EXAMPLES,
    RAY_KINDS,
    every,
    example,
    faults,
    pods,
    render,
    rendered,
    values_of,
)

DEFINITIONS = os.environ.get("ADAPTERDISTILL_KUBERAY_CRDS")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_object_is_what_its_kind_may_be(path: Path) -> None:
    found = example(path.stem)
    assert found and {one["kind"]: faults(one) for one in found if faults(one)} == {}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_helm_itself_has_nothing_against_the_chart(path: Path) -> None:
    report = helm_python.chart.lint(CHART, values_of(path), strict=True, kube_version="v1.29.0")
    assert [one for one in report["messages"] if one["severity"] >= 2] == []
    assert report["errors"] == []


def test_all_kinds_that_a_deployment_needs_are_there() -> None:
    kinds = {one["kind"] for path in EXAMPLES for one in example(path.stem)}
    assert kinds >= {*RAY_KINDS, "StatefulSet", "Service", "NetworkPolicy"}


def test_names_are_names_of_kubernetes() -> None:
    label = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
    for path in EXAMPLES:
        for one in example(path.stem):
            metadata = one["metadata"]
            assert all(
                label.fullmatch(metadata[key]) for key in ("name", "namespace") if key in metadata
            )


def test_the_chart_has_the_version_of_the_code_and_its_image() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    image = values_of(CHART / "values.yaml")["image"]
    assert chart["version"] == chart["appVersion"] == __version__ == image.rpartition(":")[2]


def test_every_value_is_described_and_every_described_value_is_there() -> None:
    def names(schema: dict[str, Any], values: Any, at: str = "") -> list[tuple[str, bool]]:
        found = []
        for name, inner in schema.get("properties", {}).items():
            if name != "global" and at != "registry.external":
                path = f"{at}.{name}".lstrip(".")
                there = isinstance(values, dict) and name in values
                found += [(path, there), *(names(inner, values[name], path) if there else [])]
        return found

    with helm_python.Chart.load(CHART) as chart:
        schema = chart.schema
    assert schema is not None
    Draft202012Validator.check_schema(schema)
    assert [
        path for path, there in names(schema, values_of(CHART / "values.yaml")) if not there
    ] == []


@pytest.mark.parametrize(
    ("values", "at"),
    [
        ({"tenant": []}, "additional properties 'tenant'"),
        ({"tenants": [{"name": "acme", "onbord": True}]}, "/tenants/0"),
        ({"tenants": [{"onboard": True}]}, "/tenants/0"),
        ({"tenants": [{"name": "Acme"}]}, "/tenants/0/name"),
        ({"tenants": [{"name": "acme.eu"}]}, "/tenants/0/name"),
        ({"tenants": [{"name": "acme", "round": -1}]}, "/tenants/0/round"),
        (
            {"tenants": [{"name": "acme", "settings": {"data": "/etc"}}]},
            "invalid propertyName 'data'",
        ),
        ({"registry": {"metricPort": 9464}}, "/registry"),
        ({"registry": {"port": "7433"}}, "/registry/port"),
        ({"registry": {"storage": "lots"}}, "/registry/storage"),
        (
            {"registry": {"external": {"host": "a.example", "port": 1, "cidr": "192.0.2.1/32"}}},
            "/registry/enabled",
        ),
        ({"image": "adapterdistill:latest"}, "/image"),
        ({"image": "adapterdistill"}, "/image"),
        ({"resources": {"head": {"limits": {"cpus": "1"}}}}, "invalid propertyName 'cpus'"),
        ({"serving": {"settings": {"store": "/tmp"}}}, "invalid propertyName 'store'"),
        ({"global": {"image": "other:1"}}, "/global"),
    ],
)
def test_a_typo_in_the_values_is_refused_where_it_is(values: dict[str, Any], at: str) -> None:
    with pytest.raises(helm_python.HelmError, match=re.escape(at)):
        rendered(values)


def test_two_tenants_of_one_name_are_refused() -> None:
    with pytest.raises(helm_python.HelmError, match="the tenant acme is there twice"):
        rendered({"tenants": [{"name": "acme"}, {"name": "acme"}]})


@pytest.mark.parametrize("shared", [False, True])
def test_any_number_of_tenants_makes_valid_objects_of_different_names(shared: bool) -> None:
    names = [f"tenant-{number:03}" for number in range(12)]
    found = render(
        {
            "tenants": [{"name": name, "onboard": True, "serve": True} for name in names],
            "shared": {"enabled": shared, "serve": True},
        }
    )
    keys = [(o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]) for o in found]
    assert len(keys) == len(set(keys))
    claims = [key for key in keys if key[0] == "PersistentVolumeClaim"]
    assert len(claims) == (12 * 2 + 1 if shared else 12 * 3)
    kinds = [key[0] for key in keys]
    counts = [kinds.count(kind) for kind in ("RayCluster", "RayJob", "RayService", "StatefulSet")]
    assert counts == ([1, 0, 1, 1] if shared else [0, 12, 12, 1])
    assert [faults(one) for one in found if one["kind"] in RAY_KINDS[:1] and faults(one)] == []


def test_a_tenant_alone_is_not_onboarded_or_served_before_that_is_asked_for() -> None:
    kinds = {one["kind"] for one in render({"tenants": [{"name": "acme"}]})}
    assert kinds.isdisjoint({*RAY_KINDS, "Pod"})
    assert {"PersistentVolumeClaim", "ConfigMap", "NetworkPolicy"} <= kinds


def test_owners_may_use_a_registry_outside_of_the_cluster_and_nothing_else() -> None:
    outside = {"host": "registry.example.org", "port": 8443, "cidr": "203.0.113.7/32"}
    found = render(
        {"registry": {"enabled": False, "external": outside}, "tenants": [{"name": "acme"}]}
    )
    assert all(faults(one) == [] for one in found)
    assert "StatefulSet" not in {one["kind"] for one in found}
    [config] = [one for one in found if one["kind"] == "ConfigMap"]
    assert 'address = "registry.example.org:8443"' in config["data"]["run.toml"]
    [policy] = [
        o for o in found if o["kind"] == "NetworkPolicy" and o["metadata"]["name"] == "registry"
    ]
    [rule] = policy["spec"]["egress"]
    assert rule["to"] == [{"ipBlock": {"cidr": "203.0.113.7/32"}}]
    assert rule["ports"] == [{"port": 8443, "protocol": "TCP"}]


def test_a_tenant_s_settings_are_in_its_run_and_a_new_round_is_a_new_job(tmp_path: Path) -> None:
    tenant = {
        "name": "acme",
        "onboard": True,
        "round": 2,
        "settings": {
            "language": "en",
            "teachers": {"max_teachers": 4},
            "training": {"distil_learning_rate": 1e-3, "use_gpu": False},
        },
    }
    found = {one["kind"]: one for one in render({"tenants": [tenant]})}
    assert found["RayJob"]["metadata"]["name"] == "onboarding-2"
    path = tmp_path / "run.toml"
    path.write_text(found["ConfigMap"]["data"]["run.toml"])
    config = load_toml(path)
    assert (config.teachers.round, config.teachers.max_teachers) == (2, 4)
    assert (config.language, config.training.distil_learning_rate) == ("en", 1e-3)
    assert config.placement.resource == "owner:acme"


def test_metrics_of_the_registry_are_for_monitoring_alone_and_can_be_off() -> None:
    for port in (9464, None):
        found = render({"registry": {"metricsPort": port}})
        [stateful] = [one for one in found if one["kind"] == "StatefulSet"]
        command = stateful["spec"]["template"]["spec"]["containers"][0]["command"]
        [policy] = [one for one in found if one["kind"] == "NetworkPolicy"]
        let_in = {
            rule["from"][0]["namespaceSelector"]["matchLabels"]["adapterdistill.io/role"]: [
                each["port"] for each in rule["ports"]
            ]
            for rule in policy["spec"]["ingress"]
        }
        assert (f"--metrics-port={port}" in command) == (port is not None)
        assert let_in == {"owner": [7433]} | ({"monitoring": [port]} if port else {})


def test_what_tenants_own_outlives_the_release() -> None:
    for one in every("Namespace", "PersistentVolumeClaim"):
        assert one["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def changed(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with `value` at the dotted path; None removes what is there."""
    result = copy.deepcopy(document)
    *way, last = path.split(".")
    at: Any = result
    for step in way:
        at = at[int(step)] if step.isdigit() else at[step]
    if value is None:
        del at[last]
    else:
        at[last] = value
    return result


HEAD = "spec.rayClusterSpec.headGroupSpec"


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("RayJob", "spec.entryPoint", "python"),
        ("RayJob", "spec.entrypoint", None),
        ("RayJob", "spec.submissionMode", "Http"),
        ("RayJob", "spec.backoffLimit", -1),
        ("RayJob", "spec.rayClusterSpec.authOptions", None),
        ("RayJob", "spec.rayClusterSpec.authOptions.mode", "disabled"),
        ("RayJob", "spec.rayClusterSpec.tlsOptions", None),
        ("RayJob", "spec.rayClusterSpec.tlsOptions", {}),
        ("RayJob", f"{HEAD}.rayStartParams.num-cpus", 0),
        ("RayJob", f"{HEAD}.rayStartParams.num-cpu", "0"),
        ("RayJob", f"{HEAD}.template.spec.hostNetwork", "yes"),
        ("RayJob", f"{HEAD}.template.spec.hostnetwork", True),
        ("RayCluster", "spec.workerGroupSpecs.0.groupName", None),
        ("RayCluster", "spec.workerGroupSpecs.0.maxReplicas", "1"),
        ("RayService", "spec.rayClusterSpec", {}),
        ("StatefulSet", "apiVersion", "v1"),
        ("StatefulSet", "spec.serviceName", None),
        ("StatefulSet", "spec.template.spec.containers.0.livenessProbe.httpget", {"port": 1}),
        ("StatefulSet", "spec.template.spec.containers.0.ports.0.containerPort", "seven"),
        ("NetworkPolicy", "spec.policytypes", ["Ingress"]),
        ("NetworkPolicy", "spec.ingress", {}),
    ],
)
def test_the_schemas_notice(kind: str, path: str, value: Any) -> None:
    document = next(every(kind))
    assert not faults(document) and faults(changed(document, path, value))


def closed(schema: Any) -> Any:
    """A definition's schema in which an unknown field is an error, as `kubectl apply` has it."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items()}
    if "properties" in schema and "x-kubernetes-preserve-unknown-fields" not in schema:
        found.setdefault("additionalProperties", False)
    return found


@pytest.mark.skipif(
    DEFINITIONS is None,
    reason="ADAPTERDISTILL_KUBERAY_CRDS does not name a folder with KubeRay's definitions",
)
@pytest.mark.parametrize("kind", RAY_KINDS)
def test_the_definitions_of_the_kuberay_release_allow_what_the_chart_makes(kind: str) -> None:
    assert DEFINITIONS is not None
    path = Path(DEFINITIONS) / f"ray.io_{kind.lower()}s.yaml"
    definition = yaml.load(path.read_text("utf-8"), yaml.CSafeLoader)
    [version] = [each for each in definition["spec"]["versions"] if each["name"] == "v1"]
    schema = closed(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    validator = Draft202012Validator(schema)
    for document in every(kind):
        assert [f"{e.json_path}: {e.message}" for e in validator.iter_errors(document)] == []
        assert list(pods(document))
        assert list(validator.iter_errors(changed(document, "spec.rayversion", "2.60.0")))

"""What the chart makes: with each other, and with the code."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from adapterdistill import __version__, cli
from adapterdistill.actors.training.room import RESOURCE_SLIVER
from adapterdistill.config import load_toml
from adapterdistill.registry.admission.quotas import Quotas
from adapterdistill.registry.server.server import is_loopback
from tests.unit.deployment.manifests import (
    CHART,
    CLUSTER,
    EXAMPLES,
    RAY_KINDS,
    ROOT,
    containers,
    every,
    example,
    named,
    offered,
    pods,
    ray_cluster_of,
    rendered,
    values_of,
)

OWNER, REGISTRY = "larkhill-vets", "adapterdistill-registry"
PORT = 7433
FEDERATION, COMPANY = "federation", "company"


POD_KINDS = ("Pod", "StatefulSet")


def of_federation(*kinds: str) -> list[dict[str, Any]]:
    return [one for one in example(FEDERATION) if one["kind"] in kinds]


@pytest.mark.parametrize("of", [FEDERATION, COMPANY])
def test_volumes_claims_and_config_maps_are_there_that_pods_mount(of: str) -> None:
    for one in (each for each in example(of) if each["kind"] in (*POD_KINDS, *RAY_KINDS)):
        namespace = one["metadata"]["namespace"]
        claimed = {each["metadata"]["name"] for each in one["spec"].get("volumeClaimTemplates", [])}
        for pod in pods(one):
            volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", [])}
            mounted = {m["name"] for c in containers(pod) for m in c.get("volumeMounts", [])}
            assert mounted == volumes.keys() | claimed
            for volume in volumes.values():
                if "configMap" in volume:
                    assert named(of, "ConfigMap", namespace, volume["configMap"]["name"])
                if "persistentVolumeClaim" in volume:
                    claim = volume["persistentVolumeClaim"]["claimName"]
                    assert named(of, "PersistentVolumeClaim", namespace, claim)


@pytest.mark.parametrize("of", [FEDERATION, COMPANY])
def test_every_object_is_in_a_namespace_that_the_chart_makes(of: str) -> None:
    namespaces = {one["metadata"]["name"] for one in example(of) if one["kind"] == "Namespace"}
    rest = [one for one in example(of) if one["kind"] != "Namespace"]
    assert {one["metadata"]["namespace"] for one in rest} == namespaces
    seen = [(o["kind"], o["metadata"]["namespace"], o["metadata"]["name"]) for o in rest]
    assert len(seen) == len(set(seen))


def options_of(container: dict[str, Any]) -> dict[str, str]:
    """Options of a container's command, each written as one word."""
    return dict(word.split("=", 1) for word in container["command"] if word.startswith("--"))


def test_the_registry_listens_where_its_service_and_its_clients_look_for_it() -> None:
    [service], [stateful] = of_federation("Service"), of_federation("StatefulSet")
    template = stateful["spec"]["template"]
    assert stateful["spec"]["serviceName"] == service["metadata"]["name"] == "registry"
    labels = template["metadata"]["labels"].items()
    assert labels >= service["spec"]["selector"].items()
    assert labels >= stateful["spec"]["selector"]["matchLabels"].items()
    [container] = template["spec"]["containers"]
    (port, metrics), exposed = container["ports"], service["spec"]["ports"]
    assert [(each["port"], each["targetPort"]) for each in exposed] == [
        (each["containerPort"], each["name"]) for each in (port, metrics)
    ]
    options = options_of(container)
    assert int(options["--port"]) == port["containerPort"] == PORT
    assert int(options["--metrics-port"]) == metrics["containerPort"]
    assert not is_loopback(options["--host"]) and not is_loopback(options["--metrics-host"])
    server = {m["mountPath"] for m in container["volumeMounts"]}
    assert {options["--root"], f"{options['--root']}/server"} <= server
    probes = [container[f"{name}Probe"] for name in ("startup", "readiness", "liveness")]
    assert [probe["tcpSocket"]["port"] for probe in probes] == [port["name"]] * 3


def test_the_only_ways_out_of_an_owner_s_namespace_are_names_and_the_registry_s_port() -> None:
    policies = [
        one for one in of_federation("NetworkPolicy") if one["metadata"]["namespace"] == OWNER
    ]
    everything = [p for p in policies if p["spec"]["podSelector"] == {}]
    assert {"Ingress", "Egress"} in [
        set(p["spec"]["policyTypes"]) for p in everything if not p["spec"].keys() & {"egress"}
    ]
    ways: dict[str, Any] = {}
    for policy in policies:
        for rule in policy["spec"].get("egress", []):
            [peer] = rule["to"]
            if peer != {"podSelector": {}}:
                ports = {(p["port"], p["protocol"]) for p in rule["ports"]}
                ways[policy["metadata"]["name"]] = (peer, ports)
    assert ways.keys() == {"dns", "registry"}
    assert ways["dns"][1] == {(53, "UDP"), (53, "TCP")}
    peer, ports = ways["registry"]
    assert ports == {(PORT, "TCP")}
    assert peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] == REGISTRY
    [stateful] = of_federation("StatefulSet")
    assert peer["podSelector"]["matchLabels"] == stateful["spec"]["template"]["metadata"]["labels"]


def test_nobody_but_its_own_pods_and_the_operator_reaches_a_head() -> None:
    """A dashboard takes jobs: whoever reaches it may run code in the cluster."""
    for namespace in {one["metadata"]["namespace"] for one in every(*RAY_KINDS)}:
        sources = []
        for policy in every("NetworkPolicy"):
            spec, selected = policy["spec"], policy["spec"]["podSelector"].get("matchLabels", {})
            if policy["metadata"]["namespace"] == namespace and selected.keys() <= {
                "ray.io/node-type"
            }:
                sources += [peer for rule in spec.get("ingress", []) for peer in rule["from"]]
        operator = {"matchLabels": {"kubernetes.io/metadata.name": "kuberay-system"}}
        assert sorted(map(str, sources)) == sorted(
            map(str, [{"podSelector": {}}, {"namespaceSelector": operator}])
        )


def test_only_pods_that_onboard_may_call_the_registry() -> None:
    selector, search = (
        named(FEDERATION, "NetworkPolicy", OWNER, name)["spec"]["podSelector"]["matchLabels"]
        for name in ("registry", "search")
    )

    def chosen(one: dict[str, Any], by: dict[str, str]) -> list[bool]:
        labels = [pod.get("metadata", {}).get("labels", {}) for pod in pods(one)]
        return [by.items() <= each.items() for each in labels]

    job = named(FEDERATION, "RayJob", OWNER, "onboarding-0")
    service = named(FEDERATION, "RayService", OWNER, "search")
    assert (chosen(job, selector), chosen(job, search)) == ([False, True], [False, False])
    assert (chosen(service, selector), chosen(service, search)) == ([False, False], [True, True])


def test_the_registry_lets_owners_namespaces_in_and_calls_nobody() -> None:
    policy = named(FEDERATION, "NetworkPolicy", REGISTRY, "registry")["spec"]
    assert policy["podSelector"] == {} and policy["egress"] == []
    rule, _ = policy["ingress"]
    [peer] = rule["from"]
    assert rule["ports"] == [{"port": PORT, "protocol": "TCP"}]
    wanted = peer["namespaceSelector"]["matchLabels"].items()
    let_in = {
        n["metadata"]["name"]
        for n in every("Namespace")
        if wanted <= n["metadata"]["labels"].items()
    }
    assert let_in == {OWNER, "valtara-rail", "adapterdistill"}


def test_keys_are_read_by_nobody_but_the_processes_they_are_for() -> None:
    for one in every("StatefulSet", "RayCluster", "RayJob"):
        for pod in pods(one):
            secrets = {v["name"]: v for v in pod["spec"].get("volumes", []) if "secret" in v}
            for volume in secrets.values():
                assert volume["secret"]["defaultMode"] == 0o400
            for container in pod["spec"]["containers"]:  # init containers copy them, mode 600
                assert not secrets.keys() & {m["name"] for m in container.get("volumeMounts", [])}


def test_the_shipped_run_of_the_job_is_valid_and_pinned_to_the_node_that_offers_its_resource(
    tmp_path: Path,
) -> None:
    job = named(FEDERATION, "RayJob", OWNER, "onboarding-0")["spec"]
    path = tmp_path / "run.toml"
    path.write_text(named(FEDERATION, "ConfigMap", OWNER, "onboarding")["data"]["run.toml"])
    config = load_toml(path)
    assert config.registry.address == f"registry.{REGISTRY}.svc:{PORT}"
    [group] = job["rayClusterSpec"]["workerGroupSpecs"]
    resource = config.placement.resource
    assert offered(group) == {resource: 1} and config.tenant == OWNER
    assert json.loads(job["entrypointResources"]) == {resource: RESOURCE_SLIVER}
    [container] = group["template"]["spec"]["containers"]
    mounted = {m["mountPath"]: m.get("readOnly", False) for m in container["volumeMounts"]}
    assert mounted[config.data] is True
    assert mounted[config.workspace] is mounted[config.serving_store] is False
    assert config.registry.credentials in mounted
    assert job["entrypoint"].split()[-1].startswith("/config/")


def test_owners_of_one_cluster_are_each_on_a_node_of_their_own() -> None:
    [cluster] = every("RayCluster")
    groups = cluster["spec"]["workerGroupSpecs"]
    assert [offered(group) for group in groups] == [
        {f"owner:{group['groupName']}": 1} for group in groups
    ]
    assert all(group["minReplicas"] == group["maxReplicas"] == 1 for group in groups)
    claims = [
        volume["persistentVolumeClaim"]["claimName"]
        for group in groups
        for volume in group["template"]["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    ]
    # The store of bundles is the search endpoint's, which serves all of them.
    assert len(set(claims) - {"serving-store"}) == 2 * len(groups)
    assert claims.count("serving-store") == len(groups)


def test_no_head_runs_work_and_all_run_the_pinned_ray() -> None:
    [pin] = re.findall(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    for one in every(*RAY_KINDS):
        cluster = ray_cluster_of(one)
        assert cluster["rayVersion"] == pin
        assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_the_image_is_this_version_s_and_runs_as_the_user_that_the_pods_name() -> None:
    lines = (CLUSTER / "Dockerfile").read_text().splitlines()
    instructions = [line.split() for line in lines if line and line[0] not in "# "]
    [(_, user)] = [each for each in instructions if each[0] == "USER"]
    for one in every(*POD_KINDS, *RAY_KINDS):
        for pod in pods(one):
            assert pod["spec"]["securityContext"]["runAsUser"] == int(user)
            assert {c["image"] for c in containers(pod)} == {f"adapterdistill:{__version__}"}
    for _, *sources, _ in (each for each in instructions if each[0] == "COPY"):
        assert all((ROOT / source).exists() for source in sources)


def commands() -> list[str]:
    """Every command line of the project in the cluster files, told or run."""
    found = []
    for path in sorted(CLUSTER.rglob("*")):
        if path.suffix in (".yaml", ".sh", ".md"):
            text = path.read_text("utf-8").replace("\\\n", " ")
            found += re.findall(
                r"(?:^[# ]*|`|-m )adapterdistill ([a-z]+ [^`#;\n]*)", text, re.MULTILINE
            )
    for path in EXAMPLES:
        notes = rendered(values_of(path))["NOTES.txt"]
        found += re.findall(r"^ +adapterdistill (.+)$", notes, re.MULTILINE)
    for one in every("StatefulSet"):
        for pod in pods(one):
            found += [
                shlex.join(c["command"][1:])
                for c in containers(pod)
                if c["command"][0] == "adapterdistill"
            ]
    return sorted({line.strip() for line in found})


@pytest.mark.parametrize("line", commands())
def test_a_command_in_the_cluster_files_exists_with_its_options(line: str) -> None:
    done = CliRunner().invoke(cli.app, [*shlex.split(line), "--help"])
    assert done.exit_code == 0, done.output


def test_the_chart_holds_no_secret() -> None:
    assert not [*every("Secret")]
    for path in (each for each in CHART.rglob("*") if each.is_file()):
        assert "PRIVATE KEY" not in path.read_text() and "auth_token" not in path.read_text()


def test_no_container_has_rights_or_writes_but_to_its_volumes() -> None:
    for one in every(*POD_KINDS, *RAY_KINDS):
        for pod in pods(one):
            spec = pod["spec"]
            assert spec["securityContext"]["runAsNonRoot"] is True
            assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            assert spec["automountServiceAccountToken"] is False
            assert not [key for key in spec if key.startswith("host")]
            for container in containers(pod):
                rights = container["securityContext"]
                assert rights["allowPrivilegeEscalation"] is False
                assert rights["readOnlyRootFilesystem"] is True
                assert rights["capabilities"] == {"drop": ["ALL"]}
                assert "memory" in container["resources"]["limits"]


def test_what_ray_writes_is_in_a_folder_that_only_its_own_pod_has() -> None:
    for one in every("StatefulSet", *RAY_KINDS):
        for pod in pods(one):
            [main] = pod["spec"]["containers"]
            [name] = [m["name"] for m in main["volumeMounts"] if m["mountPath"] == "/tmp"]
            [volume] = [each for each in pod["spec"]["volumes"] if each["name"] == name]
            assert volume.keys() == {"name", "emptyDir"}


def test_every_rule_of_a_network_policy_says_who_and_through_which_ports() -> None:
    for policy in every("NetworkPolicy"):
        spec = policy["spec"]
        for rule in [*spec.get("ingress", []), *spec.get("egress", [])]:
            peers = rule.get("from", []) + rule.get("to", [])
            assert peers and all(peers)
            assert all(peer.get("namespaceSelector") != {} for peer in peers)
            assert rule.get("ports") or peers == [{"podSelector": {}}]


def test_the_registry_s_volume_has_room_for_what_tenants_may_store() -> None:
    [stateful] = of_federation("StatefulSet")
    [container] = stateful["spec"]["template"]["spec"]["containers"]
    options = options_of(container)
    [claim] = stateful["spec"]["volumeClaimTemplates"]
    quotas = Quotas(stored_bytes=int(float(options["--max-tenant-gib"]) * 2**30))
    volume = int(claim["spec"]["resources"]["requests"]["storage"].removesuffix("Gi")) * 2**30
    assert volume >= 15 * (quotas.stored_bytes + quotas.staged_bytes)

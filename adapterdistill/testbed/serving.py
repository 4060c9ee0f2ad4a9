"""`adapterdistill serve` in processes of its own, and what each of them spends."""

import os
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from adapterdistill.actors.cluster import OwnCluster, free_port
from adapterdistill.errors import ServingError

_PROVEN_WITHIN_S = 300.0
_DEPLOY_TIMEOUT_S = 180.0
_REPLICA = "ray::ServeReplica"
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Deployment:
    """A running server, and all of the processes that it started."""

    address: str
    process: psutil.Process

    def cpu_s(self) -> dict[str, float]:
        """Processor seconds so far, by what the process is for.

        For replicas also the seconds in which their threads were ready and had no core: the effect
        of other work of the machine, the load generator's included.
        """
        spent: dict[str, float] = defaultdict(float)
        for process in [self.process, *self.process.children(recursive=True)]:
            try:
                times, title = process.cpu_times(), " ".join(process.cmdline()[:1])
            except psutil.Error:
                continue
            spent[_part(title)] += times.user + times.system
            if _part(title) == "replica":
                spent["replica without a core"] += without_a_core_s(process.pid)
        return spent

    def kill_a_replica(self) -> None:
        for process in self.process.children(recursive=True):
            if " ".join(process.cmdline()).startswith(_REPLICA):
                process.kill()
                return
        raise ServingError("the benchmark found no replica to kill")


def without_a_core_s(pid: int) -> float:
    """Seconds for which threads of a process waited for a core; 0 where Linux does not count."""
    waited_ns = 0
    for counted in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with suppress(OSError):  # the thread has ended
            waited_ns += int(counted.read_text().split()[1])
    return waited_ns / 1e9


def _part(title: str) -> str:
    if title.startswith(_REPLICA):
        return "replica"
    if "haproxy" in title or title.startswith("ray::ProxyActor"):
        return "proxy"
    return "rest of Ray" if "ray" in title.lower() or "gcs" in title else "other"


@contextmanager
def deployed(
    store: Path,
    log: Path,
    *,
    encoder: str,
    dtype: str,
    threads: int,
    haproxy: bool,
    replicas: int,
    registry: str | None = None,
    bank_mib: float | None = None,
) -> Iterator[Deployment]:
    """Run `adapterdistill serve` on its own cluster. Raises ServingError: it does not start."""
    address, command = _serve_command(
        store, encoder, dtype, threads=threads, replicas=replicas, registry=registry,
        bank_mib=bank_mib,
    )  # fmt: skip
    command += ["--haproxy" if haproxy else "--no-haproxy"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment["PYTHONPATH"] = str(_ROOT)
    with (
        log.open("wb") as written,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=written, env=environment, text=True
        ) as process,
    ):
        assert process.stdout is not None
        try:
            if address not in process.stdout.readline():
                raise _not_started(log.read_text(errors="replace"))
            yield Deployment(address, psutil.Process(process.pid))
        finally:
            process.terminate()
            process.wait(timeout=120)


def deploy_on(cluster: OwnCluster, store: Path, *, encoder: str, registry: str) -> str:
    """Deploy the endpoint on a cluster, with which it ends, and return its address.

    Raises:
        ServingError: it does not start.
    """
    address, command = _serve_command(
        store, encoder, "float32", registry=registry, ray_address=cluster.address
    )
    done = subprocess.run(
        command,
        env=os.environ | cluster.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_DEPLOY_TIMEOUT_S,
    )
    if done.returncode:
        raise _not_started(done.stderr)
    return address


def _serve_command(
    store: Path, encoder: str, dtype: str, **options: object
) -> tuple[str, list[str]]:
    """The address at which the command `adapterdistill serve` will serve, and the command."""
    port = free_port()
    options |= {"store": store, "encoder": encoder, "dtype": dtype, "port": port}
    command = [sys.executable, "-m", "adapterdistill", "serve"]
    command += [f"--{n.replace('_', '-')}={v}" for n, v in options.items() if v is not None]
    return f"http://127.0.0.1:{port}", command


def _not_started(log: str) -> ServingError:
    last = (log.strip().splitlines() or ["nothing"])[-1]
    return ServingError(f"`adapterdistill serve` did not start: {last[:300]}")


def wait_until_proven(address: str) -> None:
    """Wait until a new replica has proved its tenants, which it does in the background.

    Raises ServingError: that does not end.
    """
    give_up_at = time.monotonic() + _PROVEN_WITHIN_S
    while not _proven(httpx.get(f"{address}/metrics").text):
        if time.monotonic() > give_up_at:
            raise ServingError("the benchmark's replica does not prove its tenants")
        time.sleep(1)


def _proven(exposition: str) -> bool:
    families = text_string_to_metric_families(exposition)
    [family] = [one for one in families if one.name == "adapterdistill_unproven_bundles"]
    return not any(sample.value for sample in family.samples)


async def empty(scope: object, receive: object, send: object) -> None:
    """An ASGI app that answers everything with nothing: what the load itself costs."""
    assert isinstance(scope, dict) and callable(receive) and callable(send)
    if scope["type"] != "http":
        return
    await receive()
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"{}"})


@contextmanager
def empty_server() -> Iterator[str]:
    """The address of a process that serves `empty`."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", f"{__name__}:empty", "--host=127.0.0.1"]
    command += [f"--port={port}", "--no-access-log", "--log-level=warning", "--lifespan=off"]
    environment = os.environ | {"PYTHONPATH": str(_ROOT)}
    with subprocess.Popen(command, env=environment) as process:
        try:
            _wait_for(port, process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(timeout=60)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        with socket.socket() as probe:
            probe.settimeout(0.2)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
    raise ServingError("the benchmark's empty server did not start")

"""The drill of two registry processes on one PostgreSQL, behind a load balancer."""

import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from adapterdistill.drills.drill import Outcome, seconds_until
from adapterdistill.drills.registry.acknowledged import Acknowledged, fsck_findings
from adapterdistill.drills.registry.kills import KillReport, Publishers, audit_faults, missing
from adapterdistill.errors import ConfigError
from adapterdistill.files import write_secret
from adapterdistill.manifest import Manifest, VersionRef
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.registry.upkeep.migrate import to_postgresql
from adapterdistill.testbed.postgresql import PostgreSQLServer, postgresql_server
from adapterdistill.testbed.registry import RegistryProcess, registry_process

MOST_S = 2.0
"""Seconds within which the other process must serve."""
_PUBLISHERS = 4
_LONGEST_WAIT_S = 0.4
_BALANCER = """
defaults
  mode tcp
  timeout connect 500ms
  timeout client 1h
  timeout server 1h
  retries 3
  option redispatch
listen registry
  bind {address}
  balance roundrobin
  default-server check inter 200ms fall 1 rise 1 on-marked-down shutdown-sessions
{servers}
"""


class SharedRegistry:
    """Two registry processes on one folder and one database; `address` is the balancer's."""

    def __init__(self, folder: Path, database: PostgreSQLServer) -> None:
        self.root, self.database = folder / "registry", database
        self._folder, self._stacks = folder, [ExitStack(), ExitStack()]
        self._ports = [_free_port() for _ in range(3)]
        self.address = f"127.0.0.1:{self._ports[2]}"
        self.root.mkdir(mode=0o700)
        write_secret(folder / "url", database.url.encode())
        to_postgresql(self.root, folder / "url")
        self.processes: list[RegistryProcess] = [self.start(0), self.start(1)]

    def start(self, number: int) -> RegistryProcess:
        """Start one of the two, which does not run."""
        return self._stacks[number].enter_context(
            registry_process(
                self.root,
                *("--port", str(self._ports[number])),
                address_file=self._folder / f"address-{number}",
                log=self._folder / f"log-{number}",
            )
        )

    def kill(self, number: int) -> None:
        self.processes[number].process.send_signal(signal.SIGKILL)
        self.processes[number].process.wait()

    def start_again(self, number: int) -> None:
        self._stacks[number].close()
        self.processes[number] = self.start(number)

    def close(self) -> None:
        for stack in self._stacks:
            stack.close()

    @contextmanager
    def balanced(self) -> Iterator[None]:
        """Run HAProxy before the two; ConfigError if it is not installed."""
        program = shutil.which("haproxy", path="/usr/sbin:/usr/bin:/usr/local/sbin")
        if program is None:
            raise ConfigError("HAProxy is not installed: apt install haproxy")
        servers = "\n".join(
            f"  server registry-{number} {one.address}" for number, one in enumerate(self.processes)
        )
        config = self._folder / "haproxy.cfg"
        config.write_text(_BALANCER.format(address=self.address, servers=servers))
        process = subprocess.Popen(
            [program, "-db", "-f", str(config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield
        finally:
            process.terminate()
            process.wait()


@contextmanager
def shared_registry(folder: Path) -> Iterator[SharedRegistry]:
    """Serve one registry by two processes; ConfigError if PostgreSQL or HAProxy is missing."""
    with postgresql_server() as database, ExitStack() as stack:
        shared = SharedRegistry(folder, database)
        stack.callback(shared.close)
        stack.enter_context(shared.balanced())
        yield shared


def kill_shared_registry(folder: Path, draw: random.Random, *, kills: int = 3) -> Outcome:
    """Kill either process or PostgreSQL amid publishes; the other must serve within MOST_S."""
    report, findings = KillReport(), list[str]()
    acknowledged: dict[VersionRef, Manifest] = {}
    probes = Acknowledged("probe")
    with shared_registry(folder) as shared:
        crowd = Publishers(_PUBLISHERS, draw.randrange(100), acknowledged)
        for number in range(kills):
            victim = ("first", "second", "database")[number % 3]
            with crowd.publishing(shared.address):
                time.sleep(draw.uniform(0, _LONGEST_WAIT_S))
                if victim == "database":
                    shared.database.kill()
                    shared.database.start()
                else:
                    shared.kill(number % 3)
                seconds = _until_served(shared.address, probes)
                report.recovery_s.append(seconds)
                if victim != "database" and seconds > MOST_S:
                    findings.append(f"the other process served after {seconds:.1f} s")
            if victim != "database":
                shared.start_again(number % 3)
            report.kills += 1
        findings += crowd.faults
        acknowledged |= {manifest.ref: manifest for manifest, _ in probes.versions}
        report.acknowledged = len(acknowledged)
        findings += missing(shared.processes[0], acknowledged, report)
        with RegistryClient(shared.processes[1].address, timeout_s=30) as client:
            findings += probes.findings(client)
        findings += fsck_findings(shared.root)
        shared.close()
        findings += audit_faults(shared.root, report)
    note = f"{report.found} of {report.acknowledged} acknowledged versions are there"
    return Outcome(max(report.recovery_s), tuple(findings), note)


def _until_served(address: str, probes: Acknowledged) -> float:
    """Return the seconds until a publish by way of the balancer is acknowledged."""
    with RegistryClient(address, timeout_s=1.0) as client:
        return seconds_until(lambda: probes.publish(client))


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])

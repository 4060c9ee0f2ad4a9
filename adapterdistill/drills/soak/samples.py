"""Resources of a deployment's processes and folders at a moment, by role."""

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from adapterdistill.actors.cluster import OwnCluster
from adapterdistill.ray_private import RAY_COMMAND

OWN_ROLE = "soak"
TEMPORARY, SESSION = "temporary", "Ray's session but logs"
LOGS, SOCKETS = "Ray's logs", "sockets of Ray's dashboard"
SHARED = "shared memory of the whole machine"
"""Kinds of files. Logs are meant to stay; the sockets are left when Ray is stopped."""
_PROGRAMS = {"raylet": "raylet", "gcs_server": "gcs"}
_ROLES = (
    ("ray::ServeReplica", "replica"),
    ("ray::ProxyActor", "proxy"),
    ("haproxy", "proxy"),
    ("ray::ServeController", "controller"),
    ("ray::IDLE", "idle worker"),
    ("ray::DashboardAgent", "agents"),
    ("ray::RuntimeEnvAgent", "agents"),
    ("ray::", "worker"),
    ("adapterdistill registry serve", "registry"),
    ("adapterdistill onboard", "onboarding"),
    ("adapterdistill serve", "deploying"),
    (f"{RAY_COMMAND} start", "head"),
    ("ray.util.client.server", "client server"),
    ("dashboard", "dashboard"),
    ("multiprocessing.resource_tracker", "dashboard"),
    ("monitor", "monitors"),
)
"""(part of the command line, role); the first that fits counts."""
_WORKER = re.compile(r"ray::([\w:]+)")
_SHM = Path("/dev/shm")


@dataclass(frozen=True)
class Held:
    """Resources of all processes of a role together."""

    processes: int = 0
    private_mib: float = 0.0
    """Anonymous memory, resident or swapped out: what a leak of objects grows, whatever the system
    drops of mapped files meanwhile."""
    rss_mib: float = 0.0
    fds: int = 0
    threads: int = 0

    def __add__(self, other: "Held") -> "Held":
        pairs = zip(asdict(self).values(), asdict(other).values(), strict=True)
        return Held(*(one + two for one, two in pairs))


@dataclass(frozen=True)
class Folders:
    """Folders in which files may be left over."""

    temporary: Path
    """TMPDIR of all processes."""
    session: Path
    """Ray's."""


@dataclass(frozen=True)
class Sample:
    """One moment."""

    at_s: float
    roles: Mapping[str, Held]
    workers: Mapping[str, int]
    """Ray's processes by what they run: actors by class, and those that wait for work."""
    files: Mapping[str, int]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_json(cls, found: Mapping[str, Any]) -> "Sample":
        roles = {role: Held(**held) for role, held in found["roles"].items()}
        return cls(found["at_s"], roles, found["workers"], found["files"])


def role_of(command: Sequence[str]) -> str:
    """The role of a process of the deployment, by its command line."""
    if not command:
        return "other"
    # A raylet's arguments name the programs that it starts.
    if role := _PROGRAMS.get(Path(command[0]).name):
        return role
    line = " ".join(command)
    return next((role for part, role in _ROLES if part in line), "other")


def take_sample(at_s: float, folders: Folders) -> Sample:
    """Sample this process, which is the soak's own, and all its descendants."""
    me = psutil.Process()
    roles, workers = {OWN_ROLE: held_by(me)}, Counter[str]()
    for process in me.children(recursive=True):
        with contextlib.suppress(psutil.Error, OSError):  # it ended
            command, held = process.cmdline(), held_by(process)
            role = role_of(command)
            roles[role] = roles.get(role, Held()) + held
            if command and (found := _WORKER.match(command[0])):
                workers[found[1]] += 1
    return Sample(at_s, roles, dict(workers), count_files(folders))


def held_by(process: psutil.Process) -> Held:
    """Linux. Raises OSError or psutil.Error if the process has ended."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    kib = {
        name: int(found[1]) if (found := re.search(rf"^{name}:\s+(\d+)", status, re.M)) else 0
        for name in ("RssAnon", "VmSwap", "VmRSS", "Threads")
    }
    private_mib = (kib["RssAnon"] + kib["VmSwap"]) / 1024
    return Held(1, private_mib, kib["VmRSS"] / 1024, process.num_fds(), kib["Threads"])


def count_files(folders: Folders) -> dict[str, int]:
    """Files left over by kind; of Ray's session also its logs, which are meant to stay."""
    logs = _files_in(folders.session / "session_latest" / "logs")
    sockets = sum(map(_files_in, folders.temporary.glob("pymp-*")))  # multiprocessing's
    return {
        TEMPORARY: _files_in(folders.temporary) - sockets,
        SOCKETS: sockets,
        LOGS: logs,
        SESSION: _files_in(folders.session) - logs,
        SHARED: _files_in(_SHM),
    }


def _files_in(folder: Path) -> int:
    """Count files and sockets; links to folders such as `session_latest` are not followed."""
    return sum(len(names) for _, _, names in os.walk(folder))


def bytes_in(folders: Iterable[Path]) -> int:
    """The size of all files below; those that vanish meanwhile are left out."""
    total = 0
    for folder in folders:
        for path in folder.rglob("*"):
            with contextlib.suppress(OSError):
                total += path.lstat().st_size if path.is_file() else 0
    return total


def live_actors(cluster: OwnCluster) -> dict[str, int]:
    """Actors that live or will start, by class, as Ray counts them."""
    token = Path(cluster.environment["RAY_AUTH_TOKEN_PATH"]).read_text().strip()
    response = httpx.get(
        f"{cluster.dashboard}/api/v0/actors",
        params={"limit": 10_000, "filter_keys": "state", "filter_predicates": "!=",
                "filter_values": "DEAD"},
        headers={"Authorization": f"Bearer {token}"},
        timeout=30,
    )  # fmt: skip
    response.raise_for_status()
    actors = response.json()["data"]["result"]["result"]
    return dict(sorted(Counter(actor["class_name"] for actor in actors).items()))

"""Hosts on one machine: each has an address, a firewall, disks and processes of its own.

A host is a network namespace with a cable to a bridge, and a process that is the first of mount,
pid, host name and IPC namespaces. So it has its own /tmp, /home, /srv, /etc and /dev/shm, and
`ray stop` ends its own Ray alone. Killing that process is a power loss. Needs root, iproute2 and
nftables.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = Path(sys.executable).parent
HOME = "/home/op"
PRIVATE = ("tmp", "home", "srv", "etc")
"""Folders at the top that each host has for itself."""
_BOOT_S = 20.0
_PATHS = f"{VENV}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ENVIRONMENT = {
    "HOME": HOME,
    "USER": "op",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
    "COLUMNS": "120",
    "PATH": _PATHS,
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
    "OMP_NUM_THREADS": "1",
    "RAY_worker_niceness": "0",  # the hosts share this machine with what else runs on it
}
_FIRST_PROCESS = """
set -eu
disk="$1" project="$2" host="$3" tops="$4" shared="$5"
read -r pid _ < /proc/self/stat    # outside: /proc is not this host's yet
echo "$pid" > "$disk/pid"
mount -t proc proc /proc
hostname "$host"
mount -t tmpfs -o size=2g tmpfs /dev/shm
[ -z "$shared" ] || mount --bind "$shared" "$disk/srv/adapterdistill/bundles"
inside="$project"
for top in $tops; do
    case "$project" in "/$top/"*) inside="$disk$project" ;; esac
done
mkdir -p "$inside"
mount --bind "$project" "$inside"
mount -o remount,bind,ro "$inside"
touch "$disk/ready"
for top in $tops; do mount --rbind "$disk/$top" "/$top"; done
cd /
trap : TERM
while :; do sleep 60 & wait $!; done
"""


def why_not() -> str | None:
    """Why hosts cannot be made here; None: they can."""
    if os.geteuid() != 0:
        return "hosts are network namespaces, which only root can make"
    needed = ("ip", "nft", "unshare", "nsenter", "openssl", "ss")
    if missing := [tool for tool in needed if shutil.which(tool) is None]:
        return f"not installed: {', '.join(missing)} (iproute2, nftables, util-linux, openssl)"
    probe = f"adp{os.getpid()}"
    try:
        _ip("netns", "add", probe)
        _ip("-n", probe, "link", "add", "name", "a", "type", "veth", "peer", "name", "b")
        _ip("-n", probe, "link", "add", "name", "c", "type", "bridge")
        inside = ["ip", "netns", "exec", probe]
        _run([*inside, "nft", "add", "table", "inet", "t"])
        _run([*inside, "unshare", "--mount", "--pid", "--fork", "--uts", "--ipc", "true"])
    except subprocess.CalledProcessError as error:
        return f"no namespaces: {error.stderr.strip()}"
    finally:
        subprocess.run(["ip", "netns", "del", probe], capture_output=True, check=False)
    return None


@dataclass
class Host:
    """A machine of a `Lan`."""

    name: str
    address: str
    lan: "Lan"
    opens: str = ""
    """Rules of its firewall that let something in, as nft reads them."""
    shares: bool = False
    """Whether the shared folder is mounted as its serving store."""
    units: list[str] = field(default_factory=list)
    """Units of cluster/systemd that start with it."""

    @property
    def disk(self) -> Path:
        return self.lan.folder / self.name

    @property
    def net(self) -> str:
        return f"{self.lan.tag}-{self.name}"

    def path(self, inside: str) -> Path:
        """The path, on the machine below, of a path of this host."""
        return self.disk / inside.lstrip("/")

    def boot(self) -> None:
        """Power on: what was running before its power loss starts again only as a unit."""
        for name in ("pid", "ready"):
            (self.disk / name).unlink(missing_ok=True)
        # The one that covers the disks themselves comes last.
        tops = sorted(PRIVATE, key=lambda top: self.disk.is_relative_to(f"/{top}"))
        arguments = (self.disk, ROOT, self.name, " ".join(tops))
        shared = self.lan.shared if self.shares else ""
        space = ["unshare", "--mount", "--pid", "--fork", "--uts", "--ipc"]
        with (self.disk / "boot.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *("ip", "netns", "exec", self.net, *space, "--propagation", "private"),
                    *("bash", "-c", _FIRST_PROCESS, self.net, *map(str, (*arguments, shared))),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.plug()
        eventually((self.disk / "ready").exists, _BOOT_S)
        for unit in self.units:
            self.start_unit(unit)

    def crash(self, *, silent: bool) -> None:
        """Power off. Silent: nobody is told; else its kernel closes every connection."""
        if silent:
            self.unplug()
        subprocess.run(["kill", "-9", (self.disk / "pid").read_text().strip()], check=False)
        self._process.wait(10)

    def plug(self) -> None:
        _ip("-n", self.lan.wire, "link", "set", f"v-{self.name}", "up")

    def unplug(self) -> None:
        _ip("-n", self.lan.wire, "link", "set", f"v-{self.name}", "down")

    def command(self, *command: str) -> list[str]:
        pid = (self.disk / "pid").read_text().strip()
        spaces = ["--mount", "--net", "--pid", "--uts", "--ipc", f"--wdns={ROOT}"]
        environment = [f"{name}={value}" for name, value in _ENVIRONMENT.items()]
        return ["nsenter", "--target", pid, *spaces, "env", "-i", *environment, *command]

    def run(
        self, *command: str, check: bool = True, timeout_s: float = 120.0, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[str]:
        """Run a command there, in the project's folder."""
        done = subprocess.run(
            self.command(*command), input=stdin, capture_output=True, timeout=timeout_s, check=False
        )
        out, err = (text.decode("utf-8", "replace") for text in (done.stdout, done.stderr))
        assert not check or done.returncode == 0, f"{self.name}: {command}: {out}{err}"
        return subprocess.CompletedProcess(command, done.returncode, out, err)

    def start(self, *command: str, log: str) -> subprocess.Popen[bytes]:
        """Start a command there; what it says is in `log` on its disk."""
        with (self.disk / log).open("ab") as said:
            return subprocess.Popen(
                self.command(*command),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def start_unit(self, name: str) -> None:
        script = str(Path(__file__).with_name("supervise.py"))
        self.lan.started.append(
            self.start(sys.executable, script, f"cluster/systemd/{name}.service", log=f"{name}.log")
        )

    def copy_to(self, other: "Host", path: str, target: str) -> None:
        """Copy a file or the content of a folder, with modes, as scp does."""
        source, there = self.path(path), other.path(target)
        there.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, there, dirs_exist_ok=True)
        else:
            shutil.copy2(source, there)

    def listening(self) -> list[tuple[str, int, str]]:
        """Address, port and program of each listening TCP socket."""
        found = []
        for line in self.run("ss", "-Hltnp").stdout.splitlines():
            columns = line.split()
            address, _, port = columns[3].rpartition(":")
            program = line.partition('(("')[2].partition('"')[0]
            found.append((address.strip("[]").removeprefix("::ffff:"), int(port), program))
        return sorted(found)

    def raise_wall(self) -> None:
        """Drop what is not let in."""
        rules = f"""
        table inet wall {{
            chain input {{
                type filter hook input priority 0; policy drop;
                iif lo accept
                ct state established,related accept
                {self.opens}
            }}
        }}
        """
        self._nft(rules)

    def lose(self, other: "Host", percent: int) -> None:
        """Lose so much of what comes from the other host; 0 ends it."""
        subprocess.run(
            ["ip", "netns", "exec", self.net, "nft", "delete", "table", "inet", "loss"],
            capture_output=True,
            check=False,
        )
        if percent:
            self._nft(f"""
            table inet loss {{
                chain arriving {{
                    type filter hook prerouting priority -300;
                    ip saddr {other.address} numgen random mod 100 < {percent} drop
                }}
            }}
            """)

    def _nft(self, rules: str) -> None:
        subprocess.run(
            ["ip", "netns", "exec", self.net, "nft", "-f", "-"],
            input=rules,
            text=True,
            check=True,
        )


@dataclass
class Lan:
    """A network of hosts whose disks are folders of `folder`."""

    folder: Path
    prefix: str
    hosts: dict[str, Host] = field(default_factory=dict)
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def tag(self) -> str:
        return f"adh{os.getpid()}"

    @property
    def wire(self) -> str:
        return f"{self.tag}-wire"

    @property
    def shared(self) -> Path:
        return self.folder / "shared"

    def add(self, *names: str) -> list[Host]:
        """Make hosts; each is switched on by `boot`."""
        added = [
            Host(name, f"{self.prefix}.{len(self.hosts) + number}", self)
            for number, name in enumerate(names, start=1)
        ]
        self.hosts |= {host.name: host for host in added}
        return added

    def build(self) -> None:
        self.shared.mkdir(exist_ok=True)
        _ip("netns", "add", self.wire)
        _ip("-n", self.wire, "link", "add", "name", "wire", "type", "bridge")
        _ip("-n", self.wire, "addr", "add", f"{self.prefix}.254/24", "dev", "wire")
        _ip("-n", self.wire, "link", "set", "wire", "up")
        names = "".join(f"{host.address} {host.name}\n" for host in self.hosts.values())
        for host in self.hosts.values():
            for top in ("tmp", HOME, "srv/adapterdistill/bundles"):
                host.path(top).mkdir(parents=True)
            host.path("tmp").chmod(0o1777)
            shutil.copytree("/etc", host.path("etc"), symlinks=True)
            host.path("etc/hosts").write_text(f"127.0.0.1 localhost\n{names}")
            _ip("netns", "add", host.net)
            plug = f"v-{host.name}"
            ends = ("type", "veth", "peer", "name", "eth0", "netns", host.net)
            _ip("-n", self.wire, "link", "add", "name", plug, *ends)
            _ip("-n", self.wire, "link", "set", plug, "master", "wire")
            _ip("-n", host.net, "addr", "add", f"{host.address}/24", "dev", "eth0")
            _ip("-n", host.net, "link", "set", "lo", "up")
            _ip("-n", host.net, "link", "set", "eth0", "up")
            _ip("-n", host.net, "route", "add", "default", "via", f"{self.prefix}.254")
            host.raise_wall()
            host.boot()

    def remove(self) -> None:
        for host in self.hosts.values():
            if (host.disk / "pid").exists():
                host.crash(silent=True)
            subprocess.run(["ip", "netns", "del", host.net], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "del", self.wire], capture_output=True, check=False)
        for process in self.started:
            process.wait(10)


@contextmanager
def lan(folder: Path, prefix: str, hosts: Callable[[Lan], Iterable[Host]]) -> Iterator[Lan]:
    """Build the hosts that a function adds, and remove all of it in the end."""
    made = Lan(folder, prefix)
    hosts(made)
    try:
        made.build()
        yield made
    finally:
        made.remove()


def eventually(holds: Callable[[], object], seconds: float, every_s: float = 0.2) -> float:
    """Seconds until it holds. An assertion that fails within is tried again."""
    began = time.monotonic()
    while True:
        left = seconds - (time.monotonic() - began)
        try:
            if holds():
                return time.monotonic() - began
            assert left > 0, f"not within {seconds:g} s"
        except (AssertionError, subprocess.TimeoutExpired):
            if left <= 0:
                raise
        time.sleep(every_s)


def _run(command: list[str]) -> None:
    subprocess.run(command, capture_output=True, text=True, check=True)


def _ip(*arguments: str) -> None:
    _run(["ip", *arguments])

"""A registry process of its own for the benchmarks: its callers, and what it takes."""

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from adapterdistill.registry.access import Caller
from adapterdistill.registry.trust import pem
from adapterdistill.registry.trust.authority import create, opened

_START_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Serving:
    """A running `adapterdistill registry serve`."""

    address: str
    process: psutil.Process

    def resident_bytes(self) -> int:
        return int(self.process.memory_info().rss)

    def peak_bytes(self) -> int:
        """The most that was resident since it started (Linux)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    def cpu_s(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def is_running(self) -> bool:
        """Whether it is the process that was started, and has not ended."""
        return bool(self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE)


class Federation:
    """A registry's folder whose callers are enrolled as owners are: it serves over mutual TLS."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "registry"
        self._folder = folder / "owners"
        create(self.root, ("127.0.0.1",))

    def credentials(self, tenant: str) -> Path:
        """The owner's credentials folder, made when it is first asked for."""
        folder, caller = self._folder / tenant, Caller("owner", tenant)
        if not folder.exists():
            request = pem.request_credentials(folder, caller)
            with opened(self.root) as authority:
                pem.write(folder / pem.CERTIFICATES, authority.enrol(caller, request))
        return folder


@contextmanager
def serving(
    root: Path, *options: str, log: Path | None = None, before: Sequence[str] = ()
) -> Iterator[Serving]:
    """A registry process on `root` until the block is left; `log` takes what it logs.

    `before` is a command that becomes the one which follows it.
    """
    port_file = root.parent / "address"
    port_file.unlink(missing_ok=True)
    command = [*before, sys.executable, "-m", "adapterdistill", "registry", "serve"]
    with (log or Path("/dev/null")).open("wb") as written:
        process = subprocess.Popen(
            [*command, "--root", str(root), "--port-file", str(port_file), *options],
            stdout=subprocess.DEVNULL,
            stderr=written,
        )
    try:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not port_file.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError("the benchmark's registry did not start")
            time.sleep(0.05)
        yield Serving(port_file.read_text().strip(), psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait(timeout=60)

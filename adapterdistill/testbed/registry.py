"""A registry in a process of its own: its callers, and the resources that it takes."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from adapterdistill.errors import RegistryUnavailableError
from adapterdistill.registry.access import Caller
from adapterdistill.registry.trust import pem
from adapterdistill.registry.trust.authority import create, opened

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class RegistryProcess:
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
def registry_process(
    root: Path,
    *options: str,
    address_file: Path | None = None,
    log: Path | None = None,
    before: Sequence[str] = (),
) -> Iterator[RegistryProcess]:
    """Run `adapterdistill registry serve` on `root` until the block is left.

    Args:
        address_file: takes the address; by default `address` beside `root`.
        log: takes all that the process prints.
        before: a command that becomes the one which follows it.

    Raises:
        RegistryUnavailableError: the registry did not start in time; its log says why.
    """
    address_file = address_file or root.parent / "address"
    address_file.unlink(missing_ok=True)
    command = [*before, sys.executable, "-m", "adapterdistill", "registry", "serve", "--create"]
    command += ["--root", str(root), "--port-file", str(address_file), *options]
    with (log or Path(os.devnull)).open("wb") as written:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches this process, which ends the registry
        )
    try:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not address_file.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                told = f": see {log}" if log else ""
                raise RegistryUnavailableError(f"the registry did not start{told}")
            time.sleep(0.05)
        yield RegistryProcess(address_file.read_text().strip(), psutil.Process(process.pid))
    finally:
        process.terminate()
        try:
            process.wait(timeout=_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

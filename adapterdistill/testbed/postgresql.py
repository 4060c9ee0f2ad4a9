"""A PostgreSQL server of its own, on a Unix socket, for tests and drills."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from adapterdistill.errors import ConfigError

_DEBIAN = Path("/usr/lib/postgresql")
_START_S = 30.0
_USER = "postgres"


def programs() -> Path:
    """Return the folder of PostgreSQL's programs, where Debian puts them; ConfigError: none."""
    found = sorted(_DEBIAN.glob("*/bin/postgres")) if _DEBIAN.is_dir() else []
    if not found:
        raise ConfigError("PostgreSQL is not installed: apt install postgresql")
    return found[-1].parent


class PostgreSQLServer:
    """A server that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._programs, self._folder = programs(), folder
        # PostgreSQL does not run as root.
        self._user = _USER if os.getuid() == 0 else None
        if self._user is not None:
            shutil.chown(folder, self._user)
        self._run("initdb", "-D", str(folder / "data"), "-U", _USER, "-A", "trust", "-k")

    @property
    def url(self) -> str:
        return f"postgresql://{_USER}@/postgres?host={self._folder}"

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._programs / program), *arguments],
            user=self._user,
            cwd="/",
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise ConfigError(f"{program} failed: {done.stderr.strip()[-300:]}")

    def start(self) -> None:
        """Start the server, and wait until it takes connections."""
        self._process = subprocess.Popen(
            [
                *(str(self._programs / "postgres"), "-D", str(self._folder / "data")),
                *("-k", str(self._folder), "-c", "listen_addresses=", "-c", "max_connections=60"),
            ],
            user=self._user,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + _START_S
        ready = [str(self._programs / "pg_isready"), "-q", "-h", str(self._folder)]
        while subprocess.run(ready, cwd="/").returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise ConfigError("PostgreSQL did not start")
            time.sleep(0.05)

    def kill(self) -> None:
        """Kill it, with all its processes, as a power failure would end them."""
        # Its processes are in groups of their own.
        children = psutil.Process(self._process.pid).children(recursive=True)
        self._process.kill()
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        self._process.wait()
        psutil.wait_procs(children)
        (self._folder / "data" / "postmaster.pid").unlink(missing_ok=True)

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait()

    def new_database(self, name: str) -> str:
        """Make a database; return its connection string."""
        self._run("createdb", "-h", str(self._folder), "-U", _USER, name)
        return self.url.replace("/postgres?", f"/{name}?")


@contextmanager
def postgresql_server() -> Iterator[PostgreSQLServer]:
    """Run a server in a folder of its own until the block is left; ConfigError if it cannot."""
    programs()
    with tempfile.TemporaryDirectory(prefix="adapterdistill-postgresql-") as name:
        server = PostgreSQLServer(Path(name))
        server.start()
        try:
            yield server
        finally:
            server.stop()

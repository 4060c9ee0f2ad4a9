"""An owner's page of runs, and starting one: the command that a person would type, in a process.

    WORKSPACE/TENANT/started.log    what the command prints: numbers and names, never a text

The process goes on when the console ends. It holds a lock on the log as long as it is at work, so
that one run of a tenant is started at a time, whichever console starts it.
"""

import fcntl
import hashlib
import os
import shlex
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

from fastapi import APIRouter, Request
from fastapi.responses import Response

from adapterdistill.config import load_toml
from adapterdistill.console.owner import Owner
from adapterdistill.console.pages import Pages, see
from adapterdistill.console.progress import read_progress
from adapterdistill.errors import AdapterDistillError, ConfigError, FileError
from adapterdistill.files import private_folder

LOG = "started.log"
_MOST_BYTES = 16 << 10
_MOST_LINES = 20


_COMMAND = (sys.executable, "-m", "adapterdistill")


class Offered(NamedTuple):
    """A TOML that the console was told of."""

    config: Path
    tenant: str
    fault: str = ""
    """Why its run cannot be started here."""


class Started(NamedTuple):
    """The last run of a tenant that a console started."""

    tenant: str
    at_work: bool
    lines: tuple[str, ...]
    """The command, and the end of what it printed."""

    @property
    def mark(self) -> str:
        """A digest: equal as long as nothing changes."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]


def add_starting(router: APIRouter, owner: Owner, pages: Pages) -> None:
    """Add the page of all runs, on which one is started."""

    @router.get("/runs")
    def runs(request: Request, seen: str = "") -> Response:
        found = [
            run for tenant in owner.tenants() for run in read_progress(owner.workspace, tenant)
        ]
        found.sort(key=lambda run: -run.changed_at)
        begun = started(owner)
        marks = "".join([*(run.mark for run in found), *(one.mark for one in begun)])
        mark = hashlib.sha256(marks.encode()).hexdigest()[:16]
        return pages.followed(
            request,
            "runs",
            mark,
            seen,
            runs=found,
            started=begun,
            offered=offered(owner),
            cluster=owner.cluster,
        )

    @router.post("/runs/start")
    def begin(request: Request) -> Response:
        start(owner, request.scope["form"].get("file", ""))
        return see("/runs")


def offered(owner: Owner) -> list[Offered]:
    """List the TOMLs that the console was told of."""
    return [_offered(owner, file) for file in owner.configs()]


def _offered(owner: Owner, file: Path) -> Offered:
    try:
        config = load_toml(file)
    except AdapterDistillError as error:
        return Offered(file, "", str(error))
    store = str(owner.store.absolute()) if isinstance(owner.store, Path) else owner.store
    if (Path(config.workspace), config.serving_store) != (owner.workspace.absolute(), store):
        return Offered(file, config.tenant, "it has another workspace or serving_store")
    if owner.tenant not in (None, config.tenant):
        return Offered(file, config.tenant, "it is another tenant's")
    return Offered(file, config.tenant)


def start(owner: Owner, name: str) -> None:
    """Start the run of the TOML of that name.

    Raises:
        ConfigError: there is none, it cannot be started here, or a run of the tenant that was
            started so is at work.
        FileError: the workspace cannot be written.
    """
    chosen = next((one for one in offered(owner) if one.config.name == name), None)
    if chosen is None or chosen.fault:
        raise ConfigError("choose one of the run files that are offered")
    arguments = ["onboard", "--local", "--config", str(chosen.config)]
    if owner.cluster is not None:
        arguments = ["submit", "--config", str(chosen.config), "--address", owner.cluster]
    log = owner.workspace / chosen.tenant / LOG
    try:
        private_folder(log.parent)
        descriptor = os.open(log, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise FileError(f"{log}: {error.strerror}") from None
    with os.fdopen(descriptor, "r+b") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                f"a run of {chosen.tenant} that was started here is at work: wait for its end"
            ) from None
        opened.truncate()
        opened.write(f"$ {shlex.join(['adapterdistill', *arguments])}\n".encode())
        opened.flush()
        # The process has the same open file, and with it the lock.
        process = subprocess.Popen(
            [*_COMMAND, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=opened,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    threading.Thread(target=process.wait, daemon=True).start()


def started(owner: Owner) -> list[Started]:
    """The last run of each tenant that a console started."""
    tenants = {*owner.tenants(), *(one.tenant for one in offered(owner) if not one.fault)}
    found = (_started(owner.workspace / tenant / LOG, tenant) for tenant in sorted(tenants))
    return [one for one in found if one is not None]


def _started(log: Path, tenant: str) -> Started | None:
    try:
        with log.open("rb") as opened:
            first = opened.readline(_MOST_BYTES)
            opened.seek(max(len(first), os.fstat(opened.fileno()).st_size - _MOST_BYTES))
            rest = opened.read(_MOST_BYTES)
            try:
                fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
                at_work = False
            except OSError:
                at_work = True
    except OSError:
        return None
    lines = [line.decode("utf-8", "replace") for line in (first, *rest.splitlines()[-_MOST_LINES:])]
    return Started(tenant, at_work, tuple(line.rstrip() for line in lines if line.strip()))

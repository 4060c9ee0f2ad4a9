"""The parties of a federation on one machine: owners with clusters of their own, and a registry.

Each has its own folder, ports, processes and keys; nothing is shared but the registry's port.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from adapterdistill.actors.cluster import OwnCluster, start_own_cluster, stop_own_cluster
from adapterdistill.actors.onboarding import OnboardReport
from adapterdistill.errors import (
    AdapterDistillError,
    TrainingError,
    error_classes,
)
from adapterdistill.manifest import VersionRef
from adapterdistill.registry.client.client import RegistryClient

HOME_VARIABLE = "ADAPTERDISTILL_HOME"
_COMMAND_TIMEOUT_S = 120.0
_KEPT_LINES = 20
_ERROR_LINE = re.compile(r"error \[([A-Z_]+)\]: (.*)")


@dataclass(frozen=True)
class Owner:
    """A tenant and the folder that holds all that it has."""

    tenant: str
    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def credentials(self) -> Path:
        return self.folder / "credentials"

    @property
    def run_file(self) -> Path:
        return self.folder / "run.toml"

    @property
    def address_file(self) -> Path:
        return self.folder / "registry.address"

    @property
    def report_file(self) -> Path:
        return self.folder / "work" / self.tenant / "report.json"

    def client(self) -> RegistryClient:
        """Calls the registry with the owner's keys."""
        return RegistryClient(
            self.address_file.read_text("utf-8").strip(), credentials=self.credentials
        )

    def sees(self) -> list[str]:
        """Other tenants whose adapters the registry shows it."""
        with self.client() as client:
            return sorted(one.tenant for one in client.list(exclude_tenant=self.tenant))


Onboard = Callable[[], OnboardReport]
"""Submits the owner's run, again if it was submitted before. Raises the error that ended it."""
Site = Callable[[Owner], AbstractContextManager[Onboard]]
"""A context in which an owner trains."""


@contextmanager
def own_cluster(owner: Owner, emit: Callable[[str], None]) -> Iterator[Onboard]:
    """A Ray cluster with the owner's node alone, and jobs submitted to it."""
    temporary = owner.folder / "tmp"
    temporary.mkdir()
    cluster = start_own_cluster(
        owner.folder,
        num_cpus=1,
        resources={f"owner:{owner.tenant}": 1},
        environment={HOME_VARIABLE: str(owner.folder), "TMPDIR": str(temporary)},
    )
    submissions = 0

    def onboard() -> OnboardReport:
        nonlocal submissions
        submissions += 1
        status, tail = submit_onboarding(
            cluster, owner.run_file, submission_id=f"onboard-{submissions}", emit=emit
        )
        if status != 0:
            _raise_told(tail, TrainingError(f"onboarding {owner.tenant} failed: {tail[-5:]}"))
        return OnboardReport.model_validate_json(owner.report_file.read_bytes())

    try:
        yield onboard
    finally:
        stop_own_cluster(cluster)


def refusal(call: Callable[[VersionRef], object], ref: VersionRef) -> str:
    """The refusal of a call, without the digest that it asked for."""
    try:
        call(ref)
    except AdapterDistillError as error:
        return f"{error.reason}: {error}".replace(ref.version, "...")
    return "allowed"


def command(*arguments: str) -> str:
    """Run `adapterdistill ARGUMENTS` and return what it prints. Raises the error it ends with."""
    done = subprocess.run(
        [sys.executable, "-m", "adapterdistill", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_COMMAND_TIMEOUT_S,
    )
    if done.returncode != 0:
        lines = done.stderr.splitlines()
        _raise_told(lines, TrainingError(f"{' '.join(arguments[:2])} failed: {lines[-3:]}"))
    return done.stdout


def _raise_told(lines: Sequence[str], otherwise: Exception) -> NoReturn:
    """Raise the error that another process printed last."""
    by_reason = {error_class.reason: error_class for error_class in error_classes()}
    for line in reversed(lines):
        told = _ERROR_LINE.search(line)
        if told and told[1] in by_reason:
            raise by_reason[told[1]](told[2])
    raise otherwise


def submit_onboarding(
    cluster: OwnCluster, config: Path, *, submission_id: str, emit: Callable[[str], None]
) -> tuple[int, list[str]]:
    """Exit status of `adapterdistill submit` and the last lines that it printed, plain.

    Progress is shown through `emit` as it comes.
    """
    package = Path(cluster.folder) / "package.zip"
    arguments = ["submit", f"--config={config}", f"--submission-id={submission_id}"]
    emit(f"$ adapterdistill {' '.join(arguments)}")
    command = [
        *(sys.executable, "-m", "adapterdistill", *arguments),
        *(f"--address={cluster.dashboard}", f"--package={package}"),
    ]
    tail: list[str] = []
    with subprocess.Popen(
        command,
        env=os.environ | cluster.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            plain = _plain(line)
            tail = [*tail[-_KEPT_LINES:], plain]
            if line.startswith("[") or "error [" in line or ": step " in line:
                emit(f"   {plain}")
    return process.returncode, tail


def _plain(line: str) -> str:
    """The line without the actor's prefix and colours that Ray adds."""
    uncoloured = re.sub(r"\x1b\[[0-9;]*m", "", line)
    return re.sub(r"^\(\w+ pid=\d+\) ", "", uncoloured).rstrip()

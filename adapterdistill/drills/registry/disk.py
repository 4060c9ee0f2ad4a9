"""Drills of the registry's disk: it damages a payload, or takes no more."""

import errno
import os
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from adapterdistill.drills.drill import Outcome, not_refused, seconds_until
from adapterdistill.drills.registry.acknowledged import Acknowledged, fetch_findings, fsck_findings
from adapterdistill.errors import AdapterDistillError
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.testbed.registry import RegistryProcess, registry_process

VERSIONS = 6
_LONGEST_WAIT_S = 0.3
_PATIENT_S = 30.0
REFUSALS = {"REGISTRY_ERROR", "REGISTRY_UNAVAILABLE"}


def corrupt_blob(folder: Path, draw: random.Random) -> Outcome:
    """Change, cut or remove a payload on disk, and publish it again."""
    root, told = folder / "registry", Acknowledged()
    with (
        registry_process(root) as server,
        RegistryClient(server.address, timeout_s=_PATIENT_S) as client,
    ):
        for _ in range(VERSIONS):
            told.publish(client)
        manifest, payload = draw.choice(told.versions)
        blob = root / "blobs" / manifest.version[:2] / manifest.version
        damage(blob, draw)
        began = time.monotonic()
        findings = not_refused(
            lambda: client.fetch(manifest.ref), "DIGEST_MISMATCH", "REGISTRY_ERROR"
        )
        found = fsck_findings(root)
        if len(found) != 1 or manifest.version not in found[0]:
            findings.append(
                f"fsck reported {len(found)} faults, expected the damaged payload alone"
            )
        client.publish(manifest, payload)
        client.fetch(manifest.ref)
        recovery_s = time.monotonic() - began
        findings += told.findings(client)
    return Outcome(recovery_s, (*findings, *fsck_findings(root)))


def damage(blob: Path, draw: random.Random) -> None:
    """Flip a bit, cut the file short, or remove it."""
    content = bytearray(blob.read_bytes())
    place = draw.randrange(len(content))
    match draw.choice(("flip", "cut", "lose")):
        case "flip":
            content[place] ^= 1 << draw.randrange(8)
            blob.write_bytes(content)
        case "cut":
            blob.write_bytes(content[:place])
        case _:
            blob.unlink()


def fill_disk(folder: Path, draw: random.Random) -> Outcome:
    """Fill the registry's disk during publishes, and free it again."""
    told = Acknowledged()
    with (
        serving_on_small_disk(folder) as disk,
        RegistryClient(disk.server.address, timeout_s=1.0) as client,
        RegistryClient(disk.server.address, timeout_s=_PATIENT_S) as patient,
    ):
        told.publish(patient)
        with _publishing(told, client) as refused:
            time.sleep(draw.uniform(0, _LONGEST_WAIT_S))
            disk.fill(draw.randrange(64 << 10))
            full_at = time.monotonic()
            while not refused and time.monotonic() - full_at < _PATIENT_S:
                time.sleep(0.01)
            time.sleep(draw.uniform(0, _LONGEST_WAIT_S))
            # Existing versions can be read all the while.
            findings = [*fetch_findings(patient, *told.versions[0])]
            if not disk.server.is_running():
                findings.append("the registry's process ended")
            disk.free()
        if not refused:
            findings.append("nothing was refused, so this shows nothing")
        findings += (f"refused with {reason}" for reason in sorted(refused - REFUSALS))
        recovery_s = seconds_until(lambda: told.publish(patient))
        findings += told.findings(patient)
    return Outcome(recovery_s, (*findings, *fsck_findings(folder / "registry")), disk.note)


@contextmanager
def _publishing(told: Acknowledged, client: RegistryClient) -> Iterator[set[str]]:
    """Publish in a thread all the while; yield the reasons of refusals, which grow."""
    ended, reasons = threading.Event(), set[str]()

    def publish() -> None:
        while not ended.is_set():
            try:
                told.publish(client)
            except AdapterDistillError as error:
                reasons.add(error.reason)

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        yield reasons
    finally:
        ended.set()
        thread.join()


_MIB = 1 << 20
_SIZE_MIB = 16
_MOUNT = f'mount -t tmpfs -o size={_SIZE_MIB}m tmpfs "$0" && exec "$@"'
_ALONE = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", _MOUNT)
"""Linux: a file system in memory that only the command which follows sees, without any rights."""


@dataclass(frozen=True)
class SmallDisk:
    """The disk of a running registry."""

    server: RegistryProcess
    root: Path
    """The folder on the small disk, as this process finds it."""
    is_mounted: bool

    @property
    def note(self) -> str:
        if self.is_mounted:
            return f"a file system of {_SIZE_MIB} MiB was full (ENOSPC)"
        return "file sizes were limited (EFBIG): no file system could be mounted"

    def fill(self, left_bytes: int) -> None:
        """Fill the disk but for so many bytes; without a mount, limit each file to these."""
        if not self.is_mounted:
            self._limit(left_bytes)
            return
        with self._ballast.open("wb", buffering=0) as ballast:
            try:
                while ballast.write(bytes(_MIB)):
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
            ballast.truncate(max(0, ballast.tell() - left_bytes))

    def free(self) -> None:
        if self.is_mounted:
            self._ballast.unlink()
        else:
            self._limit(psutil.RLIM_INFINITY)

    @property
    def _ballast(self) -> Path:
        return self.root / "ballast"

    def _limit(self, file_bytes: int) -> None:
        _, hard = self.server.process.rlimit(psutil.RLIMIT_FSIZE)
        self.server.process.rlimit(psutil.RLIMIT_FSIZE, (file_bytes, hard))


@contextmanager
def serving_on_small_disk(folder: Path, part: str = ".") -> Iterator[SmallDisk]:
    """A registry process with its files in `folder`/registry, where they are afterwards, too.

    `part` is the folder within it that has the small disk.
    """
    root = folder / "registry"
    small = root / part
    small.mkdir(parents=True)
    alone = (*_ALONE, str(small))
    if not can_mount(alone):
        with registry_process(root) as server:
            yield SmallDisk(server, small, is_mounted=False)
        return
    with ExitStack() as kept:
        with registry_process(root, before=alone) as server:
            # The file system exists for as long as a process has it open.
            seen = os.open(f"/proc/{server.process.pid}/root{small}", os.O_RDONLY)
            kept.callback(os.close, seen)
            yield SmallDisk(server, Path(f"/proc/self/fd/{seen}"), is_mounted=True)
        shutil.copytree(f"/proc/self/fd/{seen}", small, dirs_exist_ok=True)


def can_mount(alone: tuple[str, ...]) -> bool:
    try:
        return subprocess.run([*alone, "true"], capture_output=True, timeout=60).returncode == 0
    except OSError:
        return False  # no such program

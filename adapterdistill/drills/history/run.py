"""The drill of a history: several callers at once, while the registry is killed and restored."""

import json
import random
import shutil
import signal
import threading
import time
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from adapterdistill.drills.drill import REPORT, Outcome, seconds_until
from adapterdistill.drills.history.callers import TENANTS, Caller, callers
from adapterdistill.drills.history.checker import faults
from adapterdistill.drills.history.record import (
    OPERATOR,
    Effect,
    Incarnation,
    Line,
    Revocation,
)
from adapterdistill.drills.history.scene import Scene, watch
from adapterdistill.drills.registry.acknowledged import fsck_findings
from adapterdistill.errors import RegistryUnavailableError
from adapterdistill.registry import access
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.registry.index.database import connect, connect_for_reading
from adapterdistill.registry.index.index import Index
from adapterdistill.registry.trust import pem
from adapterdistill.registry.trust.authority import opened
from adapterdistill.registry.upkeep.audit_verify import LOG, examine
from adapterdistill.registry.upkeep.backup import Contents, backup, restore
from adapterdistill.testbed.registry import Federation, RegistryProcess, registry_process

THREADS_EACH = 2
KILLS = 3
_KEYS = (pem.AUTHORITY_FOLDER, pem.SERVER_FOLDER)
_CHANGES = {"published", "quarantined", "released", "withdrawn", "consent_changed", "alias_moved"}
_PATIENT_S = 30.0
_CATCH_UP_S = 20.0


def history(folder: Path, draw: random.Random, *, calls: int) -> Outcome:
    """Call a registry from several threads while it is killed, backed up, restored from the backup
    and its log, and a caller's certificate is revoked; then check the whole history."""
    with _Stage(folder, calls) as stage:
        scene = stage.scene
        threads = [
            *(threading.Thread(target=watch, args=(scene, one)) for one in (OPERATOR, TENANTS[0])),
            *(threading.Thread(target=one.run) for one in callers(scene, THREADS_EACH, draw)),
        ]
        for thread in threads:
            thread.start()
        try:
            recovery_s = stage.disturb(draw)
            for thread in threads[2:]:
                thread.join()
            Caller(scene, OPERATOR, draw).survey()
            stage.wait_for_watches()
        finally:
            scene.end()
            for thread in threads:
                thread.join()
    stage.read_log()
    made = sum(len(one.calls) for one in scene.history.incarnations)
    changes = sum(len(one.lines) - one.restored for one in scene.history.incarnations)
    unknown = sum(c.answer == "unknown" for one in scene.history.incarnations for c in one.calls)
    # What was published before its certificate was revoked stays valid.
    unsound = (one for one in fsck_findings(stage.root) if "is revoked" not in one)
    found = (*scene.faults, *faults(scene.history), *unsound)
    (folder / REPORT).mkdir()
    text = json.dumps(asdict(scene.history), default=sorted, indent=1)
    (folder / REPORT / "history.json").write_text(text, "utf-8")
    note = f"{made} calls, {changes} changes, {unknown} without an answer"
    return Outcome(max(recovery_s), found, note)


class _Stage:
    """The registry of a history, and what is done to it."""

    def __init__(self, folder: Path, calls: int) -> None:
        self._folder = folder
        self._federation = Federation(folder)
        self._processes = ExitStack()
        self._server: RegistryProcess
        self._backup: Contents
        self._backed_up: tuple[float, float]
        self._restored_revision = 0
        credentials = {one: (0, self._federation.credentials(one)) for one in TENANTS}
        credentials[OPERATOR] = 0, self.root / "operator"
        self.scene = Scene("", calls, credentials)

    @property
    def root(self) -> Path:
        return self._federation.root

    def __enter__(self) -> "_Stage":
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._processes.close()

    def _start(self) -> float:
        """Start the registry, at the same address; return how many seconds that took."""
        began_s = time.monotonic()
        port = self.scene.address.rpartition(":")[2]
        options = ("--port", port) if port else ()
        self._server = self._processes.enter_context(registry_process(self.root, *options))
        self.scene.address = self._server.address
        if not self.scene.incarnations:
            self._name_incarnation()
        with RegistryClient(
            self._server.address, credentials=self.scene.credentials[OPERATOR][1]
        ) as client:
            seconds_until(lambda: _ready(client), timeout_s=_PATIENT_S)
        self.scene.running.set()
        return time.monotonic() - began_s

    def disturb(self, draw: random.Random) -> list[float]:
        """Do everything at random moments; return the seconds that each restart took."""
        deeds = [self.kill] * KILLS + [self.revoke]
        draw.shuffle(deeds)
        first, second = sorted(draw.sample(range(len(deeds) + 1), 2))
        deeds.insert(second, self.restore)
        deeds.insert(first, self.back_up)
        limit = self.scene.limit
        moments = sorted(draw.sample(range(limit // 20, limit - limit // 20), len(deeds)))
        took: list[float] = []
        for moment, deed in zip(moments, deeds, strict=True):
            while self.scene.begun < moment and not self.scene.faults:
                time.sleep(0.005)
            time.sleep(draw.uniform(0, 0.05))
            took.append(deed())
        return took

    def _name_incarnation(self) -> None:
        with closing(Index(connect(self.root))) as index:
            self.scene.incarnations.append(index.incarnation())
            self._restored_revision = index.newest_revision()

    def kill(self) -> float:
        """Kill the registry amid calls, and start it again."""
        self.scene.running.clear()
        self._end()
        return self._start()

    def _end(self) -> None:
        self.scene.now.kills.append(time.monotonic())
        self._server.process.send_signal(signal.SIGKILL)
        self._processes.close()

    def back_up(self) -> float:
        """Back the registry up while it serves."""
        began_s = time.monotonic()
        self._backup = backup(self.root, self._folder / "backup")
        self._backed_up = began_s, time.monotonic()
        return 0.0

    def restore(self) -> float:
        """Kill the registry, and restore the backup with its log, its keys and its certificates."""
        self.scene.running.clear()
        self._end()
        while self.scene.open_calls:  # a call of one incarnation must not reach the next
            time.sleep(0.01)
        lost = self.root
        self.read_log()
        self._federation.root = self._folder / "restored"
        restore(self._folder / "backup", self.root, audit=lost / "audit" / LOG)
        for name in _KEYS:
            shutil.copytree(lost / name, self.root / name, dirs_exist_ok=True)
        kept = sum(line.revision <= self._backup.revision for line in self.scene.now.lines)
        with self.scene.lock:
            one = Incarnation(kept=kept, backup=self._backed_up)
            self.scene.history.incarnations.append(one)
            self._name_incarnation()
        return self._start()

    def revoke(self) -> float:
        """Revoke a tenant's certificate amid its calls, and enrol it again with new keys."""
        tenant = TENANTS[0]
        number, _ = self.scene.credentials[tenant]
        caller, began_s = access.Caller("owner", tenant), time.monotonic()
        with opened(self.root) as authority:
            authority.revoke(caller)
            self.scene.history.revocations.append(
                Revocation(tenant, number, began_s, time.monotonic())
            )
        time.sleep(0.3)
        folder = self._folder / f"{tenant}-{number + 1}"
        request = pem.request_credentials(folder, caller)
        with opened(self.root) as authority:
            pem.write(folder / pem.CERTIFICATES, authority.enrol(caller, request, new_keys=True))
        self.scene.credentials[tenant] = number + 1, folder
        return 0.0

    def read_log(self) -> None:
        """Read the changes that the log of the current incarnation tells of."""
        one, lines = self.scene.now, list[Line]()

        def visit(record: dict[str, Any]) -> None:
            if record["kind"] == "void":
                lines.pop()
            elif record["kind"] in _CHANGES:
                effect = Effect(record["kind"], record["name"], record["reason"])
                lines.append(Line(record["revision"], record["caller"], effect))

        found = examine(self.root / "audit" / LOG, visit=visit)
        if found.fault is not None:
            self.scene.faults.append(f"audit log: {found.fault}")
        one.restored = sum(line.revision <= self._restored_revision for line in lines)
        one.lines = lines

    def wait_for_watches(self) -> None:
        """Wait until the operator's watch told of the last change, or for long enough."""
        with closing(connect_for_reading(self.root)) as index:
            (newest,) = index.execute(
                "SELECT max(told) FROM events WHERE kind <> 'voided'"
            ).fetchone()
        deadline = time.monotonic() + _CATCH_UP_S
        while time.monotonic() < deadline:
            told = self.scene.now.told.get(OPERATOR, [])
            if told and told[-1].revision >= newest:
                time.sleep(0.5)  # the other watches
                return
            time.sleep(0.05)


def _ready(client: RegistryClient) -> None:
    if not client.health():
        raise RegistryUnavailableError("the registry is not ready")

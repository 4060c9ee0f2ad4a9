"""Each drill that needs no Ray, once as it is, and once where it must fail."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from adapterdistill.actors import teachers
from adapterdistill.drills.catalogue import DRILLS
from adapterdistill.drills.drill import Drill, run_drill
from adapterdistill.drills.history import run as history_run
from adapterdistill.drills.onboarding import resuming
from adapterdistill.drills.registry import bystander, calls, clocks, disk, kills, unwritable
from adapterdistill.drills.registry.disk import SmallDisk
from adapterdistill.registry.client import client as registry_client
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.registry.streams import Download, manifest_of
from adapterdistill.registry.trust.authority import LIFETIME
from adapterdistill.registry.upkeep import backup as backups

Sabotage = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kills, "PUBLISHERS", 1)
    monkeypatch.setattr(calls, "DROPS", 1)
    monkeypatch.setattr(disk, "VERSIONS", 2)
    monkeypatch.setattr(resuming, "KILLS", 1)
    monkeypatch.setattr(history_run, "KILLS", 1)


def _lose_payloads(root: Path) -> None:
    for blob in (root / "blobs").glob("*/*"):
        blob.unlink()


def _disk_forgets_at_a_restart(patch: pytest.MonkeyPatch) -> None:
    serving = kills.registry_process

    def forgetful(root: Path) -> Any:
        _lose_payloads(root)
        return serving(root)

    patch.setattr(kills, "registry_process", forgetful)


def _client_tries_once(patch: pytest.MonkeyPatch) -> None:
    def once(call: Callable[[float], Any], *, timeout_s: float, explain: Any) -> Any:
        try:
            return call(timeout_s)
        except grpc.RpcError as error:
            raise explain(error) from None

    patch.setattr(registry_client, "retried", once)


def _client_waits_beyond_its_deadline(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(calls, "_HASTY_S", 60.0)
    patch.setattr(calls, "_STANDSTILL_S", 0.2)


def _client_believes_what_comes(patch: pytest.MonkeyPatch) -> None:
    def take(self: Download, responses: Iterator[Any]) -> Any:
        manifest = manifest_of(self._ref, next(responses).version)
        return manifest, b"".join(response.chunk.data for response in responses)

    patch.setattr(Download, "take", take)


def _full_disk_forgets(patch: pytest.MonkeyPatch) -> None:
    fill = SmallDisk.fill

    def forgetful(self: SmallDisk, left_bytes: int) -> None:
        _lose_payloads(self.root)
        fill(self, left_bytes)

    patch.setattr(SmallDisk, "fill", forgetful)


def _no_certificate_expires(patch: pytest.MonkeyPatch) -> None:
    renew = clocks._renew
    patch.setattr(clocks, "_renew", lambda root, folder, _: renew(root, folder, LIFETIME))


def _nothing_is_withdrawn(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RegistryClient, "withdraw", lambda *_: ())


def _nothing_is_replayed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(backups, "replay", lambda *_: None)


def _owners_prove_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(teachers, "load_proven", lambda _encoder, _manifest, payload: payload)


def _client_hears_no_refusal(patch: pytest.MonkeyPatch) -> None:
    change = unwritable._set_consent

    def deaf(*arguments: Any) -> None:
        change(*arguments)

    patch.setattr(unwritable, "_set_consent", deaf)


def _every_wait_is_noticed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(bystander, "UNNOTICED_S", 0.0)
    patch.setattr(bystander, "MOST_TIMES", 0.0)


def _log_tells_of_no_publish(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(history_run, "_CHANGES", {"withdrawn", "consent_changed"})


# A broken system for each drill, and what it must be found out by.
SABOTAGES: dict[str, tuple[Sabotage, str]] = {
    "kill-registry": (_disk_forgets_at_a_restart, "acknowledged and not there"),
    "drop-rpc": (_client_tries_once, "REGISTRY_UNAVAILABLE"),
    "slow-rpc": (_client_waits_beyond_its_deadline, "answered, expected REGISTRY_UNAVAILABLE"),
    "corrupt-blob": (_client_believes_what_comes, "answered, expected DIGEST_MISMATCH"),
    "fill-disk": (_full_disk_forgets, "acknowledged and lost"),
    "clock-skew": (_no_certificate_expires, "answered, expected UNAUTHENTICATED"),
    "stale-teacher": (_nothing_is_withdrawn, "was used"),
    "history": (_log_tells_of_no_publish, "which no moment of it explains"),
    "restore": (_nothing_is_replayed, "answered, expected WITHDRAWN"),
    "unwritable-audit": (_client_hears_no_refusal, "took effect"),
    "slow-clients": (_every_wait_is_noticed, "another owner was held up"),
    "flooded-registry": (_every_wait_is_noticed, "another owner was held up"),
    "poisoned-teacher": (_owners_prove_nothing, "was used"),
}


def _tiny(drill: Drill) -> Drill:
    sizes = {"payloads": 50, "seconds": 1.0, "calls": 60}
    return replace(drill, sizes={name: sizes.get(name, size) for name, size in drill.sizes.items()})


# What it finds out is tested apart, on results that are made up.
@pytest.mark.parametrize("name", [*SABOTAGES, "kill-onboarding", "partition", "lossy-network"])
def test_the_drill_passes(name: str) -> None:
    found = run_drill(_tiny(DRILLS[name]), seed=1)
    assert found.findings == ()
    assert found.recovery_s is not None and found.recovery_s > 0


def test_a_limit_stands_for_a_full_disk_where_none_can_be_mounted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(disk, "can_mount", lambda _: False)
    found = run_drill(DRILLS["fill-disk"], seed=1)
    assert found.passed and "EFBIG" in found.note


@pytest.mark.parametrize("name", SABOTAGES)
def test_the_drill_fails_where_the_system_is_broken(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sabotage, finding = SABOTAGES[name]
    sabotage(monkeypatch)
    found = run_drill(_tiny(DRILLS[name]), seed=1)
    assert not found.passed
    assert finding in "\n".join(found.findings)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_nothing_is_left_of_a_drill_that_is_interrupted(
    number: int, status: int, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "adapterdistill", "drill", "kill-registry", "--runs", "99"]
    with subprocess.Popen(
        command, env=os.environ | {"TMPDIR": str(tmp_path)}, stderr=subprocess.DEVNULL
    ) as process:
        while not list(tmp_path.glob("ad-*/registry")):
            time.sleep(0.02)
        (folder,) = tmp_path.glob("ad-*")
        process.send_signal(number)
        process.send_signal(number)  # as an impatient person does
    assert process.returncode == status
    assert list(tmp_path.iterdir()) == []
    commands = [one.info["cmdline"] or [] for one in psutil.process_iter(["cmdline"])]
    assert not [one for one in commands if any(str(folder) in part for part in one)]

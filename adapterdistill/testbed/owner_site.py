"""A small data owner on this machine: rows, encoder, a registry with a teacher, and a cluster."""

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from adapterdistill.actors.cluster import OwnCluster, start_own_cluster, stop_own_cluster
from adapterdistill.actors.onboarding import OnboardReport, in_process, onboard
from adapterdistill.backbone import load_encoder
from adapterdistill.config import OnboardConfig, parse_config
from adapterdistill.data.importing import import_samples
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.testbed.random_adapters import publish_adapter, random_adapters
from adapterdistill.testbed.registry import RegistryProcess, registry_process
from adapterdistill.testbed.tiny_encoder import make_tiny_encoder

TENANT = "larkhill-vets"
RESOURCE = f"owner:{TENANT}"
ROOT = Path(__file__).parents[2]
"""The folder that holds the packages."""


def make_owner(folder: Path) -> None:
    """Write the owner's rows and an encoder into the folder."""
    import_samples(TENANT, folder / "data")
    make_tiny_encoder(folder / "encoder")


def settings(
    owner: Path, run: Path, registry: str, *, timeout_s: float = 30.0, num_workers: int = 0
) -> dict[str, Any]:
    """A run's settings, short enough for a drill.

    Args:
        owner: the folder of `make_owner`.
        run: the folder in which the run keeps its files.
        timeout_s: of calls to the registry.
    """
    return {
        "tenant": TENANT,
        "data": str(owner / "data"),
        "workspace": str(run / "owners"),
        "serving_store": str(run / "serving"),
        "encoder": {"name": str(owner / "encoder"), "dtype": "float32"},
        "registry": {"address": registry, "timeout_s": timeout_s},
        "training": {
            "public_seed": True,  # runs in two folders are compared
            "bottleneck_size": 8,
            "extract_steps": 12,
            "distil_steps": 12,
            "evaluate_every": 2,
            "num_workers": num_workers,
        },
    }


def toml(settings: dict[str, Any]) -> str:
    """Settings with sections of one level, as TOML."""
    sections = {name: value for name, value in settings.items() if isinstance(value, dict)}
    lines = [f"{n} = {json.dumps(v)}" for n, v in settings.items() if n not in sections]
    for name, section in sections.items():
        lines += [f"[{name}]", *(f"{n} = {json.dumps(v)}" for n, v in section.items())]
    return "\n".join(lines)


def read_report(workspace: Path) -> OnboardReport:
    """The report of the run whose owners' folder this is."""
    return OnboardReport.model_validate_json((workspace / TENANT / "report.json").read_bytes())


def onboard_here(settings: dict[str, Any]) -> tuple[OnboardConfig, OnboardReport]:
    """Run an onboarding in this process, without Ray and without a word."""
    config = parse_config(settings, source="the drill")
    with contextlib.redirect_stderr(io.StringIO()):
        return config, onboard(config, in_process(config), emit=lambda line: None)


@contextmanager
def taught_registry(root: Path, encoder_folder: Path) -> Iterator[RegistryProcess]:
    """Run a registry that has a teacher for this encoder."""
    encoder = load_encoder(str(encoder_folder), dtype="float32")
    with registry_process(root) as server:
        with RegistryClient(server.address) as client:
            (adapter,) = random_adapters(encoder, 1)
            publish_adapter(client, encoder, "teacher", adapter)
        yield server


@dataclass(frozen=True)
class Site:
    """An owner's cluster and files, and a registry with a teacher in it."""

    folder: Path
    cluster: OwnCluster
    registry: str
    patience_s: float = 30.0
    """Seconds to wait for the owner's node."""

    def config(self, work: str, num_workers: int) -> dict[str, Any]:
        placement = {"resource": RESOURCE, "timeout_s": self.patience_s}
        made = settings(self.folder, self.folder / work, self.registry, num_workers=num_workers)
        return made | {"placement": placement}


@contextmanager
def site_in(
    folder: Path,
    *,
    dashboard: bool = False,
    on_head: bool = True,
    environment: dict[str, str] | None = None,
) -> Iterator[Site]:
    """Start a cluster whose head is the owner's node; else the cluster has no such node yet."""
    make_owner(folder)
    ray_folder = folder / "c"  # apart: every process that names this folder is the cluster's
    ray_folder.mkdir()
    with taught_registry(folder / "registry", folder / "encoder") as server:
        cluster = start_own_cluster(
            ray_folder,
            num_cpus=2,
            resources={RESOURCE: 1} if on_head else {},
            environment={"PYTHONPATH": str(ROOT), **(environment or {})},
            dashboard=dashboard,
        )
        try:
            yield Site(folder, cluster, server.address)
        finally:
            stop_own_cluster(cluster)


@contextmanager
def driver_of(site: Site, config: dict[str, Any]) -> Iterator[psutil.Popen]:
    """Run `adapterdistill onboard` on the cluster, in a process that ends with the block."""
    file = site.folder / "run.toml"
    file.write_text(toml(config), "utf-8")
    with (
        (site.folder / "driver.log").open("ab") as log,
        psutil.Popen(
            [sys.executable, "-m", "adapterdistill", "onboard", "--config", str(file)],
            env=os.environ | site.cluster.environment | {"RAY_ADDRESS": site.cluster.address},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        ) as driver,
    ):
        try:
            yield driver
        finally:
            if driver.is_running():
                driver.kill()

"""A small owner for drills: its onboarding with and without a fault, and what differs then."""

import contextlib
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.onboarding import OnboardReport, in_process, onboard, write_report
from adapterdistill.backbone import load_encoder
from adapterdistill.config import parse_config
from adapterdistill.data.importing import import_samples
from adapterdistill.drills.registry.acknowledged import fsck_findings
from adapterdistill.manifest import Manifest, VersionRef
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.testbed.faq_banks import random_adapters
from adapterdistill.testbed.random_adapters import publish_adapter
from adapterdistill.testbed.registry import Serving, serving
from adapterdistill.testbed.tiny_encoder import make_tiny_encoder

TENANT = "larkhill-vets"


@dataclass(frozen=True)
class Run:
    """An onboarding of the owner's with folders of its own, and a registry of its own."""

    folder: Path
    """Of the run; rows and encoder are beside it."""
    timeout_s: float = 30.0
    """Of calls to the registry."""

    @property
    def registry(self) -> Path:
        return self.folder / "registry"

    def settings(self, address: str) -> dict[str, Any]:
        owner = self.folder.parent
        return {
            "tenant": TENANT,
            "data": str(owner / "data"),
            "workspace": str(self.folder / "owners"),
            "serving_store": str(self.folder / "serving"),
            "encoder": {"name": str(owner / "encoder"), "dtype": "float32"},
            "registry": {"address": address, "timeout_s": self.timeout_s},
            "training": {
                "bottleneck_size": 8,
                "extract_steps": 12,
                "distil_steps": 12,
                "evaluate_every": 2,
            },
        }

    def left(self) -> set[str]:
        """Files of the owner's that the run left, as paths below its folder."""
        found = (path for part in ("owners", "serving") for path in (self.folder / part).rglob("*"))
        return {str(path.relative_to(self.folder)) for path in found}

    def report(self) -> OnboardReport:
        return OnboardReport.model_validate_json(
            (self.folder / "owners" / TENANT / "report.json").read_bytes()
        )


@dataclass(frozen=True)
class Made:
    """All that an onboarding made."""

    report: OnboardReport
    published: tuple[Manifest, bytes]
    versions: int
    left: set[str]


def make_owner(folder: Path) -> None:
    """Rows and an encoder."""
    import_samples(TENANT, folder / "data")
    make_tiny_encoder(folder / "encoder")


@contextmanager
def taught(run: Run) -> Iterator[Serving]:
    """The run's registry, with a teacher in it."""
    encoder = load_encoder(str(run.folder.parent / "encoder"), dtype="float32")
    run.folder.mkdir()
    with serving(run.registry) as server:
        with RegistryClient(server.address) as client:
            (adapter,) = random_adapters(encoder, 1)
            publish_adapter(client, encoder, "teacher", adapter)
        yield server


def undisturbed(run: Run) -> Made:
    """The run in this process, told to nobody."""
    with taught(run) as server, contextlib.redirect_stderr(io.StringIO()):
        config = parse_config(run.settings(server.address), source="the drill")
        report = onboard(config, in_process(config), emit=lambda line: None)
        write_report(config, report)
        return made(run, server.address)


def made(run: Run, address: str) -> Made:
    report = run.report()
    with RegistryClient(address) as client:
        return Made(
            report,
            client.fetch(VersionRef.parse(report.publish.name)),
            len([*client.list(tenant=TENANT, latest_only=False)]),
            run.left(),
        )


def differences(run: Run, found: Made, expected: Made) -> Iterator[str]:
    """What a fault changed, which must be nothing but times."""
    if found.report.publish.name != expected.report.publish.name:
        yield "the adapter is another than that of a run without the fault"
    elif found.published != expected.published:
        yield "the adapter's manifest is another than that of a run without the fault"
    if without_times(found.report) != without_times(expected.report):
        yield "the report is another than that of a run without the fault"
    for path in sorted(found.left ^ expected.left):
        yield f"{'left behind' if path in found.left else 'not there'}: {path}"
    if found.versions != 1:
        yield f"{found.versions} versions were published, expected one"
    yield from fsck_findings(run.registry)


def without_times(report: OnboardReport) -> dict[str, Any]:
    """The report without what differs between equal runs: time and memory."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: strip(v) for k, v in value.items() if not k.endswith(("seconds", "rss_mb"))}
        return value

    stripped: dict[str, Any] = strip(report.model_dump(mode="json"))
    return stripped


def toml(settings: dict[str, Any]) -> str:
    sections = {name: value for name, value in settings.items() if isinstance(value, dict)}
    lines = [f"{n} = {json.dumps(v)}" for n, v in settings.items() if n not in sections]
    for name, section in sections.items():
        lines += [f"[{name}]", *(f"{n} = {json.dumps(v)}" for n, v in section.items())]
    return "\n".join(lines)

"""An onboarding with and without a fault, and the differences between the two."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapterdistill.actors.onboarding import OnboardReport, write_report
from adapterdistill.drills.registry.acknowledged import fsck_findings
from adapterdistill.manifest import Manifest, VersionRef
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.testbed.owner_site import (
    TENANT,
    onboard_here,
    read_report,
    settings,
    taught_registry,
)
from adapterdistill.testbed.registry import RegistryProcess


@dataclass(frozen=True)
class Run:
    """An onboarding with its own folders and its own registry."""

    folder: Path
    """The run's own; rows and encoder are beside it."""
    timeout_s: float = 30.0
    """The deadline of calls to the registry."""

    @property
    def registry(self) -> Path:
        return self.folder / "registry"

    def settings(self, address: str) -> dict[str, Any]:
        return settings(self.folder.parent, self.folder, address, timeout_s=self.timeout_s)

    def left(self) -> set[str]:
        """The owner's files that the run left, as paths below its folder."""
        found = (path for part in ("owners", "serving") for path in (self.folder / part).rglob("*"))
        return {str(path.relative_to(self.folder)) for path in found}


@dataclass(frozen=True)
class Made:
    """All that an onboarding made."""

    report: OnboardReport
    published: tuple[Manifest, bytes]
    versions: int
    left: set[str]


def taught(run: Run) -> AbstractContextManager[RegistryProcess]:
    """Run the run's registry, with a teacher in it."""
    run.folder.mkdir()
    return taught_registry(run.registry, run.folder.parent / "encoder")


def undisturbed(run: Run) -> Made:
    """Do the run in this process, without a fault."""
    with taught(run) as server:
        config, report = onboard_here(run.settings(server.address))
        write_report(config, report)
        return made(run, server.address)


def made(run: Run, address: str) -> Made:
    report = read_report(run.folder / "owners")
    with RegistryClient(address) as client:
        return Made(
            report,
            client.fetch(VersionRef.parse(report.publish.name)),
            len([*client.list(tenant=TENANT, latest_only=False)]),
            run.left(),
        )


def differences(run: Run, found: Made, expected: Made) -> Iterator[str]:
    """Yield what a fault changed; only times may change."""
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

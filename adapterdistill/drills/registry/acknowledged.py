"""Versions that a registry acknowledged, and the search for those that are missing later."""

from collections.abc import Iterator
from pathlib import Path

from adapterdistill.errors import AdapterDistillError
from adapterdistill.manifest import Manifest
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.registry.upkeep.fsck import fsck
from adapterdistill.testbed.random_adapters import SMALL, Shape, adapter

OWNER = "drill-owner"


class Acknowledged:
    """The versions that the registry said it has. One thread at a time."""

    def __init__(self, tenant: str = OWNER, shape: Shape = SMALL) -> None:
        self._tenant, self._shape = tenant, shape
        self._next = 0
        self.versions: list[tuple[Manifest, bytes]] = []

    def draw(self, name: str = "faq") -> tuple[Manifest, bytes]:
        """An adapter that is not published yet."""
        self._next += 1
        return adapter(self._shape, self._next, tenant=self._tenant, name=name)

    def publish(self, client: RegistryClient) -> tuple[Manifest, bytes]:
        """Publish one more version, which is then acknowledged; raises as the client."""
        manifest, payload = self.draw()
        client.publish(manifest, payload)
        self.versions.append((manifest, payload))
        return manifest, payload

    def findings(self, client: RegistryClient) -> Iterator[str]:
        """Each acknowledged version that is not there as it was, and each that is half there."""
        if not self.versions:
            yield "nothing was acknowledged, so this shows nothing"
        for published in self.versions:
            yield from fetch_findings(client, *published)
        known = {manifest.ref for manifest, _ in self.versions}
        for manifest in client.list(tenant=self._tenant, latest_only=False):
            if manifest.ref not in known:
                try:
                    client.fetch(manifest.ref)
                except AdapterDistillError as error:
                    yield f"half there: {manifest.ref.name}: {error.reason}"


def fetch_findings(client: RegistryClient, manifest: Manifest, payload: bytes) -> Iterator[str]:
    """Findings if this acknowledged version is lost or changed."""
    try:
        fetched = client.fetch(manifest.ref)
    except AdapterDistillError as error:
        yield f"acknowledged and lost: {manifest.ref.name}: {error.reason}"
    else:
        if fetched != (manifest, payload):
            yield f"a wrong answer: {manifest.ref.name} is not what was published"


def fsck_findings(root: Path) -> list[str]:
    """Findings of `registry fsck` in the folder."""
    return [f"fsck: {one.kind} {one.name}: {one.detail}" for one in fsck(root).findings]

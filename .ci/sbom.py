"""Writes the image's software bill of materials, in CycloneDX 1.6, from its lock.

    python .ci/sbom.py OUT

It lists what cluster/requirements.lock installs, with digests, and this project, which needs all of
it. It has no time and no random number: the same lock gives the same bytes.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

import adapterdistill

ROOT = Path(__file__).resolve().parents[1]
_LINE = re.compile(
    r"(?P<name>[a-z0-9._-]+)==(?P<version>\S+) --hash=sha256:(?P<sha256>[0-9a-f]{64})"
)


def packages(lock: str) -> Iterator[tuple[str, str, str]]:
    """Name, version and sha256 of each line that is no comment; ValueError for another line."""
    for line in lock.splitlines():
        if not line.startswith("#"):
            found = _LINE.fullmatch(line)
            if found is None:
                raise ValueError(f"not a line of a lock: {line!r:.80}")
            yield found["name"], found["version"], found["sha256"]


def bill(lock: str) -> str:
    """The bill of materials of a lock, as JSON."""
    bom = Bom(serial_number=uuid5(NAMESPACE_URL, lock))
    # Equal locks give equal bytes; the library writes no time for None, against its own type.
    bom.metadata.timestamp = None  # type: ignore[assignment]
    project = _component("adapterdistill", adapterdistill.__version__, ComponentType.APPLICATION)
    bom.metadata.component = project
    for name, version, sha256 in packages(lock):
        component = _component(name, version, ComponentType.LIBRARY)
        component.hashes = [HashType(alg=HashAlgorithm.SHA_256, content=sha256)]
        bom.components.add(component)
    bom.register_dependency(project, bom.components)
    return JsonV1Dot6(bom).output_as_string(indent=1)


def _component(name: str, version: str, kind: ComponentType) -> Component:
    purl = PackageURL("pypi", name=name, version=version)
    return Component(name=name, version=version, type=kind, purl=purl, bom_ref=str(purl))


if __name__ == "__main__":
    out = Path(sys.argv[1])
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(bill((ROOT / "cluster" / "requirements.lock").read_text("utf-8")), "utf-8")
    print(f"sbom: {out}")

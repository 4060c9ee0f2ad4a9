"""What the image installs: its lock, its bill of materials and its Dockerfile agree."""

import importlib.util
import json
import re
import tomllib
from importlib.metadata import distribution
from types import ModuleType

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

from tests.unit.deployment.manifests import CLUSTER, ROOT

LOCK = (CLUSTER / "requirements.lock").read_text("utf-8")


@pytest.fixture(scope="module")
def sbom() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sbom", ROOT / ".ci" / "sbom.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pinned() -> dict[str, str]:
    """Names and versions of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pairs = (line.split("==") for line in lines if not line.startswith("#"))
    return {normal(name): version for name, version in pairs}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def needed() -> set[str]:
    """All that the project needs at run time, by what is installed here."""
    found: set[str] = set()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    waiting = [Requirement(text) for text in project["dependencies"]]
    while waiting:
        one = waiting.pop()
        extras = sorted(one.extras) or [""]
        environments = [{**default_environment(), "extra": extra} for extra in extras]
        key = f"{normal(one.name)}[{','.join(sorted(one.extras))}]"
        if key in found or (one.marker and not any(map(one.marker.evaluate, environments))):
            continue
        found.add(key)
        for text in distribution(one.name).requires or ():
            nested = Requirement(text)
            if nested.marker is None or any(map(nested.marker.evaluate, environments)):
                nested.marker = None
                waiting.append(nested)
    return {key.partition("[")[0] for key in found}


def test_every_package_of_the_lock_has_a_digest_and_the_version_of_the_constraints(
    sbom: ModuleType,
) -> None:
    locked = {normal(name): version for name, version, _ in sbom.packages(LOCK)}
    assert len(locked) > 50
    assert {name: version.partition("+")[0] for name, version in locked.items()} == {
        name: pinned().get(name) for name in locked
    }
    assert locked["torch"] == f"{pinned()['torch']}+cpu"  # the build is named


def test_the_lock_has_all_that_the_project_needs_and_what_builds_it(sbom: ModuleType) -> None:
    locked = {normal(name) for name, _, _ in sbom.packages(LOCK)}
    assert needed() - locked == set()
    assert "setuptools" in locked
    assert not locked & {"pytest", "ruff", "mypy", "pip-audit"}


def test_a_line_without_a_digest_is_refused(sbom: ModuleType) -> None:
    for line in ("left==1.0", "left==1.0 --hash=sha256:12", "left>=1.0 --hash=sha256:" + "0" * 64):
        with pytest.raises(ValueError, match="not a line of a lock"):
            list(sbom.packages(line))


def test_the_bill_of_materials_lists_the_lock_with_its_digests(sbom: ModuleType) -> None:
    text = sbom.bill(LOCK)
    assert text == sbom.bill(LOCK)
    bill = json.loads(text)
    assert bill["bomFormat"] == "CycloneDX"
    assert {
        (one["name"], one["version"], one["hashes"][0]["content"]) for one in bill["components"]
    } == set(sbom.packages(LOCK))
    assert bill["metadata"]["component"]["name"] == "adapterdistill"
    [needs] = [one for one in bill["dependencies"] if "adapterdistill" in one["ref"]]
    assert len(needs["dependsOn"]) == len(bill["components"])


def test_the_image_installs_the_lock_alone_and_runs_without_rights() -> None:
    text = (CLUSTER / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    installs = [part for line in lines for part in line.split("&&") if "pip install" in part]
    assert len(installs) == 2 and all("--no-deps" in part for part in installs)
    assert "--require-hashes -r requirements.lock" in installs[0]
    assert "--no-build-isolation ." in installs[1]
    [user] = [line.split()[1] for line in lines if line.startswith("USER")]
    assert int(user) > 10000
    copied = [word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]]
    assert {"cluster/requirements.lock", "adapterdistill", "actors", "serve"} <= set(copied)
    assert not {".", "tests", "data"} & set(copied)

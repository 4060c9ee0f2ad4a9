"""The wheel, installed alone beside its base dependencies, onboards and serves a sample tenant.

The environment is new and sees no other package: a dependency that pyproject.toml forgets, or a
file that the wheel lacks, fails here. The dependencies are links to the installed ones, because
installing them again would take minutes and a network.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import tomllib
import venv
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from adapterdistill import __version__
from adapterdistill.actors.cluster import free_port

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
SITE = Path(sysconfig.get_path("purelib"))
TENANT = "larkhill-vets"
THEIRS = "theirs"
RUN = f"""
tenant = "{TENANT}"
data = "data/{TENANT}"
workspace = "owners"
serving_store = "serving"

[registry]
address_file = "registry.address"

[training]
extract_steps = 10
"""


def base_closure() -> dict[str, metadata.Distribution]:
    """Find every distribution that a plain `pip install adapterdistill` brings, by its name."""
    return closure(PROJECT["dependencies"])


def closure(requirements: list[str]) -> dict[str, metadata.Distribution]:
    """Find every distribution that the requirements bring, by its name."""
    found: dict[str, metadata.Distribution] = {}
    followed: set[tuple[str, str]] = set()

    def follow(requirement: Requirement) -> None:
        name = canonicalize_name(requirement.name)
        for extra in ("", *requirement.extras):
            if (name, extra) in followed:
                continue
            followed.add((name, extra))
            found[name] = metadata.distribution(name)
            for needed in map(Requirement, found[name].requires or ()):
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    follow(needed)

    for line in requirements:
        follow(Requirement(line))
    return found


def link(distributions: list[metadata.Distribution], site: Path) -> None:
    """Link the distributions' files into another folder of packages.

    A folder of one distribution alone is linked whole; of a folder that several share (`google`),
    each file is, so that only what these distributions bring is there.
    """
    owners = Counter(top for one in metadata.distributions() for top in tops(one))
    for one in distributions:
        for top in tops(one):
            if owners[top] == 1:
                (site / top).symlink_to(SITE / top)
        for file in one.files or ():
            if owners[file.parts[0]] > 1:
                (site / file).parent.mkdir(parents=True, exist_ok=True)
                if not (site / file).is_symlink():  # two may bring the same empty `__init__.py`
                    (site / file).symlink_to(SITE / file)


def tops(distribution: metadata.Distribution) -> set[str]:
    """List the names that a distribution puts into the folder of packages."""
    return {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from the files that git tracks: no stale `build` folder takes part."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        file = ROOT / name
        if file.is_file() or file.is_symlink():  # adapterdistill/actors and serve are links
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, source / name, follow_symlinks=False)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out), str(source))
    [made] = out.iterdir()
    return made


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def command(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel in an environment of its own; pip checks that nothing is missing there."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    link([*base_closure().values()], Path(sysconfig.get_path("purelib", vars={"base": folder})))
    pip("--python", str(python), "install", "--no-index", str(wheel))
    return folder / "bin" / "adapterdistill"


@pytest.fixture
def home() -> Iterator[Path]:
    """Make a folder with a short path, because Ray's sockets live below it.

    It is a user's: there are modules and packages of theirs, which only they may import.
    """
    folder = Path(tempfile.mkdtemp(prefix="wheel-"))
    for name in ("actors", "serve"):
        (folder / f"{name}.py").write_text(f"raise ImportError('{THEIRS}')\n")
        (folder / THEIRS / name).mkdir(parents=True)
        (folder / THEIRS / name / "__init__.py").write_text(f"raise ImportError('{THEIRS}')\n")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def environment(home: Path) -> dict[str, str]:
    clean = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    path = os.pathsep.join((str(home / THEIRS), str(home)))
    return clean | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}


def run(command: Path, home: Path, *arguments: str) -> str:
    done = subprocess.run(
        [command, *arguments],
        cwd=home,
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def running(
    command: Path, home: Path, ready: Callable[[str], bool], *arguments: str
) -> Iterator[None]:
    """Run a command in the background; it is ready once its output so far is."""
    said = home / f"{arguments[0]}.log"
    with said.open("wb") as log:
        process = subprocess.Popen(
            [command, *arguments], cwd=home, env=environment(home), stdout=log, stderr=log
        )
    try:
        give_up = time.monotonic() + 200
        while not ready(said.read_text("utf-8")):
            assert process.poll() is None and time.monotonic() < give_up, said.read_text("utf-8")
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        assert process.wait(60) == 0, said.read_text("utf-8")


def test_the_wheel_alone_onboards_and_serves_a_sample_tenant(command: Path, home: Path) -> None:
    assert run(command, home, "--version") == f"adapterdistill {__version__}\n"
    run(command, home, "data", "samples", "data", "--name", TENANT)
    (home / "run.toml").write_text(RUN, "utf-8")
    registry = ("registry", "serve", "--create", "--root", "registry")
    registry += ("--port-file", "registry.address")
    with running(command, home, lambda _: (home / "registry.address").exists(), *registry):
        told = run(command, home, "onboard", "--config", "run.toml", "--local", "--format", "json")
        listed = run(
            command, home, "registry", "list", "--address-file", "registry.address", "--format=json"
        )
    [published] = json.loads(listed)
    assert json.loads(told)["tenant"] == published["tenant"] == TENANT
    port = free_port()
    serve = ("serve", "--store", "serving", "--port", str(port), "--replicas", "1")
    with running(command, home, lambda said: "serving " in said, *serve):
        answer = run(
            *(command, home, "query", TENANT, "can you see my cat today", "--format", "json"),
            *("--address", f"http://127.0.0.1:{port}"),
        )
    found = json.loads(answer)
    assert found["tenant"] == TENANT and found["results"][0]["ranked"]


@pytest.mark.parametrize("module", ["actors", "serve"])
def test_a_module_of_the_user_s_own_is_imported_by_nobody_else(
    command: Path, home: Path, module: str
) -> None:
    """The wheel brings no top-level `actors` or `serve`: these names are the user's."""
    for python in (command.with_name("python"), Path(sys.executable)):
        code = f"import adapterdistill.{module}, adapterdistill.cli; print('ours'); import {module}"
        done = subprocess.run(
            [python, "-c", code],
            cwd=home,
            env=environment(home),
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.stdout == "ours\n" and f"ImportError: {THEIRS}" in done.stderr, done.stderr


def test_an_editable_checkout_onboards_beside_modules_of_the_user_s_own(home: Path) -> None:
    command = Path(sys.executable).with_name("adapterdistill")
    run(command, home, "data", "samples", "data", "--name", TENANT)
    (home / "run.toml").write_text(RUN.replace('address_file = "registry.address"\n', ""), "utf-8")
    told = run(command, home, "onboard", "--config", "run.toml", "--local", "--format", "json")
    assert json.loads(told)["tenant"] == TENANT
    code = "from adapterdistill.serve.app import build; import adapterdistill.serve.grpc.rpc_proxy"
    run(Path(sys.executable), home, "-c", code)


def test_the_client_alone_needs_httpx_and_nothing_of_the_system(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT / "adapterdistill" / "client", source, ignore=lambda *_: ["__pycache__"])
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(source))
    [made] = tmp_path.glob("*.whl")
    venv.create(tmp_path / "environment", symlinks=True)
    python = tmp_path / "environment" / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": tmp_path / "environment"}))
    brought = closure(["httpx>=0.28"])
    link([*brought.values()], site)
    pip("--python", str(python), "install", "--no-index", str(made))
    assert brought.keys() == {"anyio", "certifi", "h11", "httpcore", "httpx", "idna"} | (
        brought.keys() & {"sniffio", "typing-extensions"}
    )
    code = (
        "from adapterdistill_client import Client, SearchError\n"
        "try: Client('127.0.0.1:1', 'acme').search('hi')\n"
        "except SearchError as error: print(error.reason)\n"
    )
    done = subprocess.run(
        [python, "-I", "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "UNREACHABLE\n"


def test_a_command_that_needs_an_extra_names_it(command: Path, home: Path) -> None:
    """The environment of the base install has no matplotlib."""
    code = 'from adapterdistill.extras import require; require("bench", "matplotlib")'
    done = subprocess.run(
        [command.with_name("python"), "-c", code],
        cwd=home,
        env=environment(home),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "pip install 'adapterdistill[bench]'" in done.stderr


def test_the_base_install_brings_no_benchmark_or_development_tool() -> None:
    def names(extra: str) -> set[str]:
        lines = PROJECT["optional-dependencies"][extra]
        return {canonicalize_name(re.split(r"[^\w.-]", line)[0]) for line in lines}

    # These two come with the package that holds the embedded encoder's files.
    left_out = (names("bench") | names("dev")) - {"scipy", "scikit-learn"}
    assert left_out & base_closure().keys() <= {"jsonschema", "pyyaml"}  # Ray's own

"""The shape of the tree: folders, file lengths, words and calls that are not allowed, pins."""

import ast
import re
import subprocess
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("adapterdistill", "actors", "serve")
TOP_FOLDERS = {".ci", "cluster", "docs", "proto", "adapterdistill", "actors", "serve", "tests"}
GENERATED = ("adapterdistill/registry/v1/", "adapterdistill/serving/v1/")
MAX_LINES = 400
MAX_FILES = 20
"""Most files of a folder: a stranger reads its list at a glance."""
# In pieces, so that this file does not name them itself.
BANNED_WORDS = (
    "/wor" + "k/",
    "/roo" + "t/",
    "../sha" + "red",
    "pypi" + ".org",
    "download.pytorch" + ".org",
)
BANNED_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
BANNED_CALLS = {
    *("eval", "exec", "torch.load", "torch.save", "yaml.load", "yaml.unsafe_load"),
    # What a shell reads: a tenant's name may become part of it.
    *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"),
    "asyncio.create_subprocess_shell",
}
BANNED_FLAGS = {"trust_remote_code", "allow_pickle", "shell"}


@cache
def tracked() -> tuple[str, ...]:
    """Paths that git tracks, or would: neither ignored nor deleted."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return tuple(sorted(p for p in set(listed.stdout.split("\0")) if p and (ROOT / p).is_file()))


def hand_written() -> list[str]:
    return [p for p in tracked() if p.endswith(".py") and not p.startswith(GENERATED)]


def in_packages(path: str) -> bool:
    return path.split("/")[0] in PACKAGES


def package_modules() -> list[str]:
    return [p for p in hand_written() if in_packages(p)]


FRAMEWORKS = {"langchain", "llama-index", "haystack", "rasa", "tensorboard", "mlflow"}
"""Extras that are the user's own choice of versions: tests give each its own environment."""


def requirement_names() -> set[str]:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = table["optional-dependencies"]
    pinned = [extras[name] for name in extras.keys() - FRAMEWORKS]
    lines = [*table["dependencies"], *chain(*pinned)]
    names = {re.split(r"[^A-Za-z0-9._-]", line)[0].lower() for line in lines}
    return names - {"adapterdistill"}  # an extra may hold another one


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_top_level_folders_are_those_of_the_design() -> None:
    assert {p.split("/")[0] for p in tracked() if "/" in p} == TOP_FOLDERS


def test_nothing_under_proto_is_python() -> None:
    """An importable `proto` would shadow a package that Ray needs."""
    assert [p for p in tracked() if p.startswith("proto/") and p.endswith(".py")] == []


def test_every_folder_of_modules_is_a_package() -> None:
    folders = {(ROOT / p).parent for p in tracked() if p.endswith(".py") and in_packages(p)}
    assert [f for f in sorted(folders) if not (f / "__init__.py").is_file()] == []


def test_package_data_patterns_cover_every_file_that_is_not_python() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    patterns = tools["setuptools"]["package-data"]
    covered = {
        str(path.resolve().relative_to(ROOT))
        for package, of_package in patterns.items()
        for pattern in of_package
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    wanted = {p for p in tracked() if in_packages(p) and not p.endswith(".py")}
    assert wanted - covered == set()


def test_no_package_but_the_system_s_own_is_installed() -> None:
    """`actors` and `serve` are names that users give to modules of theirs."""
    from setuptools import find_packages

    include = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = find_packages(str(ROOT), include=include["packages"]["find"]["include"])
    assert {name.split(".")[0] for name in found} == {"adapterdistill"}
    assert {"adapterdistill.actors.training", "adapterdistill.serve.engine"} <= {*found}


def test_no_hand_written_module_is_too_long() -> None:
    lengths = {p: len((ROOT / p).read_text().splitlines()) for p in hand_written()}
    assert {p: n for p, n in lengths.items() if n > MAX_LINES} == {}


def test_no_file_names_a_machine_path_or_a_package_index() -> None:
    found = []
    for path in tracked():
        content = (ROOT / path).read_bytes()
        if b"\0" in content:
            continue
        text = content.decode()
        found += [f"{path}: {word}" for word in BANNED_WORDS if word in text]
    assert found == []


def parsed(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text(), path)


def banned(tree: ast.AST) -> Iterator[str]:
    """Uses of anything that runs code from bytes or text."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                modules = {alias.name.split(".")[0] for alias in names}
                yield from (f"line {node.lineno}: {m}" for m in modules & BANNED_MODULES)
            case ast.ImportFrom(module=str(module)):
                if module.split(".")[0] in BANNED_MODULES:
                    yield f"line {node.lineno}: {module}"
                names_in = {f"{module}.{alias.name}" for alias in node.names}
                yield from (f"line {node.lineno}: {n}" for n in names_in & BANNED_CALLS)
            case ast.Call(func=func, keywords=keywords):
                if ast.unparse(func) in BANNED_CALLS:
                    yield f"line {node.lineno}: {ast.unparse(func)}()"
                for keyword in keywords:
                    if keyword.arg in BANNED_FLAGS and ast.unparse(keyword.value) != "False":
                        yield f"line {node.lineno}: {keyword.arg}"
                # transformers asks on the terminal where nothing is said.
                said = {keyword.arg for keyword in keywords}
                if ast.unparse(func).endswith(".from_pretrained") and (
                    "trust_remote_code" not in said
                ):
                    yield f"line {node.lineno}: no trust_remote_code"


def test_no_package_runs_code_from_bytes_or_text() -> None:
    assert {p: f for p in package_modules() if (f := [*banned(parsed(p))])} == {}


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "import os, cloudpickle.pickle",
        "from pickle import loads",
        "from torch import load",
        "torch.load(path, weights_only=True)",
        "eval(text)",
        "f(trust_remote_code=True)",
        "f(trust_remote_code=flag)",
        "AutoModel.from_pretrained(folder)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(command, shell=True)",
        "os.system(f'rm {tenant}')",
        "from os import popen",
    ],
)
def test_the_ban_notices(code: str) -> None:
    assert [*banned(ast.parse(code))]


@pytest.mark.parametrize(
    "code",
    ["model.eval()", "f(trust_remote_code=False)", "json.load(f)", "run([name], shell=False)"],
)
def test_the_ban_lets_harmless_code_pass(code: str) -> None:
    assert [*banned(ast.parse(code))] == []


def test_constraints_pin_every_requirement_to_a_plain_version() -> None:
    pins = constraints()
    assert requirement_names() - pins.keys() == set()
    assert {n: v for n, v in pins.items() if not re.fullmatch(r"[0-9][0-9a-z.]*", v)} == {}
    assert f"torch=={pins['torch']}" in (ROOT / "Makefile").read_text()


def test_ci_runs_the_checks_and_the_tests() -> None:
    script = ROOT / ".ci/run"
    assert script.stat().st_mode & 0o111
    commands = [line for line in script.read_text().splitlines() if line.startswith("make")]
    assert commands == ["make check", "make sbom", "make test", "make test-system"]


def test_a_folder_holds_few_files() -> None:
    modules = [Path(p) for p in package_modules() if not p.endswith("/__init__.py")]
    counts = Counter(str(module.parent) for module in modules)
    assert {folder: n for folder, n in counts.items() if n > MAX_FILES} == {}


def test_every_package_says_what_is_in_it() -> None:
    packages = [p for p in package_modules() if p.endswith("/__init__.py") and "/v1/" not in p]
    assert [p for p in packages if not ast.get_docstring(parsed(p))] == []

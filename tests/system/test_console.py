"""The console in Chromium: from a run in progress to a rollback, by mouse and by keyboard alone.

Selenium and axe-core come into an environment of the test's own. Where Chromium or its driver is
not installed (Debian: `chromium`, `chromium-driver`), the test is skipped.
"""

import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from adapterdistill.actors.cluster import free_port
from adapterdistill.backbone import Encoder
from adapterdistill.feedback import Asked, opened
from tests.contract.running_registry import Running
from tests.contract.test_quarantine import adapter, publish_crowd, too_strong
from tests.owner_runs import HELD, config_toml, run_of, write_shop
from tests.serving_store import make_tenant, put_live

STEPS = Path(__file__).with_name("console_browser.py")
NEEDED = ("selenium>=4.20", "axe-playwright-python>=0.1.8")
"""The second one brings the file of axe-core; Playwright itself is left out."""
PICTURES = "ADAPTERDISTILL_PICTURES"
"""Folder for screenshots, to be looked at by a person."""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with Selenium and axe-core."""
    if not all(map(shutil.which, ("chromium", "chromedriver"))):
        pytest.skip("chromium and chromium-driver are not installed")
    folder = tmp_path_factory.mktemp("browser")
    venv.create(folder, symlinks=True)
    made = folder / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(made)]
    install += ["install", "-q"]
    for more in (NEEDED[:1], ("--no-deps", *NEEDED[1:])):
        done = subprocess.run([*install, *more], capture_output=True, timeout=200, check=False)
        if done.returncode != 0:
            pytest.skip(f"{more[-1]} cannot be installed here")
    return made


@contextmanager
def console(home: Path, *arguments: str) -> Iterator[str]:
    """A console in a process of its own; gives the address that it prints."""
    command = [sys.executable, "-m", "adapterdistill", "console", *arguments]
    command += ["--port", str(free_port())]
    with subprocess.Popen(command, cwd=home, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            assert said.startswith("console: http://127.0.0.1:"), said
            yield said.split()[1]
        finally:
            process.terminate()
            ended = process.wait(30)
    assert ended == 0


def use(python: Path, home: Path, **steps: str) -> None:
    """Let a person in Chromium go through the steps."""
    axe = next((python.parents[1] / "lib").rglob("axe.min.js"))
    pictures = os.environ.get(PICTURES, "")
    file = home / "steps.json"
    file.write_text(json.dumps({**steps, "axe": str(axe), "pictures": pictures}))
    done = subprocess.run(
        [python, STEPS, file], capture_output=True, text=True, timeout=420, check=False
    )
    assert done.returncode == 0, done.stderr


# A tiny run ends before a person has looked at it: it waits within its first training.
RUN = """
import pathlib, time
from adapterdistill.actors.training import stages
from adapterdistill.cli import main

def wait_for(name):
    while not pathlib.Path(name).exists():
        time.sleep(0.1)

train = stages.train_stage
def held(*given, **more):
    wait_for("go-on")
    return train(*given, **more)

stages.train_stage = held
wait_for("begin")
main(["onboard", "--local", "--config", "run.toml"])
"""


@pytest.mark.timeout(480)
def test_an_owner_goes_from_a_run_to_a_rollback_by_mouse_and_by_keyboard(
    python: Path, tmp_path: Path, tiny_encoder: Encoder, tiny_encoder_folder: Path
) -> None:
    write_shop(tmp_path / "data" / "acme", splits=HELD)
    config = run_of(tmp_path, "acme", encoder=tiny_encoder_folder, registry="")
    config = config.model_copy(update={"registry": type(config.registry)()})
    (tmp_path / "run.toml").write_text(config_toml(config), "utf-8")
    runs = tmp_path / "files"
    runs.mkdir()
    for number, hand in enumerate(("mouse", "keyboard")):
        long = {"extract_steps": 400 + number, "evaluate_every": 50, "patience": 100}
        training = config.training.model_copy(update=long)
        text = config_toml(config.model_copy(update={"training": training}))
        (runs / f"{hand}.toml").write_text(text, "utf-8")
    put_live(tmp_path / "serving", make_tenant(tiny_encoder, "acme", seed=1))
    with opened(tmp_path / "serving", "acme") as feedback:
        feedback.keep([Asked("do you mend a kite?", None, None), Asked("odd", "faq-1", 0.2)])
        feedback.keep([Asked("who won the match?", None, None)])
    with (
        console(tmp_path, "owner", "--config", "run.toml", "--runs", str(runs)) as owner,
        subprocess.Popen([sys.executable, "-c", RUN], cwd=tmp_path) as run,
    ):
        try:
            use(python, tmp_path, owner=owner, run=str(tmp_path))
        finally:
            run.terminate()


@pytest.mark.timeout(480)
def test_an_operator_releases_from_quarantine_and_withdraws(python: Path, tmp_path: Path) -> None:
    registry = Running(tmp_path / "registry")
    try:
        publish_crowd(registry, 3)
        teacher = adapter(40, tenant="baker")
        registry.client.publish(*teacher)
        student = adapter(41, tenant="cooper", teachers=[teacher[0].ref.name])
        strong = too_strong(42, tenant="strong")
        for one in (student, strong):
            registry.client.publish(*one)
        arguments = ("--registry", registry.address, "--root", str(registry.root))
        ref = student[0].ref
        with console(tmp_path, "operator", *arguments) as operator:
            use(
                python,
                tmp_path,
                operator=operator,
                strong=strong[0].version,
                teacher=teacher[0].version,
                student=f"/versions/{ref.tenant}/{ref.adapter}/{ref.version}",
            )
    finally:
        registry.close()

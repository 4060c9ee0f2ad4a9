"""TensorBoard and MLflow read the numbers of a run, and no file of theirs holds a text of it."""

import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
    "optional-dependencies"
]
PLANTED = "zorblatt"
RUN = """
import json, sys
from pathlib import Path
import adapterdistill
from tests.owner_runs import write_shop
from tests.tiny_encoders import save_tiny_encoder

home = Path(sys.argv[1])
encoder = save_tiny_encoder(home / "encoder")
write_shop(home / "data" / "acme", word={planted!r}, splits=("train", "train", "valid", "test"))
config = {{
    "tenant": "acme", "data": str(home / "data" / "acme"), "workspace": str(home / "work"),
    "serving_store": str(home / "serving"),
    "encoder": {{"name": str(encoder), "dtype": "float32"}},
    "training": {{"bottleneck_size": 4, "threads": 1, "extract_steps": 6, "evaluate_every": 2}},
    "tracking": {{"tensorboard": str(home / "tensorboard"), "mlflow": str(home / "mlflow")}},
}}
adapterdistill.onboard(config)
[file] = (home / "work").rglob("tracking.jsonl")
losses = [
    row["loss"] for row in map(json.loads, file.read_text().splitlines()) if "loss" in row
]

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
[events] = (home / "tensorboard").rglob("events.*")
seen = EventAccumulator(str(events)).Reload()
assert [one.value for one in seen.Scalars("extract/loss")] == [
    __import__("numpy").float32(loss) for loss in losses
]
from mlflow.tracking import MlflowClient
client = MlflowClient(tracking_uri=f"sqlite:///{{home}}/mlflow/mlflow.db")
[experiment] = [e for e in client.search_experiments() if e.name == "adapterdistill"]
[run] = client.search_runs([experiment.experiment_id])
found = client.get_metric_history(run.info.run_id, "extract/loss")
assert [one.value for one in sorted(found, key=lambda one: one.step)] == losses
assert run.info.status == "FINISHED" and run.data.params == {{}}
"""


@pytest.mark.timeout(900)
def test_event_files_hold_the_numbers_of_a_run_and_none_of_its_texts(tmp_path: Path) -> None:
    venv.create(tmp_path / "environment", symlinks=True)
    python = tmp_path / "environment" / "bin" / "python"
    install = ["-m", "pip", "--disable-pip-version-check", "--python", str(python), "install", "-q"]
    done = subprocess.run(
        [sys.executable, *install, *EXTRAS["tensorboard"], *EXTRAS["mlflow"]],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip("TensorBoard and MLflow cannot be installed here")
    # The rest of the system is what is installed here; where both have a package, this one's.
    (site,) = (tmp_path / "environment" / "lib").glob("*/site-packages")
    places = [str(ROOT), sysconfig.get_path("purelib"), str(site)]
    done = subprocess.run(
        [sys.executable, "-c", RUN.format(planted=PLANTED), str(tmp_path / "home")],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": ":".join(places)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for folder in ("tensorboard", "mlflow"):
        files = [path for path in (tmp_path / "home" / folder).rglob("*") if path.is_file()]
        assert files
        for file in files:
            content = file.read_bytes()
            assert PLANTED.encode() not in content and b"kite" not in content, file

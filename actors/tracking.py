"""Numbers of a run as it goes: losses, held-out scores, seconds. Never a text.

Each run keeps them as JSON Lines in `tracking.jsonl` of its folder, each gradient step as it is
done. When a stage ends, trackers get its rows: one writes event files for TensorBoard, one a run
for MLflow, and `adapterdistill.onboard` takes others.

    {"time": 1796061600.25, "stage": "distil", "step": 10, "loss": 0.41, "held_out_score": 0.87}
    {"time": 1796061601.5, "stage": "distil", "seconds": 3.2, "best_step": 10}
"""

import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from adapterdistill.extras import require
from adapterdistill.files import private_folder
from adapterdistill.sections import TrackingConfig

FILE = "tracking.jsonl"
_KEY = re.compile(r"[a-z0-9_]{1,64}")


class Numbers(NamedTuple):
    """Numbers of one step of a stage, or of the whole stage."""

    stage: str
    step: int | None
    """Gradient step, from 1; 0: before the first. None: of the whole stage."""
    values: Mapping[str, float]
    time: float
    """Seconds since 1970."""


Tracker = Callable[[Numbers], None]
Trackers = tuple[Tracker, ...]


def append(
    folder: Path, stage: str, rows: Iterable[tuple[int | None, Mapping[str, float]]]
) -> None:
    """Add rows to the run's file.

    Raises:
        ValueError: a name is no plain word or a value no finite number, and so might be a text.
    """
    lines = []
    for step, values in rows:
        for name, value in [("stage", 0.0), *values.items()]:
            word = stage if name == "stage" else name
            if not _KEY.fullmatch(word) or type(value) not in (int, float):
                raise ValueError("what is tracked are numbers, under names of the code")
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        at = {} if step is None else {"step": step}
        lines.append(json.dumps({"time": round(time.time(), 3), "stage": stage, **at, **finite}))
    with (folder / FILE).open("ab+") as file:
        file.seek(max(0, file.tell() - 1))
        torn = file.read(1) not in (b"", b"\n")  # the process that wrote it was killed
        file.write("".join(["\n" * torn, *(f"{line}\n" for line in lines)]).encode("ascii"))


def read(folder: Path) -> Iterator[Numbers]:
    """Read the whole lines of the run's file; none if it is absent."""
    file = folder / FILE
    if not file.exists():
        return
    for line in file.read_bytes().splitlines(keepends=True):
        try:
            row = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:  # torn
            continue
        if row is not None:
            stage, at = row.pop("stage"), row.pop("time")
            yield Numbers(stage, row.pop("step", None), row, at)


def steps_of(folder: Path, stage: str) -> set[int]:
    """Steps of the stage that are in the run's file, perhaps of a process that was killed."""
    return {one.step for one in read(folder) if one.stage == stage and one.step is not None}


def last_of(folder: Path) -> list[Numbers]:
    """Rows of the stage that ended last: its steps in their order, then the whole."""
    rows = list(read(folder))
    ends = [0, *(place for place, one in enumerate(rows, start=1) if one.step is None)]
    last = rows[ends[-2] :] if len(ends) > 1 else []
    return sorted(last, key=lambda one: (one.step is None, one.step or 0))


def of_training(
    losses: Iterable[float], scores: Iterable[tuple[int, float]]
) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield the rows of a training: a loss each step, a held-out score at some."""
    rows = {step: {"loss": loss} for step, loss in enumerate(losses, start=1)}
    for step, score in scores:
        rows.setdefault(step, {})["held_out_score"] = score
    yield from sorted(rows.items())


def of_record(record: Any) -> dict[str, float]:
    """Return the numbers that a stage's record has under names of the code."""
    values = {name: value for name, value in record if type(value) in (int, float)}
    if "held_out_score" in values:
        values["best_held_out_score"] = values.pop("held_out_score")
    for name, figures in getattr(record, "candidates", {}).items():
        for split in ("held_out", "test"):
            for metric, found in (getattr(figures, split) or {}).items():
                values[f"{name}_{split}_{metric}".replace(".", "_")] = found.value
    return values


def trackers_of(tracking: TrackingConfig, tenant: str, run: str) -> Trackers:
    """Make the trackers that the run's TOML names.

    Args:
        run: the name of the run's folder.

    Raises:
        MissingExtraError: a library is not installed.
    """
    found: list[Tracker] = []
    if tracking.tensorboard is not None:
        found.append(tensorboard(Path(tracking.tensorboard) / tenant / run))
    if tracking.mlflow is not None:
        found.append(mlflow(tracking.mlflow, tenant, run))
    return tuple(found)


def follow(folder: Path, trackers: Trackers) -> None:
    """Hand the stage that ended last to each tracker; one that fails is named and left out."""
    rows = last_of(folder)
    for tracker in trackers:
        try:
            for row in rows:
                tracker(row)
        except Exception as error:  # a training of minutes must not end for want of a chart
            print(f"tracking failed: {type(error).__name__}", file=sys.stderr)


def tensorboard(folder: Path) -> Tracker:
    """Write event files for TensorBoard: tags STAGE/NAME; whole stages are at step 0."""
    require("tensorboard", "tensorboard")
    writer: Any = None

    def track(numbers: Numbers) -> None:
        nonlocal writer
        if writer is None:
            from torch.utils.tensorboard import SummaryWriter

            writer = SummaryWriter(str(folder))
        for name, value in numbers.values.items():
            writer.add_scalar(
                f"{numbers.stage}/{name}", value, numbers.step or 0, walltime=numbers.time
            )
        writer.flush()

    return track


def mlflow(place: str, tenant: str, run: str) -> Tracker:
    """Write a run of the experiment adapterdistill, named TENANT/RUN, without MLflow's own tags.

    Args:
        place: a folder, in which the database mlflow.db is kept, or the URI of a tracking server.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it would tell its makers of the run
    library: Any = require("mlflow", "mlflow.tracking")
    if not urlsplit(place).scheme:
        require("mlflow", "alembic")
        private_folder(Path(place))
        place = f"sqlite:///{Path(place).absolute() / 'mlflow.db'}"
    client = library.MlflowClient(tracking_uri=place)
    run_id = ""

    def track(numbers: Numbers) -> None:
        nonlocal run_id
        if not run_id:
            known = client.get_experiment_by_name("adapterdistill")
            experiment = (
                known.experiment_id if known else client.create_experiment("adapterdistill")
            )
            run_id = client.create_run(experiment, run_name=f"{tenant}/{run}").info.run_id
        for name, value in numbers.values.items():
            client.log_metric(
                run_id,
                f"{numbers.stage}/{name}",
                value,
                timestamp=int(numbers.time * 1000),
                step=numbers.step or 0,
            )
        if numbers.stage == "bundle":
            client.set_terminated(run_id)

    return track

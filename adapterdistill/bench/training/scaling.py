"""The gain of further Ray Train workers in a training stage, and the cost of starting them.

All sides train the same steps on the same batches, in turn, round after round: in one process with
one thread and with as many as there are workers, and on workers of one thread each.
"""

import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from adapterdistill.actors.cluster import start_own_cluster, stop_own_cluster
from adapterdistill.actors.training.loop import train_in_place
from adapterdistill.actors.training.outcome import TrainingOutcome
from adapterdistill.actors.training.workers import TrainWorkers, train_on_workers
from adapterdistill.backbone import Encoder
from adapterdistill.bench.training.report import batch_rows, training_rows_of
from adapterdistill.checkpoint import unpack_adapter
from adapterdistill.distill.batches import TrainingRows
from adapterdistill.distill.rows import StageRows, write_rows
from adapterdistill.distill.stage import StageSpec
from adapterdistill.distill.training import Schedule
from adapterdistill.sections import EncoderConfig, TrainingConfig
from adapterdistill.testbed.encoder_options import EncoderOptions
from adapterdistill.testbed.environment import environment
from adapterdistill.testbed.progress import phase
from adapterdistill.testbed.reporting import Report, document, setting, table, write_report

ALONE = "one process, 1 thread"
_START_TIMEOUT_S = 120.0


def scaling_command(
    *, out: Path, encoder: EncoderOptions, counts: Sequence[int], steps: int, rounds: int
) -> Report:
    """Measure on the samples' rows and write the report."""
    loaded = encoder.load()
    tenants = training_rows_of(
        Path(str(files("adapterdistill"))) / "samples", out / "tenants", loaded
    )
    rows = batch_rows(tenants, TrainingConfig().batch_size)
    options = EncoderConfig.model_validate(
        {"name": encoder.name, "dtype": encoder.dtype, "max_tokens": encoder.max_tokens}
    )
    with tempfile.TemporaryDirectory(prefix="ad-") as folder, _own_ray(folder, max(counts)):
        found = measure_scaling(
            loaded, options, rows, Path(folder), counts=counts, steps=steps, rounds=rounds
        )
    found = {"benchmark": "scaling", "environment": environment(loaded), **found}
    return write_report(out, found, markdown(found))


@contextmanager
def _own_ray(folder: str, num_cpus: int) -> Iterator[None]:
    packages = {"PYTHONPATH": str(Path(__file__).parents[3])}
    place = Path(folder, "c")  # apart: whatever names it belongs to the cluster
    place.mkdir()
    cluster = start_own_cluster(
        place, num_cpus=num_cpus, resources={}, environment=packages, dashboard=False
    )
    try:
        os.environ.update(cluster.environment)
        import ray  # reads it when it is imported

        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        try:
            yield
        finally:
            ray.shutdown()
    finally:
        stop_own_cluster(cluster)


def measure_scaling(
    encoder: Encoder,
    options: EncoderConfig,
    rows: TrainingRows,
    folder: Path,
    *,
    counts: Sequence[int],
    steps: int,
    rounds: int,
) -> dict[str, Any]:
    """Time every side on the Ray cluster at hand.

    Args:
        options: what `load_configured` makes `encoder` of.
        rows: one batch, which is every step's.
    """
    t, none = TrainingConfig(), TrainingRows([], rows.labels[:0])
    write_rows(folder / "rows", StageRows(rows, none, none, int(rows.labels.max()) + 1))
    spec = StageSpec(
        rows=str(folder / "rows"),
        bottleneck_size=t.bottleneck_size,
        schedule=Schedule(
            max_steps=steps,
            learning_rate=t.extract_learning_rate,
            batch_size=len(rows.ids),
            evaluate_every=steps,
        ),
        seed=t.seed,
    )

    def in_place(threads: int) -> Callable[[Path], TrainingOutcome]:
        def run(adapter: Path) -> TrainingOutcome:
            torch.set_num_threads(threads)
            return train_in_place(spec, encoder, adapter=adapter)

        return run

    def on_workers(count: int) -> Callable[[Path], TrainingOutcome]:
        workers = TrainWorkers(
            count, count, use_gpu=False, resource=None, start_timeout_s=_START_TIMEOUT_S
        )
        return lambda adapter: train_on_workers(
            spec, options, adapter=adapter, run_folder=adapter.parent, workers=workers
        )

    sides = {ALONE: in_place(1)}
    sides |= {f"one process, {n} threads": in_place(n) for n in counts if n > 1}
    sides |= {f"{n} worker{'s' if n > 1 else ''}, 1 thread each": on_workers(n) for n in counts}
    timed: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    apart = dict.fromkeys(sides, 0.0)
    before = torch.get_num_threads()
    with phase("trainings", rounds * len(sides)) as done:
        for turn in range(rounds):
            for number, (name, run) in enumerate(sides.items()):
                adapter = folder / f"{turn}-{number}" / "adapter.safetensors"
                adapter.parent.mkdir()
                started = time.perf_counter()
                outcome = run(adapter)
                timed[name].append((outcome.seconds, time.perf_counter() - started))
                apart[name] = max(apart[name], _apart(adapter, folder / f"{turn}-0" / adapter.name))
                done()
    torch.set_num_threads(before)
    return {
        "batch": {"rows": len(rows.ids), "tokens": sum(map(len, rows.ids))},
        "steps": steps,
        "rounds": rounds,
        "sides": [
            {"side": name, "largest_difference": apart[name], **_figures(timed[name], timed, steps)}
            for name in sides
        ],
    }


def _figures(
    mine: Sequence[tuple[float, float]],
    timed: Mapping[str, Sequence[tuple[float, float]]],
    steps: int,
) -> dict[str, Any]:
    """Figures of one side, from (seconds of its steps, of everything) a round."""
    alone = timed[ALONE]
    of_steps = [other[0] / own[0] for own, other in zip(mine, alone, strict=True)]
    return {
        "steps_per_s": [round(steps / seconds, 3) for seconds, _ in mine],
        "times_alone": _middle(of_steps),
        "wall_s": _middle([wall for _, wall in mine]),
        "around_the_steps_s": _middle([wall - seconds for seconds, wall in mine]),
    }


def _middle(values: Sequence[float]) -> dict[str, float]:
    return {
        "min": round(min(values), 3),
        "median": round(statistics.median(values), 3),
        "max": round(max(values), 3),
    }


def _apart(one: Path, other: Path) -> float:
    """The largest difference of two adapters' parameters."""
    pairs = zip(
        unpack_adapter(one.read_bytes()).parameters(),
        unpack_adapter(other.read_bytes()).parameters(),
        strict=True,
    )
    return max(float((left - right).detach().abs().max()) for left, right in pairs)


def markdown(found: Mapping[str, Any]) -> str:
    """The report for people."""
    env, batch = found["environment"], found["batch"]
    rows = [
        (
            side["side"],
            f"{min(side['steps_per_s']):.2f}, {statistics.median(side['steps_per_s']):.2f}",
            f"{side['times_alone']['min']:.2f}, {side['times_alone']['median']:.2f}",
            f"{side['around_the_steps_s']['median']:.1f}",
            f"{side['wall_s']['median']:.1f}",
            f"{side['largest_difference']:.0e}",
        )
        for side in found["sides"]
    ]
    columns = ("side", "steps/s", "x alone", "start and end, s", "in all, s", "adapter differs by")
    parts = [
        "Training on workers",
        f"{found['steps']} steps of an own adapter on {batch['rows']} rows ({batch['tokens']} "
        f"tokens), {env['dtype']}, {env['cores']} cores, load {env['load_1_5_15_min'][0]} at the "
        f"end; {found['rounds']} rounds, all sides in turn. Pairs are minimum and median; times "
        f"alone: the speed of the steps over that of {ALONE} in the same round.",
        table(columns, rows),
        setting(env),
    ]
    return document(*parts)

"""Sides of the scaling benchmark, with training in place for that on workers."""

from pathlib import Path

import pytest
import torch

from adapterdistill.actors.training.loop import train_in_place
from adapterdistill.actors.training.outcome import TrainingOutcome
from adapterdistill.actors.training.workers import TrainWorkers
from adapterdistill.backbone import Encoder
from adapterdistill.bench.training import scaling
from adapterdistill.bench.training.scaling import ALONE, markdown, measure_scaling
from adapterdistill.distill.stage import StageSpec
from adapterdistill.sections import EncoderConfig
from tests.separable_tenant import separable_rows


def test_every_side_trains_the_same_adapter_in_every_round(
    tiny_encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []

    def train_on_workers(
        spec: StageSpec, options: object, *, adapter: Path, run_folder: Path, workers: TrainWorkers
    ) -> TrainingOutcome:
        started.append(workers.num_workers)
        return train_in_place(spec, tiny_encoder, adapter=adapter)

    monkeypatch.setattr(scaling, "train_on_workers", train_on_workers)
    threads = torch.get_num_threads()
    found = measure_scaling(
        tiny_encoder,
        EncoderConfig(),
        separable_rows(2, seed=0),
        tmp_path,
        counts=(1, 2),
        steps=3,
        rounds=2,
    )
    assert torch.get_num_threads() == threads and started == [1, 2, 1, 2]
    names = [side["side"] for side in found["sides"]]
    assert names == [
        ALONE,
        "one process, 2 threads",
        "1 worker, 1 thread each",
        "2 workers, 1 thread each",
    ]
    assert all(side["largest_difference"] < 1e-5 for side in found["sides"])
    assert all(len(side["steps_per_s"]) == 2 for side in found["sides"])
    assert found["sides"][0]["times_alone"] == {"min": 1, "median": 1, "max": 1}
    facts = {"dtype": "float32", "cores": 2, "load_1_5_15_min": [0.0, 0.0, 0.0]}
    text = markdown({**found, "environment": facts})
    assert all(f"| {name} |" in text for name in names)

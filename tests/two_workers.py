"""What the second of two gloo workers runs, in a process of its own."""

from datetime import timedelta
from pathlib import Path

import torch

from adapterdistill.backbone import Encoder
from adapterdistill.distill.stage import StageSpec, pack_trained, run_stage
from adapterdistill.distill.training import Workers


def run_worker(rank: int, meeting: Path, encoder: Encoder, spec: StageSpec, result: Path) -> None:
    """Join the other worker, train, leave the payloads of student and folds in `result`-number."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=meeting.as_uri(),
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    try:
        trained = run_stage(spec, encoder, workers=Workers(rank, 2))
        for number, student in enumerate((trained.student, *trained.folds)):
            Path(f"{result}-{number}").write_bytes(pack_trained(student, encoder))
    finally:
        torch.distributed.destroy_process_group()

"""Two gloo workers of a stage, the second in a process of its own."""

import multiprocessing
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path

import torch

from adapterdistill.backbone import Encoder
from adapterdistill.distill.stage import StageSpec, run_stage
from adapterdistill.distill.training import Workers
from adapterdistill.distill.variants import pack_trained


def run_two_workers(
    folder: Path, encoder: Encoder, spec: StageSpec, *, resume: bytes
) -> dict[str, bytes]:
    """Train from the start and from the state `resume`, and return the first worker's files.

    They are `fresh-N` and `resumed-N`, the payloads of student (0) and folds, and `state-N`, the
    checkpoint of step N. The second worker's payloads must be the same.
    """
    here, there = multiprocessing.Pipe()
    second = multiprocessing.get_context("spawn").Process(
        target=_second, args=(there, folder, encoder, spec, resume), daemon=True
    )
    second.start()
    there.close()
    try:
        # Starting a process takes as long as the machine's load lets it: only its end is too late.
        wait([here, second.sentinel])
        assert second.is_alive()
        _run_worker(0, folder, encoder, spec, resume)
        second.join()
        assert second.exitcode == 0
    finally:
        second.kill()
        here.close()
    first, other = (
        {file.name: file.read_bytes() for file in (folder / str(rank)).iterdir()}
        for rank in range(2)
    )
    assert first == other
    return first


def _second(
    ready: Connection, folder: Path, encoder: Encoder, spec: StageSpec, resume: bytes
) -> None:
    torch.set_num_threads(1)
    ready.send_bytes(b"")
    _run_worker(1, folder, encoder, spec, resume)


def _run_worker(rank: int, folder: Path, encoder: Encoder, spec: StageSpec, resume: bytes) -> None:
    mine = folder / str(rank)
    mine.mkdir()
    torch.distributed.init_process_group(
        "gloo",
        init_method=(folder / "meeting").as_uri(),
        rank=rank,
        world_size=2,
        timeout=timedelta(minutes=10),  # one that dies is noticed at once
    )

    def keep(step: int, state: bytes) -> None:
        (mine / f"state-{step}").write_bytes(state)

    workers = Workers(rank, 2)
    try:
        for name, trained in (
            ("fresh", run_stage(spec, encoder, workers=workers, checkpoint=keep)),
            ("resumed", run_stage(spec, encoder, workers=workers, resume=resume)),
        ):
            for number, student in enumerate((trained.student, *trained.folds)):
                (mine / f"{name}-{number}").write_bytes(pack_trained(student, encoder))
    finally:
        torch.distributed.destroy_process_group()

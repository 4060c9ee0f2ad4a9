"""A training stage as data: what Ray Train workers receive, and how it becomes a training.

A spec holds paths and numbers only. Rows are token ids in a file on the owner's node.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder
from adapterdistill.checkpoint import unpack_adapter
from adapterdistill.distill.adapter_distillation import distillation_of, imitation_rows
from adapterdistill.distill.batches import TrainingRows
from adapterdistill.distill.held_out import HeldOutRows
from adapterdistill.distill.method import Objective, OwnAdapter, Progress
from adapterdistill.distill.training import Checkpoint, Schedule, TrainResult, Workers, train


@dataclass(frozen=True)
class StageSpec:
    """One stage of one tenant. `teachers` empty: stage 1, own rows only."""

    rows: str
    """File written by `write_rows`."""
    bottleneck_size: int
    schedule: Schedule
    seed: int
    initial: str | None = None
    """Payload of the adapter to start from; None starts near identity."""
    teachers: tuple[str, ...] = ()
    """Payload files of the frozen teachers."""
    strength: float = 0.5
    """Of the teachers' mixture that stage 2 adds to the own adapter; 1 is one teacher's."""

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "StageSpec":
        values = json.loads(text)
        values["schedule"] = Schedule(**values["schedule"])
        values["teachers"] = tuple(values["teachers"])
        return cls(**values)


@dataclass(frozen=True)
class StageRows:
    """A tenant's rows as one stage sees them; `held_*` are empty where nothing is held out."""

    train: TrainingRows
    held_index: TrainingRows
    held_queries: TrainingRows
    num_faqs: int


_PARTS = ("train", "held_index", "held_queries")


def write_rows(path: Path, rows: StageRows) -> None:
    """Token ids and labels as safetensors."""
    tensors: dict[str, Tensor] = {"num_faqs": torch.tensor(rows.num_faqs)}
    for part in _PARTS:
        value: TrainingRows = getattr(rows, part)
        lengths = [len(ids) for ids in value.ids]
        tensors[f"{part}.ids"] = torch.tensor(
            [i for ids in value.ids for i in ids], dtype=torch.int32
        )
        tensors[f"{part}.lengths"] = torch.tensor(lengths, dtype=torch.int64)
        tensors[f"{part}.labels"] = value.labels.clone()  # parts may share theirs
    path.write_bytes(safetensors.torch.save(tensors))


def read_rows(path: Path) -> StageRows:
    tensors = safetensors.torch.load(path.read_bytes())

    def part(name: str) -> TrainingRows:
        pieces = tensors[f"{name}.ids"].split(tensors[f"{name}.lengths"].tolist())
        return TrainingRows([piece.tolist() for piece in pieces], tensors[f"{name}.labels"])

    train_rows, held_index, held_queries = map(part, _PARTS)
    return StageRows(train_rows, held_index, held_queries, int(tensors["num_faqs"]))


def load_payload(path: str) -> BottleneckAdapter:
    return unpack_adapter(Path(path).read_bytes())


def build_objective(spec: StageSpec, encoder: Encoder, rows: TrainingRows) -> Objective:
    """The stage's objective with its starting parameters, on the encoder's device."""
    initial = None if spec.initial is None else load_payload(spec.initial).to(encoder.device)
    if spec.teachers:
        return distillation_of(
            encoder,
            [load_payload(path).to(encoder.device) for path in spec.teachers],
            rows,
            own=initial,
            strength=spec.strength,
            bottleneck_size=spec.bottleneck_size,
            seed=spec.seed,
        )
    student = initial or BottleneckAdapter.new(
        encoder.num_layers, encoder.hidden_size, spec.bottleneck_size, seed=spec.seed
    )
    return OwnAdapter(encoder, student.to(encoder.device))


def run_stage(
    spec: StageSpec,
    encoder: Encoder,
    *,
    workers: Workers | None = None,
    checkpoint: Checkpoint | None = None,
    resume: bytes | None = None,
    progress: Progress | None = None,
) -> tuple[BottleneckAdapter, TrainResult]:
    """Train one stage; returns the student at its best step."""
    rows = read_rows(Path(spec.rows))
    objective = build_objective(spec, encoder, rows.train)
    texts = imitation_rows(encoder, rows.train) if spec.teachers else rows.train
    held_out = None
    if rows.held_queries.ids:
        held_out = HeldOutRows(encoder, rows.held_index, rows.held_queries, rows.num_faqs)
    result = train(
        objective,
        texts,
        spec.schedule,
        seed=spec.seed,
        device=encoder.device,
        held_out=held_out,
        workers=workers,
        checkpoint=checkpoint,
        resume=resume,
        progress=progress,
    )
    return objective.student, result

"""Meta-KD's teacher, trained on several domains' rows, and the lessons of a frozen teacher."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from adapterdistill.backbone import (
    Adaptation,
    Encoder,
    FrozenLayer,
    LayerRule,
    PackedTokens,
    pack,
    rule_of,
)
from adapterdistill.backbone.packed import mean_pool
from adapterdistill.distill.batches import Batch
from adapterdistill.distill.meta_kd.formulas import (
    DOMAIN_WEIGHT,
    DomainHead,
    corrupted,
    meta_teacher_loss,
)
from adapterdistill.distill.multitask_kd.students import MultitaskModel
from adapterdistill.distill.objective import ModelObjective
from adapterdistill.errors import ConfigError


def check_domains(domains: Int[Tensor, " rows"], names: Sequence[str]) -> None:
    """Raises ConfigError unless there are two domains or more, and each has a row."""
    if len(names) < 2:
        raise ConfigError(
            f"Meta-KD learns from several domains, got {len(names)}: add rows of others, or "
            "distil from a teacher of this one"
        )
    empty = [
        n for n, rows in zip(names, domains.bincount(minlength=len(names)), strict=True) if not rows
    ]
    if empty:
        raise ConfigError(
            f"domain(s) without training rows: {', '.join(empty)}: give them rows or leave them out"
        )


class MetaTeaching(ModelObjective):
    """The meta-teacher's weighted loss: a model's labels and a domain head's corrupted domains.

    For one worker. Without weights and domain head it is plain training on all domains' rows.
    """

    def __init__(
        self,
        model: MultitaskModel,
        labels: Int[Tensor, " rows"],
        *,
        typical: Float[Tensor, " rows"] | None = None,
        domains: Int[Tensor, " rows"] | None = None,
        domain_head: DomainHead | None = None,
        domain_weight: float = DOMAIN_WEIGHT,
    ) -> None:
        """
        Args:
            typical: each row's t; None for 1.
            domains: of each row; needed with `domain_head`.
        """
        super().__init__()
        self.model: MultitaskModel = model
        self.domain_head = domain_head
        self._labels = labels
        self._typical = torch.ones(len(labels)) if typical is None else typical.cpu()
        self._domains = domains
        self._domain_weight = domain_weight

    def forward(self, batch: Batch) -> Tensor:
        if batch.world_size != 1:
            raise ConfigError("Meta-KD trains in one worker: set num_workers to 1")
        rows = list(batch.rows)
        pooled = self.model.body(batch.tokens, pairs=False)
        logits, device = self.model.heads[0](pooled), pooled.device
        labels, typical = self._labels[rows].to(device), self._typical[rows].to(device)
        if self.domain_head is None:
            return (typical * F.cross_entropy(logits, labels, reduction="none")).mean()
        assert self._domains is not None, "a domain head without domains"
        domains = self._domains[rows].to(device)
        # Drawn from the batch itself, so that a resumed training draws the same.
        generator = torch.Generator().manual_seed(zlib.crc32(str(rows).encode()))
        return meta_teacher_loss(
            logits,
            labels,
            self.domain_head(pooled, domains),
            corrupted(domains, generator),
            typical,
            domain_weight=self._domain_weight,
        )


class Observed(LayerRule):
    """A rule that keeps hidden states and attention scores of some layers of one forward."""

    def __init__(self, delta: Adaptation | None, layers: Sequence[int]) -> None:
        """`layers`: 1 is the first; its state is its output. 0, the embeddings, is always kept."""
        self._rule, self._layers = rule_of(delta), set(layers)
        self.hidden: list[Tensor] = []
        """[tokens, hidden] each, the embeddings first."""
        self.scores: list[Tensor] = []
        """Laid out as by `attention_scores`."""

    def finish(self, layer: FrozenLayer, residual: Tensor, h: Tensor) -> Tensor:
        return self._rule.finish(layer, residual, h)

    def run(self, layer: FrozenLayer, h: Tensor, tokens: PackedTokens) -> Tensor:
        if layer.index == 0:
            self.hidden.append(h)
        output = super().run(layer, h, tokens)
        if layer.index + 1 in self._layers:
            self.scores.append(layer.scores(h, tokens))
            self.hidden.append(output)
        return output


def mapped_layers(teacher: int, student: int) -> list[int]:
    """The teacher's layer for each of the student's, from 1, evenly: 2 of 6 are 3 and 6."""
    return [round(layer * teacher / student) for layer in range(1, student + 1)]


@dataclass(frozen=True)
class Teacher:
    """A frozen teacher: the encoder, what adapts it, its class head, and its domain head if any."""

    encoder: Encoder
    delta: Adaptation
    head: nn.Module
    domain_head: DomainHead | None = None

    @torch.no_grad()
    def predict(
        self, ids: Sequence[Sequence[int]], *, batch_size: int = 64
    ) -> Float[Tensor, "rows classes"]:
        """Logits of rows of token ids, batched by length."""
        found: list[Tensor] = [torch.empty(0)] * len(ids)
        order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            tokens = pack([ids[row] for row in rows], self.encoder.device)
            logits = self.head(mean_pool(self.encoder.hidden(tokens, self.delta), tokens))
            for row, one in zip(rows, logits, strict=True):
                found[row] = one
        return torch.stack(found)


KEPT_BYTES = 256 * 2**20
"""Most memory of a lesson's states. Rows beyond it pass the teacher again at each step."""
States = tuple[list[Tensor], list[Tensor]]
"""A row's hidden states, [tokens, hidden] by mapped layer, the embeddings first, and its attention
scores, [tokens * tokens] by mapped layer."""


@dataclass(frozen=True)
class Lesson:
    """A teacher's states and outputs for rows: nothing in them is random."""

    teacher: Teacher
    layers: tuple[int, ...]
    """The teacher's layer for each of the student's."""
    ids: tuple[Sequence[int], ...]
    """Token ids of each row."""
    kept: Mapping[int, States]
    """States of the rows for which there was room."""
    logits: Float[Tensor, "rows classes"]
    transferable: Float[Tensor, "rows hidden"] | None
    """None: the teacher has no domain head."""

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        teacher: Teacher,
        ids: Sequence[Sequence[int]],
        domains: Int[Tensor, " rows"],
        *,
        student_layers: int,
        batch_size: int = 64,
        kept_bytes: int = KEPT_BYTES,
    ) -> "Lesson":
        """Run the teacher over all rows, the shortest first; keep states up to `kept_bytes`."""
        encoder = teacher.encoder
        layers = tuple(mapped_layers(encoder.num_layers, student_layers))
        kept: dict[int, States] = {}
        pooled = torch.empty(len(ids), encoder.hidden_size, device=encoder.device)
        order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        room = kept_bytes
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            states, pooled[rows] = _observed(teacher, [ids[row] for row in rows], layers)
            room -= sum(part.nbytes for one in states for parts in one for part in parts)
            if room >= 0:
                kept |= zip(rows, states, strict=True)
        transferable = None
        if teacher.domain_head is not None:
            transferable = teacher.domain_head.transferable(pooled, domains.to(pooled.device))
        return cls(teacher, layers, tuple(ids), kept, teacher.head(pooled), transferable)

    def select(self, rows: Sequence[int]) -> "Lesson":
        """The lesson of some of the rows."""
        chosen = list(rows)
        return Lesson(
            self.teacher,
            self.layers,
            tuple(self.ids[row] for row in chosen),
            {place: self.kept[row] for place, row in enumerate(chosen) if row in self.kept},
            self.logits[chosen],
            None if self.transferable is None else self.transferable[chosen],
        )

    def packed(self, rows: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
        """Hidden states and scores of a batch of `rows`, laid as `pack` lays them."""
        order = sorted(rows, key=lambda row: len(self.ids[row]))
        others = list(dict.fromkeys(row for row in order if row not in self.kept))
        states = {row: self.kept[row] for row in order if row in self.kept}
        if others:
            found, _ = _observed(self.teacher, [self.ids[row] for row in others], self.layers)
            states |= zip(others, found, strict=True)
        hidden, scores = (
            [
                torch.cat(of_layer)
                for of_layer in zip(*(states[row][k] for row in order), strict=True)
            ]
            for k in (0, 1)
        )
        return hidden, scores


@torch.no_grad()
def _observed(
    teacher: Teacher, ids: Sequence[Sequence[int]], layers: Sequence[int]
) -> tuple[list[States], Tensor]:
    """The states of rows that are sorted by length, and their mean last hidden states."""
    encoder = teacher.encoder
    tokens = pack(ids, encoder.device)
    seen = Observed(teacher.delta, layers)
    pooled = mean_pool(encoder.hidden(tokens, seen), tokens)
    lengths = [len(row) for row in ids]
    hidden = [state.split(lengths) for state in seen.hidden]
    scores = [state.split([n * n for n in lengths]) for state in seen.scores]
    states = [
        ([state[row] for state in hidden], [state[row] for state in scores])
        for row in range(len(ids))
    ]
    return states, pooled

"""Meta-KD's student: a light Transformer that learns a domain, each row by its own weight."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from adapterdistill.backbone.packed import mean_pool
from adapterdistill.distill.batches import Batch
from adapterdistill.distill.meta_kd.formulas import (
    TRANSFERABLE_WEIGHT,
    DomainHead,
    meta_distillation_loss,
    row_distance,
    score_distance,
    soft_cross_entropy,
)
from adapterdistill.distill.meta_kd.teacher import Lesson, Observed
from adapterdistill.distill.multitask_kd.students import MultitaskModel, TransformerBody
from adapterdistill.distill.objective import ModelObjective
from adapterdistill.errors import ConfigError


@dataclass(frozen=True)
class Terms:
    """The loss's free settings."""

    hidden: float = 1.0
    attention: float = 1.0
    transferable: float = TRANSFERABLE_WEIGHT
    temperature: float = 1.0
    """Temperature of the soft labels."""
    labels: float = 0.0
    """Share of the labels' cross-entropy against the soft labels', 0 to 1."""


TERMS = Terms(hidden=0.3, attention=0.3, transferable=0.15)
"""Terms of every distillation; chosen for the benchmark's students of the mixed-domain teacher, on
`valid` rows."""


class MetaDistillation(ModelObjective):
    """The teacher's states, transferable feature and soft labels, each row by its own weight.

    With even weights and a teacher without domain head it is plain distillation of Transformers
    (TinyBERT, Jiao et al., 2020). For one worker.
    """

    def __init__(
        self,
        model: MultitaskModel,
        lesson: Lesson,
        labels: Int[Tensor, " rows"],
        weights: Float[Tensor, " rows"],
        *,
        terms: Terms = Terms(),
        task: int = 0,
        seed: int,
    ) -> None:
        """
        Args:
            weights: lambda of each row.
            task: the place of its head among the model's.

        Raises:
            ConfigError: the student is no Transformer, is wider than its teacher's embeddings, or
                the lesson is not of these rows and layers.
        """
        super().__init__()
        body = model.body
        if not isinstance(body, TransformerBody):
            raise ConfigError("Meta-KD's student is a Transformer: its layers learn its teacher's")
        self._body = body
        width = lesson.teacher.encoder.hidden_size
        if body.width > width:
            raise ConfigError(
                f"a student of width {body.width}: its teacher's embeddings have {width}; take a "
                "student as wide or narrower"
            )
        rows = {len(lesson.ids), len(lesson.logits), len(labels), len(weights)}
        if len(rows) > 1:
            raise ConfigError(
                f"the teacher's lesson, labels and weights differ in rows: {sorted(rows)}"
            )
        layers = body.encoder.cast().num_layers
        if len(lesson.layers) != layers:
            raise ConfigError(
                f"the lesson is for {len(lesson.layers)} layers, the student has {layers}"
            )
        self.model: MultitaskModel = model
        device = next(model.parameters()).device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            fit = nn.Linear(body.width, width)
        if body.width == width:  # a student that is its teacher starts at no distance
            nn.init.eye_(fit.weight)
            nn.init.zeros_(fit.bias)
        self.fit = fit.to(device)
        self.feature = None
        if lesson.transferable is not None:
            # One domain: its embedding is part of the bias of the linear layer.
            self.feature = DomainHead(body.width, 1, seed=seed).to(device)
        self._lesson, self._labels, self._weights = lesson, labels, weights.cpu()
        self._terms, self._task = terms, task
        self._layers = range(1, layers + 1)

    def forward(self, batch: Batch) -> Tensor:
        if batch.world_size != 1:
            raise ConfigError("Meta-KD trains in one worker: set num_workers to 1")
        rows, tokens, terms = list(batch.rows), batch.tokens, self._terms
        seen = Observed(None, self._layers)
        pooled = mean_pool(self._body.encoder.cast().hidden(tokens, seen), tokens)
        logits, device = self.model.heads[self._task](pooled), pooled.device
        hidden_wanted, scores_wanted = self._lesson.packed(rows)
        hidden = torch.stack(
            [
                row_distance(self.fit(own.float()), wanted, tokens.row_of_token, tokens.lengths)
                for own, wanted in zip(seen.hidden, hidden_wanted, strict=True)
            ]
        ).sum(0)
        scores = torch.stack(
            [
                score_distance(own, wanted, tokens)
                for own, wanted in zip(seen.scores, scores_wanted, strict=True)
            ]
        ).sum(0)
        transferable = torch.zeros_like(hidden)
        if self.feature is not None:
            assert self._lesson.transferable is not None
            one_domain = torch.zeros(len(rows), dtype=torch.int64, device=device)
            own = self.fit(self.feature.transferable(pooled, one_domain))
            wanted = self._lesson.transferable[rows]
            transferable = (own - wanted).square().mean(-1)
        labels = F.cross_entropy(logits, self._labels[rows].to(device), reduction="none")
        soft = soft_cross_entropy(logits, self._lesson.logits[rows], temperature=terms.temperature)
        return meta_distillation_loss(
            self._weights[rows].to(device),
            terms.hidden * hidden,
            terms.attention * scores,
            transferable,
            (1 - terms.labels) * soft + terms.labels * labels,
            transferable_weight=terms.transferable,
        )

"""AdapterDistillation as its paper's figure draws it: attention over teachers and the student.

Two passes a step. The fused pass runs the attention-weighted teachers and trains Q, K, V by the
task loss; the student pass runs the student alone, as it will be served, and trains it by the
task loss plus its distances to the fused pass, which get no gradient. The student's own
activations feed its pass: a student that only imitates, layer by layer, inside the fused pass
never sees them and fails when served alone.

The paper's equations were not available; this instance is this project's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from adapterdistill.adapters import AdapterStack, BottleneckAdapter, Fusion
from adapterdistill.backbone import Encoder, LayerDelta
from adapterdistill.distill.batches import Batch, TrainingRows
from adapterdistill.distill.losses import (
    embedding_distance,
    feature_distance,
    prototype_loss,
    relation_distance,
)
from adapterdistill.distill.method import Cost, Method, StageTexts, Start
from adapterdistill.distill.objective import Objective, Recording


@dataclass(frozen=True)
class DistilWeights:
    """Weights of the loss terms beside the two task losses."""

    feature: float = 1.0
    """||u_l - o_l||^2 by layer (alpha in the specification)."""
    relation: float = 1.0
    """KL of similarity distributions over the batch."""
    embedding: float = 0.0
    """1 - cosine of pooled embeddings."""
    value_regulariser: float = 0.01


class AttentionDistillation(Objective):
    """Trains the student and the teachers' fusion together; only the student is served."""

    def __init__(
        self,
        encoder: Encoder,
        student: BottleneckAdapter,
        teachers: AdapterStack,
        fusion: Fusion,
        *,
        weights: DistilWeights | None = None,
        fusion_learning_rate: float = 5e-5,
    ) -> None:
        super().__init__()
        self._encoder = encoder
        self._teachers = teachers
        self._weights = weights or DistilWeights()
        self._fusion_learning_rate = fusion_learning_rate
        self.student = student
        self.fusion = fusion

    def parameter_groups(self, learning_rate: float) -> list[dict[str, object]]:
        fusion = {"params": list(self.fusion.parameters()), "lr": self._fusion_learning_rate}
        return [*super().parameter_groups(learning_rate), fusion]

    def fused(self) -> LayerDelta:
        """The teachers' fusion as it is now."""
        return self.fusion.over(self._teachers)

    def forward(self, batch: Batch) -> Tensor:
        w = self._weights
        fused, own = Recording(self.fused()), Recording(self.student)
        teacher = batch.share(self._encoder.embed(batch.tokens, fused))
        student = batch.share(self._encoder.embed(batch.tokens, own))
        loss = prototype_loss(teacher, batch.labels)
        loss = loss + prototype_loss(student, batch.labels)
        loss = loss + w.value_regulariser / batch.world_size * self.fusion.value_regulariser()
        if w.feature:
            loss = loss + w.feature * feature_distance(
                own.outputs, fused.outputs, total_tokens=batch.total_tokens
            )
        if w.relation:
            loss = loss + w.relation * relation_distance(student, teacher)
        if w.embedding:
            loss = loss + w.embedding * embedding_distance(student, teacher)
        return loss


def attention_distillation_of(
    encoder: Encoder,
    teachers: Sequence[BottleneckAdapter],
    *,
    own: BottleneckAdapter | None,
    student: BottleneckAdapter,
    seed: int,
    weights: DistilWeights | None = None,
) -> AttentionDistillation:
    """The objective on the encoder's device.

    The own adapter, frozen as it is now, is fused with the teachers, as in AdapterFusion, so that
    the fusion keeps what the student knows already. The student itself is never among them:
    otherwise it could close its distance to the fusion without learning anything.
    """
    fused = [*teachers, *([] if own is None else [own])]
    stack = AdapterStack.of(fused, dtype=encoder.dtype, device=encoder.device)
    fusion = Fusion.new(encoder.num_layers, encoder.hidden_size, seed=seed)
    return AttentionDistillation(
        encoder, student.to(encoder.device), stack, fusion.to(encoder.device), weights=weights
    )


class DistilByAttention(Method):
    """Method `attention_distillation`: the student starts as the own adapter, or near identity.

    The fusion needs labelled rows to learn which teachers help; without them the student imitates
    their mean.
    """

    cost = Cost(forward=1.5, step=2.0)  # the fused pass is trained beside the student's

    def objective(self, start: Start, rows: TrainingRows, texts: StageTexts) -> Objective:
        student = (
            start.initial.copy()
            if start.initial is not None
            else BottleneckAdapter.new(
                start.encoder.num_layers,
                start.encoder.hidden_size,
                start.bottleneck_size,
                seed=start.seed,
            )
        )
        return attention_distillation_of(
            start.encoder, start.teachers, own=start.initial, student=student, seed=start.seed
        )

"""Losses as pure functions of tensors."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

TEMPERATURE = 0.05
"""Scale 20, the usual choice for cosine similarities of sentence embeddings."""


def supervised_contrastive(
    embeddings: Float[Tensor, "rows d"],
    labels: Int[Tensor, " rows"],
    *,
    temperature: float = TEMPERATURE,
) -> Float[Tensor, ""]:
    """Mean over anchors of -mean_positives log softmax(similarity to all other rows).

    Khosla et al. (2020), L_out. Positives of an anchor are the other rows of its label. Rows
    labelled -1 are nobody's positive and no anchor, but everybody's negative.

    Args:
        embeddings: unit length.

    Returns:
        Zero (with a gradient of zero) where no anchor has a positive.
    """
    rows = len(labels)
    if rows < 2:
        return embeddings.sum() * 0.0
    logits = embeddings @ embeddings.T / temperature
    itself = torch.eye(rows, dtype=torch.bool, device=labels.device)
    log_share = logits.masked_fill(itself, -torch.inf).log_softmax(-1)
    positive = (labels[:, None] == labels[None, :]) & (labels >= 0)[:, None] & ~itself
    count = positive.sum(-1)
    per_anchor = torch.where(positive, log_share, 0.0).sum(-1) / count.clamp(min=1)
    return -per_anchor.sum() / (count > 0).sum().clamp(min=1)


def relation_distance(
    student: Float[Tensor, "rows d"],
    teacher: Float[Tensor, "rows d"],
    *,
    temperature: float = TEMPERATURE,
) -> Float[Tensor, ""]:
    """Mean over rows of KL(teacher's || student's softmax over similarities to the other rows).

    Unit-length embeddings; the teacher gets no gradient. Zero where the similarities agree.
    """
    rows = len(student)
    if rows < 2:
        return student.sum() * 0.0
    off = ~torch.eye(rows, dtype=torch.bool, device=student.device)

    def log_shares(e: Tensor) -> Tensor:
        return (e @ e.T / temperature)[off].view(rows, rows - 1).log_softmax(-1)

    return F.kl_div(
        log_shares(student), log_shares(teacher.detach()), log_target=True, reduction="batchmean"
    )


def embedding_distance(
    student: Float[Tensor, "rows d"], teacher: Float[Tensor, "rows d"]
) -> Float[Tensor, ""]:
    """Mean over rows of 1 - cosine; unit-length embeddings; no gradient to the teacher."""
    return 1.0 - (student * teacher.detach()).sum(-1).mean()


def feature_distance(
    student: Sequence[Float[Tensor, "tokens d"]],
    teacher: Sequence[Float[Tensor, "tokens d"]],
    *,
    total_tokens: int,
) -> Float[Tensor, ""]:
    """(1/L) sum_l mean over tokens of ||u_l - o_l||^2; no gradient to the teacher.

    Args:
        student: each layer's adapter output u_l. Packed tokens, so padding never counts.
        teacher: each layer's fused output o_l.
        total_tokens: tokens of the global batch, of which these may be one worker's share.
    """
    distances = [
        (u.float() - o.detach().float()).square().sum()
        for u, o in zip(student, teacher, strict=True)
    ]
    return torch.stack(distances).sum() / (total_tokens * len(distances))

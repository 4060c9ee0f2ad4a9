"""Losses as pure functions of tensors."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from adapterdistill.distill.labels import pairs

TEMPERATURE = 0.05
"""Scale 20, the usual choice for cosine similarities of sentence embeddings."""


def prototype_loss(
    embeddings: Float[Tensor, "rows d"],
    labels: Int[Tensor, " rows *right"],
    *,
    temperature: float = TEMPERATURE,
) -> Float[Tensor, ""]:
    """Mean cross-entropy of each row's FAQ among the batch's prototypes, as serving ranks.

    A prototype is the unit-length mean of a FAQ's rows (Snell et al., 2017); a row's own FAQ is
    taken without the row itself (the generalised end-to-end loss of Wan et al., 2018, eq. 6 and 8).
    A row that is alone of its FAQ is a prototype for others and has no term; rows labelled -1
    take no part. A row with several right FAQs has a term for each, from which the others are left
    out: it is not pushed away from them.

    Args:
        embeddings: unit length.
        labels: each row's FAQ, or its right FAQs (`labels`).

    Returns:
        Zero (with a gradient of zero) where no row has another of its FAQ.
    """
    row, label = pairs(labels)
    e = embeddings[row]
    faqs, faq = label.unique(return_inverse=True)
    sums = torch.zeros(len(faqs), e.shape[1], dtype=e.dtype, device=e.device).index_add(0, faq, e)
    cosines = e @ F.normalize(sums, dim=-1).T
    if labels.ndim == 2:
        right = labels[row][:, None] == faqs[:, None]
        cosines = cosines.masked_fill(right.any(-1), -torch.inf)
    without_itself = (e * F.normalize(sums[faq] - e, dim=-1)).sum(-1)
    cosines = cosines.scatter(1, faq[:, None], without_itself[:, None])
    has_others = faq.bincount(minlength=len(faqs))[faq] > 1
    if not bool(has_others.any()):
        return embeddings.sum() * 0.0
    return F.cross_entropy(cosines[has_others] / temperature, faq[has_others])


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


def similarity_distance(
    student: Float[Tensor, "rows d"], teacher: Float[Tensor, "rows d"]
) -> Float[Tensor, ""]:
    """Mean over pairs of rows of the squared difference of their cosines.

    Unit-length embeddings; no gradient to the teacher.
    """
    goal = teacher.detach()
    return (student @ student.T - goal @ goal.T).square().mean()


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
        total_tokens: tokens of the global batch; `student` may be one worker's share of it.
    """
    distances = [
        (u.float() - o.detach().float()).square().sum()
        for u, o in zip(student, teacher, strict=True)
    ]
    return torch.stack(distances).sum() / (total_tokens * len(distances))

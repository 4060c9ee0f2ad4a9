"""Batches as a pure function of (rows, seed, step): resuming needs no sampler state."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from adapterdistill.backbone import PackedTokens, pack
from adapterdistill.distill.labels import first_labels, pairs


@dataclass(frozen=True)
class TrainingRows:
    """A tenant's tokenised training texts."""

    ids: Sequence[Sequence[int]]
    """Token ids of each row."""
    labels: Tensor
    """[rows] int64: index of the row's FAQ, -1 for rows that nobody labelled. [rows, right] where
    rows have several right FAQs (`labels`). The first row of a FAQ is its question."""

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.labels):
            raise ValueError(f"{len(self.ids)} rows of ids but {len(self.labels)} labels")

    @cached_property
    def rows_by_faq(self) -> list[Tensor]:
        """Each FAQ's rows in their order, the question first."""
        row, faq = pairs(self.labels)
        faq, order = faq.sort(stable=True)
        _, counts = faq.unique_consecutive(return_counts=True)
        return list(row[order].split(counts.tolist()))

    @property
    def first_labels(self) -> Tensor:
        """[rows] int64: the first right FAQ of each row, or -1."""
        return first_labels(self.labels)

    @cached_property
    def unlabelled(self) -> Tensor:
        """Rows that nobody labelled."""
        return (self.first_labels < 0).nonzero().flatten()

    def select(self, mask: Tensor) -> "TrainingRows":
        """The rows where `mask`, [rows] bool, is true."""
        kept = mask.nonzero().flatten().tolist()
        return TrainingRows([self.ids[row] for row in kept], self.labels[mask])


@dataclass(frozen=True)
class Batch:
    """One step's rows: this worker's tokens, and the labels of the global batch."""

    tokens: PackedTokens
    labels: Tensor
    """[global rows] int64, or [global rows, right]."""
    total_tokens: int
    """Tokens of the global batch."""
    world_size: int
    share: Callable[[Tensor], Tensor]
    """[local rows, d] to [global rows, d], with gradient to the local rows only."""
    total: Callable[[Tensor], Tensor]
    """The workers' scalars to their sum, with gradient to the own one only."""
    rows: tuple[int, ...] = ()
    """Index into `TrainingRows` of each global row."""
    rank: int = 0
    """This worker among `world_size`."""


Choose = Callable[..., list[int]]
"""(rows, batch_size=, seed=, step=) to the rows of a step: a pure function, like `choose_rows`."""


def choose_rows(rows: TrainingRows, *, batch_size: int, seed: int, step: int) -> list[int]:
    """Indices of the rows of step `step`: all, if they fit; otherwise FAQs, equally many rows each.

    A FAQ comes with its first row, which is its question, and with others drawn without
    replacement: an adapter that is trained on pairs of queries alone is worse than none if the
    index holds the questions. Unlabelled rows are drawn at their share of the data.
    """
    if len(rows.ids) <= batch_size:
        return list(range(len(rows.ids)))
    generator = torch.Generator().manual_seed((seed << 20) + step)

    def permutation(count: int) -> list[int]:
        order: list[int] = torch.randperm(count, generator=generator).tolist()
        return order

    return draw_over_faqs(rows, batch_size, permutation)


def draw_over_faqs(
    rows: TrainingRows, batch_size: int, permutation: Callable[[int], list[int]]
) -> list[int]:
    """Draw a batch as `choose_rows` says; `permutation(count)` is a random order of `count`."""

    def draw(among: Tensor, count: int) -> list[int]:
        chosen: list[int] = among[permutation(len(among))[:count]].tolist()
        return chosen

    unlabelled = draw(rows.unlabelled, batch_size * len(rows.unlabelled) // len(rows.ids))
    room, faqs = batch_size - len(unlabelled), rows.rows_by_faq
    per_faq = max(4, -(-room // len(faqs))) if faqs else 0
    labelled: list[int] = []
    for faq in permutation(len(faqs)):
        if len(labelled) >= room:
            break
        labelled += [int(faqs[faq][0]), *draw(faqs[faq][1:], per_faq - 1)]
    return labelled[:room] + unlabelled


def choose_in_epochs(rows: TrainingRows, *, batch_size: int, seed: int, step: int) -> list[int]:
    """Indices of the rows of step `step`, whatever their labels: every epoch is a new order."""
    epoch, place = divmod(step, -(-len(rows.ids) // batch_size))
    generator = torch.Generator().manual_seed((seed << 20) + epoch)
    order: list[int] = torch.randperm(len(rows.ids), generator=generator).tolist()
    return order[place * batch_size : (place + 1) * batch_size]


def make_batch(
    rows: TrainingRows,
    chosen: Sequence[int],
    *,
    device: torch.device | str = "cpu",
    rank: int = 0,
    world_size: int = 1,
) -> Batch:
    """This worker's share of the global batch `chosen`: every `world_size`-th row from `rank`."""
    local = list(chosen[rank::world_size])
    return Batch(
        tokens=pack([rows.ids[row] for row in local], device),
        labels=rows.labels[list(chosen)].to(device),
        total_tokens=sum(len(rows.ids[row]) for row in chosen),
        world_size=world_size,
        share=_alone if world_size == 1 else _gather(len(chosen), rank, world_size),
        total=_alone if world_size == 1 else _sum,
        rows=tuple(chosen),
        rank=rank,
    )


def _alone(local: Tensor) -> Tensor:
    return local


def _sum(local: Tensor) -> Tensor:
    everything = local.detach().clone()
    torch.distributed.all_reduce(everything)
    return everything + (local - local.detach())  # the same value for all: it adds zero


def _gather(total: int, rank: int, world_size: int) -> Callable[[Tensor], Tensor]:
    """All-gather of interleaved rows.

    Other workers' rows come as constants, so that the sum of the workers' gradients of one global
    loss is that loss's gradient.
    """
    largest = -(-total // world_size)

    def share(local: Tensor) -> Tensor:
        padded = local.detach().new_zeros(largest, local.shape[1])
        padded[: len(local)] = local.detach()
        parts = [torch.empty_like(padded) for _ in range(world_size)]
        torch.distributed.all_gather(parts, padded)
        everything = torch.stack(parts, dim=1).flatten(0, 1)[:total].clone()
        everything[rank::world_size] = local
        return everything

    return share

"""A synthetic tenant on a tiny encoder: each FAQ's texts share two tokens among noise."""

import torch

from adapterdistill.adapters import AdapterStack
from adapterdistill.backbone import Encoder
from adapterdistill.distill.batches import TrainingRows
from adapterdistill.distill.folds import NUM_FOLDS
from adapterdistill.distill.held_out import HeldOutRows
from adapterdistill.distill.rows import StageRows
from tests.tiny_encoders import random_adapter

NUM_FAQS = 6


def separable_rows(per_faq: int, *, seed: int) -> TrainingRows:
    generator = torch.Generator().manual_seed(seed)
    ids, labels = [], []
    for faq in range(NUM_FAQS):
        for _ in range(per_faq):
            noise = torch.randint(40, 130, (4,), generator=generator).tolist()
            ids.append([2, 5 + faq, *noise[:2], 20 + faq, *noise[2:], 3])
            labels.append(faq)
    return TrainingRows(ids, torch.tensor(labels))


def separable_stage() -> StageRows:
    index = separable_rows(3, seed=1)
    return StageRows(index, index, separable_rows(5, seed=2), NUM_FAQS)


def fold_stage() -> StageRows:
    """One question and three queries an FAQ, held out by the folds in turn."""
    questions, queries = separable_rows(1, seed=4), separable_rows(3, seed=1)
    none = TrainingRows([], queries.labels[:0])
    train = TrainingRows(
        [*questions.ids, *queries.ids], torch.cat([questions.labels, queries.labels])
    )
    in_turn = torch.arange(3 * NUM_FAQS) % NUM_FOLDS
    folds = torch.cat([torch.full((NUM_FAQS,), -1), in_turn])
    return StageRows(train, none, none, NUM_FAQS, folds)


def held_out_of(encoder: Encoder) -> HeldOutRows:
    rows = separable_stage()
    return HeldOutRows(encoder, rows.held_index, rows.held_queries, rows.num_faqs)


def teachers_of(encoder: Encoder, count: int = 3) -> AdapterStack:
    return AdapterStack.of([random_adapter(encoder, seed=seed, scale=0.1) for seed in range(count)])

"""A synthetic tenant on a tiny encoder: each FAQ's texts share two tokens among noise."""

import torch

from adapterdistill.adapters import AdapterStack
from adapterdistill.backbone import Encoder
from adapterdistill.distill.batches import TrainingRows
from adapterdistill.distill.held_out import HeldOutRows
from adapterdistill.distill.stage import StageRows
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


def held_out_of(encoder: Encoder) -> HeldOutRows:
    rows = separable_stage()
    return HeldOutRows(encoder, rows.held_index, rows.held_queries, rows.num_faqs)


def teachers_of(encoder: Encoder, count: int = 3) -> AdapterStack:
    return AdapterStack.of([random_adapter(encoder, seed=seed, scale=0.1) for seed in range(count)])

"""Synthetic classification tasks on a tiny encoder: one token of a row tells its class."""

from dataclasses import replace

import torch

from adapterdistill.distill.multitask_kd.students import TaskTexts


def single_task(rows: int = 24, *, seed: int = 0, classes: int = 2) -> TaskTexts:
    generator = torch.Generator().manual_seed(seed)
    ids = []
    for row in range(rows):
        noise = torch.randint(40, 130, (2 + row % 4,), generator=generator).tolist()
        ids.append((2, 10 + row % classes, *noise, 3))
    return TaskTexts(tuple(ids), torch.arange(rows) % classes, pairs=False, num_outputs=classes)


def retrieval_task(rows: int = 24, *, outputs: int = 32) -> TaskTexts:
    """Queries of three FAQs, to be embedded."""
    task = single_task(rows, seed=7, classes=3)
    return replace(task, num_outputs=outputs, retrieval=True)


def pair_task(rows: int = 20, *, seed: int = 0) -> TaskTexts:
    """Whether both texts hold the same token."""
    generator = torch.Generator().manual_seed(seed)
    ids = []
    for row in range(rows):
        noise = torch.randint(40, 130, (2 + row % 3,), generator=generator).tolist()
        first = 10 + (row // 2) % 4
        second = first if row % 2 else 10 + (first - 9) % 4
        ids += [(2, first, *noise, 3), (2, *noise[:2], second, 3)]
    return TaskTexts(tuple(ids), torch.arange(rows) % 2, pairs=True, num_outputs=2)

"""Labels of rows: one FAQ a row, or several that are all right.

Labels are `[rows]` int64, an FAQ's index or -1 for none. Where a row has several right FAQs they
are `[rows, right]`, each row's first FAQ in the first column, filled up with -1.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def labels_of(right: Sequence[Sequence[int]]) -> Tensor:
    """Make labels of each row's right FAQs; rows without any get -1."""
    width = max(map(len, right), default=1)
    filled = [[*faqs, *[-1] * (width - len(faqs))] for faqs in right]
    if width <= 1:
        return torch.tensor([faqs[0] if faqs else -1 for faqs in filled], dtype=torch.int64)
    return torch.tensor(filled, dtype=torch.int64)


def first_labels(labels: Tensor) -> Tensor:
    """Return the first right FAQ of each row, [rows] int64."""
    return labels if labels.ndim == 1 else labels[:, 0]


def right_labels(labels: Tensor) -> Tensor:
    """Return every right FAQ of each row, [rows, right] int64."""
    return labels[:, None] if labels.ndim == 1 else labels


def pairs(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return each row with each of its right FAQs, in order of the rows: two [pairs] int64."""
    right = right_labels(labels)
    row, place = (right >= 0).nonzero(as_tuple=True)
    return row, right[row, place]


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate labels of several sets of rows."""
    if all(part.ndim == 1 for part in parts):
        return torch.cat(list(parts))
    width = max(right_labels(part).shape[1] for part in parts)
    wide = [right_labels(part) for part in parts]
    return torch.cat([F.pad(part, (0, width - part.shape[1]), value=-1) for part in wide])

"""Public texts of other domains: the queries of the sample tenants that ship here.

They stand for what a tenant does not answer. The sample tenant that is nearest to a tenant is left
out, because it may be of the same trade, or the tenant itself.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources

import torch.nn.functional as F

from adapterdistill.backbone import Encoder

NUM_TEXTS = 210
"""Number of texts with which the weights and thresholds were chosen."""


@cache
def sample_queries() -> Mapping[str, tuple[str, ...]]:
    """Each sample tenant's query texts."""
    found = {}
    for folder in sorted(
        resources.files("adapterdistill.samples").iterdir(), key=lambda entry: entry.name
    ):
        file = folder / "queries.jsonl"
        if folder.is_dir() and file.is_file():
            lines = file.read_text("utf-8").splitlines()
            found[folder.name] = tuple(dict.fromkeys(json.loads(line)["text"] for line in lines))
    return found


def foreign_texts(
    encoder: Encoder, own: Sequence[str], *, count: int = NUM_TEXTS
) -> tuple[str, ...]:
    """`count` texts of all sample tenants but the nearest, evenly spread.

    Args:
        own: the tenant's questions, or other texts of it.

    Raises:
        ValueError: there is no text of the tenant's own.
    """
    if not own:
        raise ValueError("foreign texts are chosen by a tenant's own, got none")
    middle = F.normalize(encoder.embed_texts(own).mean(0), dim=0)
    samples = sample_queries()
    nearness = {
        name: float(F.normalize(encoder.embed_texts(texts[::8]).mean(0), dim=0) @ middle)
        for name, texts in samples.items()
    }
    nearest = max(nearness, key=lambda name: (nearness[name], name))
    texts = [text for name in samples if name != nearest for text in samples[name]]
    return tuple(texts[i * len(texts) // count] for i in range(min(count, len(texts))))

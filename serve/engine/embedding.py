"""One forward of rows of many tenants, all on one encoder."""

from collections.abc import Sequence

import torch
from torch import Tensor

from adapterdistill.backbone import Embedder, pack
from adapterdistill.distill.method import Variant
from adapterdistill.serve.engine.adapter_bank import AdapterBank, Slot


def embed(
    bank: AdapterBank, ids: Sequence[Sequence[int]], served: Sequence[Slot | Variant | None]
) -> Tensor:
    """Embeddings of the rows by the bank's encoder, each as its tenant is served: [rows, hidden].

    All adapters share one forward; each variant has its own.
    """
    encoder = bank.encoder
    rows_of: dict[Variant | None, list[int]] = {}
    for row, one in enumerate(served):
        rows_of.setdefault(one if isinstance(one, Variant) else None, []).append(row)
    embedded = torch.empty(len(ids), encoder.embedding_size, device=encoder.device)
    for variant, rows in rows_of.items():
        tokens = pack([ids[row] for row in rows], encoder.device)
        embedder: Embedder
        if variant is None:
            slots = [s.number if s else -1 for s in served if not isinstance(s, Variant)]
            embedder = bank.stack.mixed(torch.tensor(slots), tokens)
        else:
            embedder = variant.embedder
        embedded[rows] = encoder.embed(tokens, embedder)
    return embedded

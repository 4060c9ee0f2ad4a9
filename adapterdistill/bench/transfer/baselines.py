"""The references: full fine-tuning, one adapter on everybody's pooled rows, and TF-IDF."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from adapterdistill.backbone import Encoder
from adapterdistill.backbone.trainable import TrainableEncoder
from adapterdistill.bench.tenants import TextRows
from adapterdistill.distill.batches import Batch, TrainingRows, choose_rows, make_batch
from adapterdistill.distill.losses import prototype_loss
from adapterdistill.distill.objective import Objective, OwnAdapter
from adapterdistill.distill.training import Schedule


class FullTuning(Objective):
    """The tenant's own rows train every weight."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.tuned = TrainableEncoder(encoder)

    def deployed(self) -> Any:
        """Nothing that an adapter's place could hold: `embed_rows` is what this leaves."""
        return None

    def parameter_groups(self, learning_rate: float) -> list[dict[str, object]]:
        return [{"params": list(self.tuned.parameters()), "lr": learning_rate}]

    def forward(self, batch: Batch) -> Tensor:
        embeddings = batch.share(self.tuned.cast().embed(batch.tokens))
        return prototype_loss(embeddings, batch.labels)

    @torch.no_grad()
    def embed_rows(self, rows: TextRows) -> Tensor:
        return self.tuned.cast().embed_ids(rows.ids, batch_size=128)


def train_in_turn(
    objective: OwnAdapter, pool: Sequence[TrainingRows], schedule: Schedule, *, seed: int
) -> None:
    """Train one adapter, each step on a batch of one tenant, tenants in turn.

    A batch that mixed tenants would learn to tell tenants apart, which is no use within one.
    """
    device = next(objective.parameters()).device
    groups = objective.parameter_groups(schedule.learning_rate)
    optimizer = torch.optim.AdamW(groups, weight_decay=schedule.weight_decay, fused=True)
    for step in range(schedule.max_steps):
        warm = min(1.0, (step + 1) / max(1, schedule.warmup_steps))
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate * warm
        rows = pool[step % len(pool)]
        chosen = choose_rows(rows, batch_size=schedule.batch_size, seed=seed, step=step)
        optimizer.zero_grad(set_to_none=True)
        objective(make_batch(rows, chosen, device=device)).backward()
        optimizer.step()


_WORD = re.compile(r"\w\w+")


def words(text: str) -> list[str]:
    """Lower-case words of two characters or more."""
    return _WORD.findall(text.lower())


class TfIdf:
    """Term weights learnt from a tenant's index texts; unknown words count nothing."""

    def __init__(self, texts: Sequence[str]) -> None:
        documents = Counter(word for text in texts for word in set(words(text)))
        self._column = {word: i for i, word in enumerate(sorted(documents))}
        # ln((1 + n) / (1 + df)) + 1, the usual smoothing: no word has weight zero.
        self._idf = {w: math.log((1 + len(texts)) / (1 + df)) + 1 for w, df in documents.items()}

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Unit-length vectors, [texts, vocabulary] float32; zero where no word is known."""
        vectors = torch.zeros(len(texts), max(1, len(self._column)))
        for row, text in enumerate(texts):
            for word, count in Counter(words(text)).items():
                if word in self._column:
                    vectors[row, self._column[word]] = count * self._idf[word]
        return torch.nn.functional.normalize(vectors, dim=-1)

"""A method in one file: a variant that is the encoder's pooled words through one matrix."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapterdistill.backbone import Embedder, Encoder, PackedTokens, Replacement
from adapterdistill.backbone.packed import mean_pool
from adapterdistill.distill.adapter_distillation import imitation_texts
from adapterdistill.distill.batches import Batch, TrainingRows
from adapterdistill.distill.losses import embedding_distance
from adapterdistill.distill.method import (
    Cost,
    Method,
    StageTexts,
    Start,
    VariantConfig,
    VariantSettings,
)
from adapterdistill.distill.objective import ModelObjective, Objective
from adapterdistill.distill.rows import StageRows
from adapterdistill.sections import Section


class WordsConfig(VariantConfig):
    """What a run's TOML may set in its section `words`."""

    steps: int = 20
    learning_rate: float = 0.01


class WordsSections(Section):
    words: WordsConfig = WordsConfig()


class WordsModel(nn.Module, Replacement):
    """The result: what a tenant is served by."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self._words = encoder.weights.words
        self.matrix = nn.Parameter(torch.eye(encoder.hidden_size, device=encoder.device))

    def embed(self, tokens: PackedTokens) -> Tensor:
        words = F.embedding(tokens.input_ids, self._words).float()
        return F.normalize(mean_pool(words, tokens) @ self.matrix, dim=-1)


class WordsSettings(VariantSettings):
    """What the result is built from."""

    kind: Literal["words"] = "words"

    def new(self, encoder: Encoder, *, seed: int) -> WordsModel:
        return WordsModel(encoder)

    def embedder(self, model: nn.Module) -> Embedder:
        assert isinstance(model, WordsModel)
        return model


class WordsDistillation(ModelObjective):
    """The objective: the distance from the adapter's embeddings."""

    model: WordsModel

    def __init__(self, encoder: Encoder, model: WordsModel, adapter: Embedder) -> None:
        super().__init__()
        self._encoder, self._adapter = encoder, adapter
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            teacher = batch.share(self._encoder.embed(batch.tokens, self._adapter))
        return embedding_distance(batch.share(self.model.embed(batch.tokens)), teacher)


class Words(Method):
    sections = WordsSections
    variant = WordsSettings
    cost = Cost(step=0.1, forward=1.0)

    def variant_settings(self, sections: Section, *, bottleneck_size: int) -> WordsSettings:
        return WordsSettings()

    def texts(self, start: Start, rows: StageRows) -> StageTexts:
        return imitation_texts(start.encoder, rows)

    def objective(self, start: Start, rows: TrainingRows, texts: StageTexts) -> Objective:
        adapter = start.initial
        assert adapter is not None
        model = WordsModel(start.encoder)
        return WordsDistillation(start.encoder, model, adapter.requires_grad_(False))

    def model(self, objective: Objective) -> WordsModel:
        assert isinstance(objective, WordsDistillation)
        return objective.model

"""The light training of CoDA (Lei et al., 2023): a dense model into one that skips tokens.

The paper continues the pretraining of its encoder with routing on. Here the encoder stays frozen,
and the new parts start from closed forms: the router from a ridge regression of how rare a token
is, each layer's skipping adapter from a reduced-rank regression of the dense model's next state.
Then adapters and router learn to embed texts as the dense model does. No label is used, so the
tenant's and public texts both serve.
"""

import random
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from adapterdistill.adapters import (
    LEAST,
    BottleneckAdapter,
    ConditionalAdapter,
    Parallel,
    Routing,
)
from adapterdistill.backbone import Adaptation, Embedder, Encoder, LayerRule, pack
from adapterdistill.distill.adapter_distillation import imitation_rows, imitation_texts
from adapterdistill.distill.batches import Batch, TrainingRows
from adapterdistill.distill.losses import embedding_distance, similarity_distance
from adapterdistill.distill.method import (
    Cost,
    Method,
    StageTexts,
    Start,
    VariantConfig,
    VariantSettings,
)
from adapterdistill.distill.objective import HiddenStates, Objective, OwnAdapter
from adapterdistill.distill.rows import StageRows
from adapterdistill.sections import EncoderConfig, Section

SKIPPING_SIZE = 64
"""Bottleneck of the skipping adapter, the paper's."""
FITTED_TEXTS = 300
SIMILARITY_WEIGHT = 5.0
ROUTER_RATE = 0.01
"""The router's share of the learning rate: its every weight moves every token's score."""
_BATCH = 32
_SPREAD = 2.0
"""Standard deviation of a new router's scores."""
_RIDGE = 0.01
"""Ridge, as a share of the mean variance of the regressors."""
_ACTIVE = 4.0
"""Standard deviations that keep a fitted adapter's units above zero, where their relu is linear."""


class OwnParallelAdapter(OwnAdapter):
    """Stage 1 with the adapter on the layers' input: the paper's dense model."""

    def deployed(self) -> Parallel:
        return Parallel(self.student)


class ConditionalDistillation(Objective):
    """Trains adapters and router to embed texts as a dense model does."""

    def __init__(
        self,
        encoder: Encoder,
        conditional: ConditionalAdapter,
        dense: Adaptation | None,
        routing: Routing,
    ) -> None:
        """
        Args:
            dense: the frozen teacher: an adapter, or None for the encoder itself.
        """
        super().__init__()
        self._encoder = encoder
        self._dense = dense
        self._routing = routing
        self.conditional = conditional

    def deployed(self) -> LayerRule:
        return self.conditional.at(self._routing)

    def parameter_groups(self, learning_rate: float) -> list[dict[str, object]]:
        adapters = (self.conditional.adapter, self.conditional.skipping)
        return [
            {"params": [p for part in adapters for p in part.parameters()], "lr": learning_rate},
            {"params": [self.conditional.router], "lr": ROUTER_RATE * learning_rate},
        ]

    def forward(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            teacher = batch.share(self._encoder.embed(batch.tokens, self._dense))
        student = batch.share(self._encoder.embed(batch.tokens, self.deployed()))
        return embedding_distance(student, teacher) + SIMILARITY_WEIGHT * similarity_distance(
            student, teacher
        )


def fitted(
    encoder: Encoder,
    adapter: BottleneckAdapter,
    texts: Sequence[Sequence[int]],
    *,
    skipping_size: int = SKIPPING_SIZE,
    seed: int,
    parallel: bool = False,
) -> ConditionalAdapter:
    """A conditional adapter at its start, on the encoder's device.

    Args:
        adapter: the tenant's; it is copied.
        texts: token ids; some of them are enough.
    """
    chosen = random.Random(seed).sample(list(texts), min(len(texts), FITTED_TEXTS))
    chosen.sort(key=len)
    conditional = ConditionalAdapter.new(
        adapter, skipping_size=skipping_size, seed=seed, parallel=parallel
    ).to(encoder.device)
    # Special tokens are always chosen: they are neither scored nor skipped.
    inner = torch.tensor([0 < i < len(ids) - 1 for ids in chosen for i in range(len(ids))])
    states = [
        state[inner.to(state.device)] for state in _states(encoder, conditional.dense, chosen)
    ]
    with torch.no_grad():
        conditional.router.copy_(
            _fitted_router(states[0], rarity(chosen).to(encoder.device)[inner])
        )
        _fit_skipping(conditional.skipping, states)
    return conditional


def skippable(ids: Sequence[Sequence[int]], routing: Routing) -> Tensor:
    """Mask of texts that are long enough to learn skipping from, [texts] bool; all, if none is."""
    mask = torch.tensor([routing.skips(len(text)) for text in ids], dtype=torch.bool)
    return mask if bool(mask.any()) else torch.ones_like(mask)


def rarity(texts: Sequence[Sequence[int]]) -> Float[Tensor, " tokens"]:
    """log((texts + 1) / (those with the token + 1)) of every token, in their order."""
    found_in = Counter(token for ids in texts for token in set(ids))
    counts = torch.tensor([found_in[token] for ids in texts for token in ids])
    return ((len(texts) + 1) / (counts + 1)).log()


@torch.no_grad()
def _states(
    encoder: Encoder, dense: LayerRule, texts: Sequence[Sequence[int]]
) -> list[Float[Tensor, "tokens d"]]:
    """Inputs of the first layer and outputs of each, float32, of all tokens in their order.

    Args:
        texts: in order of length, which is how batches are laid out.
    """
    by_batch: list[list[Tensor]] = []
    for start in range(0, len(texts), _BATCH):
        kept = HiddenStates(dense)
        encoder.hidden(pack(texts[start : start + _BATCH], encoder.device), kept)
        assert kept.entered is not None
        by_batch.append([state.float() for state in [kept.entered, *kept.outputs]])
    return [torch.cat(layer) for layer in zip(*by_batch, strict=True)]


def _fitted_router(
    entering: Float[Tensor, "tokens d"], target: Float[Tensor, " tokens"]
) -> Float[Tensor, " d"]:
    x = F.layer_norm(entering, entering.shape[-1:])
    weights = _regressed(x, (target - target.mean())[:, None])[:, 0]
    return weights * (_SPREAD / (x @ weights).std())


def _fit_skipping(adapter: BottleneckAdapter, states: Sequence[Tensor]) -> None:
    """Fit X + S(X) to the dense model's next state, layer by layer, within the bottleneck's rank.

    X is the output of the fitted layers below. The rank is the bottleneck's; the units' biases keep
    them above 0, so that S starts linear.
    """
    x = states[0]
    for layer, after in enumerate(states[1:]):
        mean, change = x.mean(0), after - x
        centred = x - mean
        best = _regressed(centred, change - change.mean(0))
        # The rank that loses least of what is predicted (Izenman, 1975).
        predicted = best.T @ (centred.T @ centred) @ best
        directions = torch.linalg.eigh(predicted).eigenvectors.T.flip(0)
        up = directions[: adapter.bottleneck_size]
        down = up @ best.T
        size = (centred @ down.T).std(0).clamp(min=1e-6)
        down, up = down / size[:, None], up * size[:, None]
        bias = _ACTIVE - down @ mean
        rank = len(up)
        adapter.down_weight[layer, :rank] = down
        adapter.down_bias[layer, :rank] = bias
        adapter.up_weight[layer, :, :rank] = up.T
        adapter.up_weight[layer, :, rank:] = 0
        adapter.up_bias[layer] = change.mean(0) - up.T @ (down @ mean + bias)
        x = x + adapter(layer, x)


def _regressed(x: Float[Tensor, "rows d"], y: Float[Tensor, "rows e"]) -> Float[Tensor, "d e"]:
    """Ridge regression of centred y on x."""
    ridge = _RIDGE * x.square().sum() / x.shape[1]
    inner = x.T @ x + ridge * torch.eye(x.shape[1], device=x.device)
    found: Tensor = torch.linalg.solve(inner, x.T @ y)
    return found


class ConditionalConfig(VariantConfig):
    """Section `conditional`: the frozen layers read k of a text's n tokens."""

    speed: float = Field(default=2.0, ge=1)
    """n / k"""
    to_all: bool = True
    """Whether chosen tokens attend to all tokens of their text; otherwise to each other."""
    steps: int = Field(default=100, ge=1, le=100_000)
    learning_rate: float = Field(default=6e-4, gt=0, le=1)


class ConditionalSections(Section):
    """The method's sections."""

    conditional: ConditionalConfig = ConditionalConfig()


class ConditionalSettings(VariantSettings):
    """A conditional adapter (CoDA) at one speed."""

    kind: Literal["conditional"] = "conditional"
    bottleneck_size: int = Field(ge=1, le=1024)
    skipping_size: int = Field(default=SKIPPING_SIZE, ge=1, le=1024)
    speed: float = Field(ge=1, le=8192)
    least: int = Field(default=LEAST, ge=3, le=8192)
    to_all: bool

    def new(self, encoder: Encoder, *, seed: int) -> ConditionalAdapter:
        """Near identity, with a random router."""
        shape = (encoder.num_layers, encoder.hidden_size, self.bottleneck_size)
        adapter = BottleneckAdapter.new(*shape, seed=seed).to(encoder.device)
        return ConditionalAdapter.new(adapter, skipping_size=self.skipping_size, seed=seed)

    def embedder(self, model: nn.Module) -> Embedder:
        assert isinstance(model, ConditionalAdapter)
        return model.at(self.routing)

    @property
    def routing(self) -> Routing:
        return Routing(self.speed, least=self.least, to_all=self.to_all)


class Conditional(Method):
    """Method `conditional`: a variant that skips tokens of long texts."""

    sections = ConditionalSections
    variant = ConditionalSettings
    cost = Cost(forward=1.0)

    def check_config(self, sections: Section, encoder: EncoderConfig) -> None:
        assert isinstance(sections, ConditionalSections)
        if encoder.max_tokens is not None and sections.conditional.speed > encoder.max_tokens:
            raise ValueError(
                f"conditional.speed {sections.conditional.speed:g} leaves less than one of "
                f"encoder.max_tokens, {encoder.max_tokens}: lower it"
            )

    def variant_settings(self, sections: Section, *, bottleneck_size: int) -> ConditionalSettings:
        assert isinstance(sections, ConditionalSections)
        chosen = sections.conditional
        return ConditionalSettings(
            bottleneck_size=bottleneck_size, speed=chosen.speed, to_all=chosen.to_all
        )

    def texts(self, start: Start, rows: StageRows) -> StageTexts:
        assert isinstance(start.variant, ConditionalSettings)
        found = imitation_texts(start.encoder, rows)
        long = skippable(found.rows.ids, start.variant.routing)
        return StageTexts(
            found.rows.select(long), None if found.folds is None else found.folds[long]
        )

    def objective(self, start: Start, rows: TrainingRows, texts: StageTexts) -> Objective:
        settings, adapter = start.variant, start.initial
        assert isinstance(settings, ConditionalSettings) and adapter is not None
        # Fitted on the fold's own rows: `texts` holds what the fold holds out.
        found, _ = imitation_rows(start.encoder, rows)
        ids = found.select(skippable(found.ids, settings.routing)).ids
        model = fitted(
            start.encoder, adapter, ids, skipping_size=settings.skipping_size, seed=start.seed
        )
        dense = adapter.requires_grad_(False)
        return ConditionalDistillation(start.encoder, model, dense, settings.routing)

    def model(self, objective: Objective) -> ConditionalAdapter:
        assert isinstance(objective, ConditionalDistillation)
        return objective.conditional

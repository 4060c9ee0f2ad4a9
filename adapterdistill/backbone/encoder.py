"""A frozen post-LayerNorm transformer encoder as a pure function of packed tokens.

An adapter enters as a `LayerDelta`, or as a `LayerRule` if it does more than add to the FFN's
output. A `Replacement` reads the tokens instead of the encoder. The encoder keeps nothing of a
request, so threads and tenants cannot affect each other.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from adapterdistill.backbone.attach import EncoderWeights
from adapterdistill.backbone.layer import FrozenLayer, LayerDelta, LayerRule, rule_of
from adapterdistill.backbone.packed import PackedTokens, pack
from adapterdistill.manifest import EncoderRef

Adaptation = LayerDelta | LayerRule
"""What adapts the encoder: an addition to every layer's FFN, or a rule that runs the layer."""


class Replacement(ABC):
    """A smaller model that reads the same tokens instead of the encoder."""

    @abstractmethod
    def embed(self, tokens: PackedTokens) -> Tensor:
        """Embed rows at unit length, [rows, hidden] float32."""


Embedder = Adaptation | Replacement
"""What embeds a tenant's texts: an adaptation of the encoder, or a model instead of it."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Encoder:
    """A frozen encoder with its tokenizer, on one device, in one dtype. Thread-safe."""

    def __init__(
        self, weights: EncoderWeights, tokenizer: Any, ref: EncoderRef, *, max_tokens: int
    ) -> None:
        self.ref = ref
        self.hidden_size = ref.hidden_size
        self.num_layers = ref.num_layers
        self.dtype = weights.words.dtype
        self.device = weights.words.device
        self.max_tokens = max_tokens
        self._weights = weights
        self._tokenizer = tokenizer
        self._layers = [FrozenLayer(index, weights) for index in range(len(weights.layers))]
        special = tokenizer.encode("", add_special_tokens=True).ids
        half = (len(special) + 1) // 2
        self._head, self._tail = special[:half], special[half:]

    @property
    def weights(self) -> EncoderWeights:
        return self._weights

    @property
    def num_parameters(self) -> int:
        return sum(part.numel() for part in self._weights.tensors().values())

    @property
    def unknown_id(self) -> int | None:
        """Id of the token that stands for text which the vocabulary lacks; None: there is none."""
        ids = map(self._tokenizer.token_to_id, ("[UNK]", "<unk>"))
        return next((one for one in ids if one is not None), None)

    def with_weights(self, weights: EncoderWeights) -> "Encoder":
        """Make an encoder with this tokenizer and other weights, which set width and depth."""
        shape = {"hidden_size": weights.words.shape[1], "num_layers": len(weights.layers)}
        ref = self.ref.model_copy(update=shape)
        return Encoder(weights, self._tokenizer, ref, max_tokens=self.max_tokens)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Turn texts into token ids with the encoder's special tokens, cut at `max_tokens`."""
        room = self.max_tokens - len(self._head) - len(self._tail)
        # Not cut by the tokenizer: its truncation is state that threads would share.
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [[*self._head, *encoding.ids[:room], *self._tail] for encoding in encodings]

    def hidden(self, tokens: PackedTokens, delta: Adaptation | None = None) -> Tensor:
        """Compute the last hidden states, [tokens, hidden], with `delta` at every layer."""
        return self._run(tokens, delta)[1]

    def embed(self, tokens: PackedTokens, delta: Embedder | None = None) -> Tensor:
        """Embed rows at unit length, [rows, hidden] float32: mean-pooled, or by the replacement."""
        if isinstance(delta, Replacement):
            return delta.embed(tokens)
        rule, h = self._run(tokens, delta)
        return F.normalize(rule.pool(h, tokens), dim=-1)

    @torch.no_grad()
    def embed_texts(
        self, texts: Sequence[str], delta: Embedder | None = None, *, batch_size: int = 64
    ) -> Tensor:
        """Embed texts without gradients, batched by length: [texts, hidden] float32."""
        return self.embed_ids(self.tokenize(texts), delta, batch_size=batch_size)

    @torch.no_grad()
    def embed_ids(
        self,
        rows: Sequence[Sequence[int]],
        delta: Embedder | None = None,
        *,
        batch_size: int = 64,
    ) -> Tensor:
        """Embed rows of token ids without gradients, batched by length: [rows, hidden] float32."""
        out = torch.empty(len(rows), self.hidden_size, dtype=torch.float32, device=self.device)
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            tokens = pack([rows[row] for row in chosen], self.device)
            out[torch.tensor(chosen, device=self.device)] = self.embed(tokens, delta)
        return out

    def _run(self, tokens: PackedTokens, delta: Adaptation | None) -> tuple[LayerRule, Tensor]:
        """Run all layers; return this batch's rule and the last hidden states."""
        h = self._embed_tokens(tokens)
        rule = rule_of(delta).started(h, tokens)
        for layer in self._layers:
            h = rule.run(layer, h, tokens)
        return rule, h

    def _embed_tokens(self, tokens: PackedTokens) -> Tensor:
        w = self._weights
        h = F.embedding(tokens.input_ids, w.words) + F.embedding(tokens.position, w.positions)
        return F.layer_norm(
            h, (self.hidden_size,), w.embedding_norm_weight, w.embedding_norm_bias, w.norm_eps
        )

"""A frozen transformer encoder as a pure function of packed tokens.

An adapter enters as a `LayerDelta`, or as a `LayerRule` if it does more than add to the FFN's
output. A `Replacement` reads the tokens instead of the encoder. The encoder keeps nothing of a
request, so threads and tenants cannot affect each other.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from adapterdistill.backbone.layer import (
    FrozenLayer,
    LayerDelta,
    LayerRule,
    embed_tokens,
    end_layers,
    rule_of,
)
from adapterdistill.backbone.linear import FrozenLinear
from adapterdistill.backbone.packed import PackedTokens, pack
from adapterdistill.backbone.pooling import Head
from adapterdistill.backbone.tokens import TextKind, TextReader, Tokenizer
from adapterdistill.backbone.weights import EncoderWeights
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

UNRECORDED_TOKENS = 128
"""Length at which servers cut queries when manifests did not record one."""

_MEAN = Head()
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


PROBE_TOKENS = 64
"""Length of a probe for every tenant alike, so that its vector does not depend on settings."""

MOST_KEPT = 4096 * 384
"""Numbers of a batch's states, tokens * hidden, up to which all layers' results are kept for the
backward pass. Beyond, each layer is computed again there: a third more time, and the memory of one
layer instead of all."""


class Encoder:
    """A frozen encoder with its tokenizer, on one device, in one dtype. Thread-safe."""

    def __init__(
        self,
        weights: EncoderWeights,
        tokenizer: Tokenizer,
        ref: EncoderRef,
        *,
        head: Head = _MEAN,
        int8: bool = False,
    ) -> None:
        """`int8`: multiply by the layers' matrices in int8, where no gradient is asked for."""
        self.ref = ref
        self.hidden_size = ref.hidden_size
        self.embedding_size = ref.embedding_size
        self.num_layers = ref.num_layers
        self.dtype = weights.words.dtype
        self.device = weights.words.device
        self.max_tokens = min(ref.max_tokens or UNRECORDED_TOKENS, weights.num_positions)
        self.head = head
        self.reader = TextReader(tokenizer, self.max_tokens, ref.query_prompt, ref.passage_prompt)
        self._probe_reader = TextReader(tokenizer, min(PROBE_TOKENS, weights.num_positions))
        self._weights = weights
        self._tokenizer = tokenizer
        self._int8 = int8
        self._linears: dict[int, FrozenLinear] = {}  # by matrix: layers may share their weights
        self._layers = [
            FrozenLayer(index, weights, self._linear) for index in range(len(weights.layers))
        ]

    def _linear(self, weight: Tensor, bias: Tensor) -> FrozenLinear:
        made = FrozenLinear(weight, bias, int8=self._int8)
        return self._linears.setdefault(id(weight), made)

    @property
    def weights(self) -> EncoderWeights:
        return self._weights

    @property
    def precision(self) -> str:
        """What it computes in, as `load_encoder` names it."""
        return "int8" if self._int8 else str(self.dtype).removeprefix("torch.")

    @property
    def num_bytes(self) -> int:
        """Memory of the weights, and of the copies that are prepared for products."""
        parts = {id(part): part for part in self._weights.tensors().values()}
        prepared = sum(linear.prepared_bytes for linear in self._linears.values())
        return prepared + sum(part.nbytes for part in parts.values())

    @property
    def num_parameters(self) -> int:
        # Layers may share their weights.
        parts = {id(part): part for part in self._weights.tensors().values()}
        return sum(part.numel() for part in parts.values())

    @property
    def unknown_id(self) -> int | None:
        """Id of the token that stands for text which the vocabulary lacks; None: there is none."""
        return self._tokenizer.unknown_id

    def with_weights(self, weights: EncoderWeights) -> "Encoder":
        """Make an encoder with this tokenizer and other weights, which set width and depth."""
        shape = {"hidden_size": weights.hidden_size, "num_layers": len(weights.layers)}
        ref = self.ref.model_copy(update=shape)
        return Encoder(weights, self._tokenizer, ref, head=self.head, int8=self._int8)

    def tokenize(self, texts: Sequence[str], kind: TextKind = "query") -> list[list[int]]:
        """Turn texts into token ids with special tokens and this kind's prompt, cut at the end."""
        reader = self._probe_reader if kind == "probe" else self.reader
        return reader.rows(texts, kind)

    def tokenize_queries(
        self, texts: Sequence[str], read_as: Sequence[EncoderRef]
    ) -> list[list[int]]:
        """Turn queries into token ids, each with the prompt and length of its adapter's encoder."""
        prompted = [ref.query_prompt + text for text, ref in zip(texts, read_as, strict=True)]
        most = self._weights.num_positions
        lengths = [min(ref.max_tokens or self.max_tokens, most) for ref in read_as]
        return self._tokenizer.rows(prompted, lengths)

    def hidden(self, tokens: PackedTokens, delta: Adaptation | None = None) -> Tensor:
        """Compute the last hidden states, [tokens, hidden], with `delta` at every layer."""
        return self._run(tokens, delta)[1]

    def embed(self, tokens: PackedTokens, delta: Embedder | None = None) -> Tensor:
        """Embed rows at unit length, [rows, embedding size] float32, or by the replacement."""
        if isinstance(delta, Replacement):
            return delta.embed(tokens)
        rule, h = self._run(tokens, delta)
        return F.normalize(self.head.after(rule.pool(h, tokens, self.head)), dim=-1)

    @torch.no_grad()
    def embed_texts(
        self,
        texts: Sequence[str],
        delta: Embedder | None = None,
        *,
        kind: TextKind = "query",
        batch_size: int = 64,
    ) -> Tensor:
        """Embed texts without gradients, batched by length: [texts, embedding size] float32."""
        return self.embed_ids(self.tokenize(texts, kind), delta, batch_size=batch_size)

    @torch.no_grad()
    def embed_ids(
        self,
        rows: Sequence[Sequence[int]],
        delta: Embedder | None = None,
        *,
        batch_size: int = 64,
    ) -> Tensor:
        """Embed rows of token ids without gradients, batched by length: [rows, embedding size]."""
        out = torch.empty(len(rows), self.embedding_size, dtype=torch.float32, device=self.device)
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            tokens = pack([rows[row] for row in chosen], self.device)
            out[torch.tensor(chosen, device=self.device)] = self.embed(tokens, delta)
        return out

    def _run(self, tokens: PackedTokens, delta: Adaptation | None) -> tuple[LayerRule, Tensor]:
        """Run all layers; return this batch's rule and the last hidden states."""
        h = embed_tokens(self._weights, tokens)
        rule = rule_of(delta).started(h, tokens)
        again = torch.is_grad_enabled() and len(h) * h.shape[1] > MOST_KEPT
        for layer in self._layers:
            if again:
                h = checkpoint(
                    rule.run, layer, h, tokens, use_reentrant=False, preserve_rng_state=False
                )
            else:
                h = rule.run(layer, h, tokens)
        return rule, end_layers(self._weights, h)

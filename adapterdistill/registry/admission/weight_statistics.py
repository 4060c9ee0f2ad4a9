"""Statistics of an adapter's weights, computed without running the adapter.

Layer l of a bottleneck adapter adds U relu(D x + b) + c to the hidden state x. Scaling a row of D
and its b up and the column of U down does not change the layer, so the statistics are of U D and of
U relu(b) + c, never of U or D alone.

Frobenius norms of modules tell poisoned adapters from clean ones by their spread (arXiv
2605.30189). Effective rank is exp of the entropy of the singular values over their sum (Roy and
Vetterli, EUSIPCO 2007). Both come from the Gram matrices of U and D, which are as small as the
bottleneck; the hidden x hidden matrix U D is not built.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from adapterdistill.manifest import Manifest, Record

Array = npt.NDArray[np.float64]
Stored = npt.NDArray[Any]
_BLOCK_ELEMENTS = 1 << 18
_DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


class WeightStatistics(Record):
    """Statistics of an adapter, with one value for each layer."""

    hidden_size: int
    bottleneck_size: int
    norms: tuple[float, ...]
    """Frobenius norm of U D."""
    effective_ranks: tuple[float, ...]
    """Effective rank of U D: 1 to its greatest possible rank, or 0 if U D is zero."""
    offsets: tuple[float, ...]
    """Euclidean norm of U relu(b) + c, which the layer adds to a hidden state of zero."""


def measure(payload: Path, manifest: Manifest) -> WeightStatistics:
    """Measure the payload of a bottleneck adapter that `check_payload` admitted.

    The memory is a few times the square of the bottleneck size, whatever the payload's size.
    """
    tensors = _open(payload, manifest)
    down, up = tensors["down.weight"], tensors["up.weight"]
    layers, bottleneck, hidden = down.shape
    norms, ranks, offsets = [], [], []
    for layer in range(layers):
        active = np.maximum(_float64(tensors["down.bias"][layer]), 0)
        offset = _product_norm(up[layer], active, tensors["up.bias"][layer])
        values = singular_values(up[layer], down[layer])
        norms.append(_rounded(np.sqrt(np.sum(values**2))))
        ranks.append(_rounded(effective_rank(values)))
        offsets.append(_rounded(offset))
    return WeightStatistics(
        hidden_size=hidden,
        bottleneck_size=bottleneck,
        norms=tuple(norms),
        effective_ranks=tuple(ranks),
        offsets=tuple(offsets),
    )


def singular_values(up: Stored, down: Stored) -> Array:
    """Compute the singular values of up @ down, at most min(hidden, bottleneck) of them.

    They come from Gram matrices, so values below 1e-8 of the largest are not exact.

    Args:
        up: [hidden, bottleneck]
        down: [bottleneck, hidden]
    """
    hidden, bottleneck = up.shape
    if hidden <= bottleneck:
        gram = _gram(_float64(up) @ _float64(down))
    else:
        # The squares are the eigenvalues of G_up G_down, and so of the symmetric R^T G_up R with
        # G_down = R R^T.
        values, vectors = np.linalg.eigh(_gram(down.T))
        root = vectors * np.sqrt(np.maximum(values, 0))
        gram = root.T @ _gram(up) @ root
    squares: Array = np.maximum(np.linalg.eigvalsh(gram), 0)
    return np.sqrt(squares)


def effective_rank(values: Array) -> float:
    """Compute exp of the entropy of `values` over their sum; 0 if all are 0."""
    total = values.sum()
    if total == 0:
        return 0.0
    shares = values[values > 0] / total
    return float(np.exp(-np.sum(shares * np.log(shares))))


def _gram(matrix: Stored) -> Array:
    """Compute matrix^T matrix for a matrix [rows, columns] with few columns."""
    columns = matrix.shape[1]
    gram = np.zeros((columns, columns))
    for block in _blocks(matrix):
        gram += block.T @ block
    return gram


def _product_norm(matrix: Stored, vector: Array, added: Stored) -> float:
    """Compute the Euclidean norm of matrix @ vector + added."""
    squares, start = 0.0, 0
    for block in _blocks(matrix):
        stop = start + len(block)
        squares += float(np.sum((block @ vector + _float64(added[start:stop])) ** 2))
        start = stop
    return float(np.sqrt(squares))


def _blocks(matrix: Stored) -> Iterator[Array]:
    """Yield the rows in order, some at a time."""
    rows = max(1, _BLOCK_ELEMENTS // matrix.shape[1])
    for start in range(0, len(matrix), rows):
        yield _float64(matrix[start : start + rows])


def _float64(stored: Stored) -> Array:
    if stored.dtype.kind == "u":  # bfloat16 is the upper half of a float32
        stored = (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float64)


def _open(payload: Path, manifest: Manifest) -> dict[str, Stored]:
    with payload.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(header_bytes))
    return {
        name: np.memmap(
            payload,
            dtype=_DTYPES[spec.dtype],
            mode="r",
            offset=8 + header_bytes + header[name]["data_offsets"][0],
            shape=spec.shape,
        )
        for name, spec in manifest.tensors.items()
    }


def _rounded(value: float) -> float:
    """Round to 6 significant digits, which are enough for comparisons."""
    return float(f"{value:.6g}")

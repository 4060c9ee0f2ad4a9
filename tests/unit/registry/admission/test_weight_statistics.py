"""Statistics of weights, compared with full singular value decompositions in float64."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapterdistill.registry.admission import weight_statistics
from adapterdistill.registry.admission.weight_statistics import (
    WeightStatistics,
    effective_rank,
    measure,
    singular_values,
)
from tests.unit.registry.samples import (
    HIDDEN,
    LAYERS,
    Arrays,
    arrays,
    encoder_fields,
    manifest_of,
    payload_of,
    raw_payload,
)


def measured(tensors: Arrays, folder: Path) -> WeightStatistics:
    layers, _, hidden = tensors["down.weight"].shape
    encoder = encoder_fields() | {"hidden_size": hidden, "num_layers": layers}
    payload = payload_of(tensors)
    path = folder / "payload"
    path.write_bytes(payload)
    return measure(path, manifest_of(payload, tensors, encoder=encoder))


def expected(tensors: Arrays) -> WeightStatistics:
    """Compute the formulas literally, with hidden x hidden matrices."""
    norms, ranks, offsets = [], [], []
    wide = {name: array.astype(np.float64) for name, array in tensors.items()}
    for down, up, b, c in zip(
        wide["down.weight"], wide["up.weight"], wide["down.bias"], wide["up.bias"], strict=True
    ):
        product = up @ down
        norms.append(np.sqrt((product**2).sum()))
        values = np.linalg.svd(product, compute_uv=False)
        shares = values[values > 1e-12 * values.max()] / values.sum()
        ranks.append(math.exp(-sum(share * math.log(share) for share in shares)))
        offsets.append(np.linalg.norm(up @ np.where(b > 0, b, 0) + c))
    return WeightStatistics(
        hidden_size=wide["down.weight"].shape[2],
        bottleneck_size=wide["down.weight"].shape[1],
        norms=tuple(norms),
        effective_ranks=tuple(ranks),
        offsets=tuple(offsets),
    )


def assert_close(found: WeightStatistics, wanted: WeightStatistics) -> None:
    assert (found.hidden_size, found.bottleneck_size) == (
        wanted.hidden_size,
        wanted.bottleneck_size,
    )
    for field in ("norms", "effective_ranks", "offsets"):
        np.testing.assert_allclose(getattr(found, field), getattr(wanted, field), rtol=2e-5)


@pytest.mark.parametrize(
    ("layers", "bottleneck", "hidden"), [(2, 3, 8), (6, 24, 96), (1, 1, 1), (3, 9, 4), (2, 5, 5)]
)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_statistics_equal_the_full_decomposition(
    layers: int, bottleneck: int, hidden: int, dtype: str, tmp_path: Path
) -> None:
    random = np.random.default_rng(layers)
    tensors = {
        "down.weight": random.normal(size=(layers, bottleneck, hidden)).astype(dtype),
        "down.bias": random.normal(size=(layers, bottleneck)).astype(dtype),
        "up.weight": random.normal(size=(layers, hidden, bottleneck)).astype(dtype),
        "up.bias": random.normal(size=(layers, hidden)).astype(dtype),
    }
    assert_close(measured(tensors, tmp_path), expected(tensors))


def test_bfloat16_is_read_as_the_values_that_it_stands_for(tmp_path: Path) -> None:
    upper = {name: array.view("u4") >> 16 for name, array in arrays().items()}
    meant: Arrays = {name: (half << 16).view("f4") for name, half in upper.items()}
    header, data = {}, b""
    for name, half in upper.items():
        content = half.astype("<u2").tobytes()
        span = [len(data), len(data) + len(content)]
        header[name] = {"dtype": "BF16", "shape": list(half.shape), "data_offsets": span}
        data += content
    payload = raw_payload(header, data)
    (tmp_path / "payload").write_bytes(payload)
    specs = {name: {"dtype": "BF16", "shape": half.shape} for name, half in upper.items()}
    found = measure(tmp_path / "payload", manifest_of(payload, tensors=specs))
    assert_close(found, expected(meant))


def test_blocks_of_a_wide_layer_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measured(arrays(4), tmp_path)
    monkeypatch.setattr(
        weight_statistics, "_BLOCK_ELEMENTS", 7
    )  # two rows a block, and a rest of none
    assert_close(measured(arrays(4), tmp_path), whole)


def test_moving_scale_between_up_and_down_changes_no_statistic(tmp_path: Path) -> None:
    tensors = arrays(5)
    before = measured(tensors, tmp_path)
    scale = np.array([0.01, 1, 300], "float32")
    tensors["down.weight"] *= scale[:, None]
    tensors["down.bias"] *= scale
    tensors["up.weight"] /= scale
    assert_close(measured(tensors, tmp_path), before)


def test_a_layer_of_zeros_has_norm_and_rank_zero(tmp_path: Path) -> None:
    tensors = arrays(6)
    tensors["up.weight"][0] = 0
    tensors["up.bias"][0] = 0
    found = measured(tensors, tmp_path)
    assert (found.norms[0], found.effective_ranks[0], found.offsets[0]) == (0, 0, 0)
    assert found.norms[1] > 0


def test_the_largest_values_stay_finite(tmp_path: Path) -> None:
    tensors = {name: np.full_like(a, np.finfo("f4").max) for name, a in arrays().items()}
    found = measured(tensors, tmp_path)
    values = (*found.norms, *found.effective_ranks, *found.offsets)
    assert all(map(math.isfinite, values))
    assert WeightStatistics.model_validate_json(found.canonical_json()) == found


@given(
    bottleneck=st.integers(1, 6),
    hidden=st.integers(1, 12),
    rank=st.integers(0, 6),
    exponent=st.integers(-6, 6),
    seed=st.integers(0, 1000),
)
@settings(max_examples=100, deadline=None)
def test_singular_values_of_any_product_are_those_of_the_decomposition(
    bottleneck: int, hidden: int, rank: int, exponent: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    up: Any = random.normal(size=(hidden, rank)) @ random.normal(size=(rank, bottleneck))
    down: Any = random.normal(size=(bottleneck, hidden)) * 10.0**exponent
    wanted = np.linalg.svd(up @ down, compute_uv=False)
    found = np.sort(singular_values(up, down))[::-1]
    np.testing.assert_allclose(
        found, wanted[: len(found)], rtol=1e-5, atol=1e-7 * max(wanted, default=0)
    )


def test_effective_rank_is_between_one_direction_and_all() -> None:
    assert effective_rank(np.array([3.0, 0, 0])) == pytest.approx(1)
    assert effective_rank(np.ones(7)) == pytest.approx(7)
    assert effective_rank(np.zeros(3)) == 0
    assert effective_rank(np.array([2.0, 1.0])) == pytest.approx(
        math.exp(math.log(3) - 2 / 3 * math.log(2))
    )


def test_samples_have_one_value_a_layer(tmp_path: Path) -> None:
    found = measured(arrays(), tmp_path)
    assert found.hidden_size == HIDDEN
    assert {len(found.norms), len(found.effective_ranks), len(found.offsets)} == {LAYERS}

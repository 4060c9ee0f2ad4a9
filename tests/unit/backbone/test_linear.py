"""Prepared products equal the plain ones, rows do not notice each other, and gradients stay."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from adapterdistill.adapters import AdapterStack, BottleneckAdapter
from adapterdistill.backbone import Encoder, load_encoder, pack
from adapterdistill.backbone import linear as linear_module
from adapterdistill.backbone.linear import FrozenLinear, multiplies_int8, packs, quantised
from adapterdistill.backbone.resolve import _cpu_has_bf16
from adapterdistill.checkpoint import check_probe_rows, golden_vectors, probe_rows, prove_active
from adapterdistill.errors import ConfigError, EncoderMismatchError
from adapterdistill.testbed.random_adapters import random_adapters
from tests.tiny_encoders import random_adapter, random_rows, save_tiny_encoder

LENGTHS = [7, 1, 19, 7, 2, 33, 7]


def has_vnni() -> bool:
    file = Path("/proc/cpuinfo")
    text = file.read_text() if file.exists() else ""
    return any(flag in text for flag in ("avx512_vnni", "avx_vnni", "amx_int8"))


needs_int8 = pytest.mark.skipif(not has_vnni(), reason="this processor has neither VNNI nor AMX")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_encoder(tmp_path_factory.mktemp("encoder")))


@pytest.fixture
def without_operators(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A torch that lacks the operators."""
    for asked in (packs, multiplies_int8):
        asked.cache_clear()
    monkeypatch.setattr(linear_module, "_has", lambda *names: False)
    yield
    for asked in (packs, multiplies_int8):
        asked.cache_clear()


def parts(inputs: int, outputs: int, rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(inputs + outputs)
    return (
        torch.randn(rows, inputs, generator=generator).bfloat16(),
        torch.randn(outputs, inputs, generator=generator).bfloat16(),
        torch.randn(outputs, generator=generator).bfloat16(),
    )


@pytest.mark.skipif(not _cpu_has_bf16(), reason="this processor does not compute in bfloat16")
def test_the_installed_torch_multiplies_by_packed_matrices() -> None:
    assert packs(), f"torch {torch.__version__}: mkldnn's operators changed; see backbone/linear.py"


@needs_int8
def test_the_installed_torch_multiplies_in_int8() -> None:
    assert multiplies_int8(), (
        f"torch {torch.__version__}: onednn's operators changed; see backbone/linear.py"
    )


@pytest.mark.parametrize(("inputs", "outputs", "rows"), [(32, 96, 5), (384, 1152, 70), (96, 33, 1)])
def test_a_packed_product_is_the_plain_one(inputs: int, outputs: int, rows: int) -> None:
    x, weight, bias = parts(inputs, outputs, rows)
    expected = F.linear(x.double(), weight.double(), bias.double())
    with torch.no_grad():
        found = FrozenLinear(weight, bias)(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, rtol=2**-8, atol=2**-8)


def test_without_the_operators_bfloat16_takes_the_plain_path(without_operators: None) -> None:
    x, weight, bias = parts(32, 96, 5)
    frozen = FrozenLinear(weight, bias)
    assert torch.equal(frozen(x), F.linear(x, weight, bias))
    assert frozen.prepared_bytes == 0


def test_without_the_operators_int8_is_refused(without_operators: None, folder: str) -> None:
    with pytest.raises(ConfigError, match="needs a processor with VNNI or AMX, and a torch"):
        load_encoder(folder, dtype="int8")


def test_int8_is_refused_beside_a_gpu() -> None:
    with pytest.raises(ConfigError, match="runs on the CPU only, not on cuda"):
        linear_module.check_int8(torch.device("cuda"))


def test_levels_are_within_half_a_level_of_the_numbers() -> None:
    x, _, _ = parts(384, 1, 50)
    x = x * torch.logspace(-20, 20, 50)[:, None].bfloat16()
    levels, scale = quantised(x)
    found = (levels[: len(x)].double() - 128) * scale
    assert bool(((found - x.double()).abs() <= 0.501 * scale).all())
    assert torch.equal(scale, scale.bfloat16().float())


def test_a_row_of_zeros_stays_zeros_and_one_that_is_not_finite_stays_so() -> None:
    x = torch.zeros(3, 8).bfloat16()
    x[1, 2], x[2, 3] = torch.nan, torch.inf
    levels, scale = quantised(x)
    assert bool((levels[0] == 128).all())
    assert scale.isfinite().flatten().tolist() == [True, False, False]


@needs_int8
def test_an_int8_product_is_that_of_the_rounded_numbers() -> None:
    x, weight, bias = parts(384, 96, 70)
    by_output = weight.double().abs().amax(1, keepdim=True) / 127
    by_token = (x.double().abs().amax(1, keepdim=True) / 127).bfloat16().double()
    rounded = (x.double() / by_token).round() * by_token
    expected = rounded @ ((weight.double() / by_output).round() * by_output).T + bias.double()
    with torch.no_grad():
        found = FrozenLinear(weight, bias, int8=True)(x)
    # A number that lies between two levels may be rounded to either.
    torch.testing.assert_close(found.double(), expected, rtol=2**-6, atol=0.25)
    exact = F.linear(x.double(), weight.double(), bias.double())
    assert float((found.double() - exact).norm() / exact.norm()) < 0.02


@needs_int8
@torch.no_grad()
def test_in_int8_a_row_has_the_same_bits_in_every_batch() -> None:
    x, weight, bias = parts(384, 96, 70)
    frozen = FrozenLinear(weight, bias, int8=True)
    together = frozen(x)
    for rows in (slice(0, 1), slice(3, 9), slice(69, 70)):
        assert torch.equal(frozen(x[rows]), together[rows])


@needs_int8
def test_in_int8_each_row_of_a_mixed_batch_has_its_own_adapter(folder: str) -> None:
    encoder = load_encoder(folder, dtype="int8")
    assert encoder.precision == "int8"
    adapters = [random_adapter(encoder, seed=seed) for seed in range(3)]
    stack = AdapterStack.of(adapters, dtype=encoder.dtype)
    rows = random_rows(LENGTHS)
    slots = [n % 3 for n in range(len(rows))]
    with torch.inference_mode():
        tokens = pack(rows)
        together = encoder.embed(tokens, stack.mixed(torch.tensor(slots), tokens))
        for row, slot in enumerate(slots):
            alone = encoder.embed(pack([rows[row]]), stack.only(slot).mean())[0]
            torch.testing.assert_close(together[row], alone, rtol=0, atol=0.02)


@needs_int8
def test_int8_is_near_float32_and_leaves_training_as_it_is(folder: str) -> None:
    exact, int8 = (load_encoder(folder, dtype=dtype) for dtype in ("float32", "int8"))
    tokens = pack(random_rows(LENGTHS))
    with torch.no_grad():
        apart = (int8.embed(tokens) - exact.embed(tokens)).norm(dim=1)
    assert 0 < float(apart.max()) < 0.1
    plain = load_encoder(folder, dtype=str(int8.dtype).removeprefix("torch."))
    gradients = []
    for encoder in (plain, int8):
        adapter = random_adapter(exact, seed=1).requires_grad_()
        encoder.embed(tokens, adapter)[:, 0].sum().backward()
        gradients.append(adapter.up_weight.grad)
    assert gradients[0] is not None and bool(gradients[0].any())
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


@needs_int8
def test_in_int8_adapters_are_proven_active_and_another_is_refused(minilm: Encoder) -> None:
    int8 = load_encoder(dtype="int8")
    first, second = random_adapters(minilm, 2)
    golden = [golden_vectors(minilm, adapter) for adapter in (first, second)]
    prove_active(int8, first, golden[0])
    rows = probe_rows(int8, golden[0])
    check_probe_rows(int8, golden[0], int8.embed_ids(rows, first))
    with pytest.raises(EncoderMismatchError):
        check_probe_rows(int8, golden[0], int8.embed_ids(rows))
    for wrong in (second, BottleneckAdapter.new(6, 384, 4, seed=0)):
        with pytest.raises(EncoderMismatchError, match=r"tolerance 0\.05"):
            prove_active(int8, wrong, golden[0])


def test_prepared_copies_are_counted_once_for_layers_that_share_weights(tmp_path: Path) -> None:
    folder = save_tiny_encoder(tmp_path, family="albert")
    exact, half = (load_encoder(str(folder), dtype=dtype) for dtype in ("float32", "bfloat16"))
    layer = half.weights.layers[0]
    matrices = (layer.qkv_weight, layer.attention_weight, layer.up_weight, layer.down_weight)
    prepared = sum(matrix.nbytes for matrix in matrices) if packs() else 0
    assert half.num_layers > 1
    assert exact.num_bytes == 2 * (half.num_bytes - prepared)

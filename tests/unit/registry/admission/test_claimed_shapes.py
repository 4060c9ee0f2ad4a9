"""Admission: which shapes and encoders a manifest may claim."""

import pytest

from adapterdistill.errors import EncoderMismatchError, InvalidManifestError
from adapterdistill.registry.admission.admission import (
    MAX_BOTTLENECK,
    MAX_LAYERS,
    Limits,
    check_manifest,
)
from tests.unit.registry.samples import BOTTLENECK, HIDDEN, LAYERS, encoder_fields, sample


def test_registry_of_one_encoder_refuses_all_others() -> None:
    manifest, _ = sample()
    check_manifest(manifest, Limits(encoder_weights_sha256="a" * 64))
    said = f"serves encoder {'e' * 12}, the adapter belongs to {'a' * 12}$"
    with pytest.raises(EncoderMismatchError, match=said):
        check_manifest(manifest, Limits(encoder_weights_sha256="e" * 64))


@pytest.mark.parametrize(
    ("layers", "bottleneck", "fits"),
    [
        (MAX_LAYERS, MAX_BOTTLENECK, True),
        (1, 1, True),
        (MAX_LAYERS + 1, 1, False),
        (1, MAX_BOTTLENECK + 1, False),
    ],
)
def test_layers_and_bottleneck_are_bounded(layers: int, bottleneck: int, fits: bool) -> None:
    shapes = {
        "down.weight": (layers, bottleneck, HIDDEN),
        "down.bias": (layers, bottleneck),
        "up.weight": (layers, HIDDEN, bottleneck),
        "up.bias": (layers, HIDDEN),
    }
    tensors = {name: {"dtype": "F32", "shape": shape} for name, shape in shapes.items()}
    golden = sample()[0].golden.model_dump() | {"distances": (0.5,) * layers}
    encoder = encoder_fields() | {"num_layers": layers}
    manifest, _ = sample(tensors=tensors, encoder=encoder, golden=golden)
    if fits:
        check_manifest(manifest, Limits())
        return
    with pytest.raises(InvalidManifestError, match=f"{layers} layers .* of {bottleneck};"):
        check_manifest(manifest, Limits())


def test_fusion_cannot_be_published() -> None:
    manifest, _ = sample(kind="fusion")
    with pytest.raises(InvalidManifestError, match="fusion"):
        check_manifest(manifest, Limits())


NO_BOTTLENECK = r"^down\.weight must have shape \(layers, bottleneck, hidden\)$"
NAMES = r"exactly the tensors down\.bias, down\.weight, up\.bias, up\.weight; the manifest has"


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("down.weight", None, NO_BOTTLENECK),
        ("down.weight", (HIDDEN,), NO_BOTTLENECK),
        ("down.weight", (BOTTLENECK, HIDDEN), NO_BOTTLENECK),
        ("down.weight", (LAYERS, 0, HIDDEN), NO_BOTTLENECK),
        ("down.weight", (LAYERS, -1, HIDDEN), NO_BOTTLENECK),
        ("down.weight", (LAYERS, BOTTLENECK, HIDDEN + 1), r"down\.weight: expected .* \(2, 3, 8\)"),
        ("down.weight", (LAYERS + 1, BOTTLENECK, HIDDEN), r"down\.weight: .* got \(3, 3, 8\)$"),
        (
            "down.bias",
            (LAYERS, BOTTLENECK + 1),
            r"down\.bias: expected shape \(2, 3\) for 2 layers",
        ),
        ("up.weight", (LAYERS, BOTTLENECK, HIDDEN), r"up\.weight: .* of hidden size 8,"),
        ("up.bias", (LAYERS * HIDDEN,), r"up\.bias: expected shape \(2, 8\) .* got \(16,\)$"),
        ("up.bias", None, f"{NAMES} 3, of which 3 have these names$"),
        ("more", (1,), f"{NAMES} 5, of which 4 have these names$"),
    ],
)
def test_tensors_that_do_not_fit_the_encoder_are_refused(
    name: str, shape: tuple[int, ...] | None, said: str
) -> None:
    manifest, _ = sample()
    tensors = {key: spec.model_dump() for key, spec in manifest.tensors.items() if key != name}
    if shape is not None:
        tensors[name] = {"dtype": "F32", "shape": shape}
    with pytest.raises(InvalidManifestError, match=said):
        check_manifest(sample(tensors=tensors)[0], Limits())

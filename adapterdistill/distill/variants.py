"""Variants as payloads: safetensors with the settings as metadata; equal variants, equal bytes."""

import json

import safetensors.torch
from safetensors import SafetensorError

from adapterdistill.backbone import Encoder
from adapterdistill.checkpoint import metadata_of, pack_adapter
from adapterdistill.distill.method import Trained, Variant, VariantSettings
from adapterdistill.distill.methods import METHODS
from adapterdistill.errors import ConfigError, InvalidPayloadError
from adapterdistill.manifest import canonical_json

_METADATA = "served_form"  # the written key, which servers read


def pack_variant(variant: Variant) -> bytes:
    """The variant's payload."""
    state = variant.model.state_dict()
    tensors = {name: t.detach().cpu().contiguous() for name, t in state.items()}
    settings = canonical_json(variant.settings.model_dump(mode="json")).decode()
    return safetensors.torch.save(tensors, {_METADATA: settings})


def pack_trained(trained: Trained, encoder: Encoder) -> bytes:
    """The payload of what a stage leaves."""
    if isinstance(trained, Variant):
        return pack_variant(trained)
    return pack_adapter(trained, model_name=encoder.ref.name)


_MALFORMED = (
    *(SafetensorError, ValueError, KeyError, TypeError, AttributeError),
    *(OverflowError, RecursionError),
)
"""What bytes that are no variant raise where they are parsed."""


def unpack_variant(payload: bytes, encoder: Encoder) -> Variant:
    """The frozen variant in a payload, on the encoder's device.

    Raises:
        InvalidPayloadError: not safetensors, settings that are missing, malformed or not for this
            encoder, or other tensors than the settings say.
    """
    try:
        tensors = safetensors.torch.load(payload)
        settings = _settings(metadata_of(payload, _METADATA) or "")
    except _MALFORMED:  # pydantic's errors are ValueErrors
        raise InvalidPayloadError("payload is not a variant of an adapter") from None
    try:
        model = settings.new(encoder, seed=0)
    except (ConfigError, OverflowError) as error:  # a size that no tensor can have
        raise InvalidPayloadError(f"variant does not fit the encoder: {error}") from None
    expected = {name: (t.dtype, t.shape) for name, t in model.state_dict().items()}
    if {name: (t.dtype, t.shape) for name, t in tensors.items()} != expected:
        raise InvalidPayloadError(f"variant has other tensors than its kind, {settings.kind}")
    if not all(bool(t.isfinite().all()) for t in tensors.values()):
        raise InvalidPayloadError("variant holds a tensor that is not finite")
    model.load_state_dict(tensors)
    return Variant(settings, settings.frozen(model))


def _settings(text: str) -> VariantSettings:
    """Raises KeyError, TypeError or ValueError if these are not a variant's settings."""
    kind = METHODS[json.loads(text)["kind"]].variant
    if kind is None:
        raise ValueError("this method makes no variant")
    return kind.model_validate_json(text)

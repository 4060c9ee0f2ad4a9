"""An independent judge of accepted uploads, written apart from the registry's admission.

It shares no code with `adapterdistill.registry` nor with `adapterdistill.manifest`: plain JSON,
the safetensors library and numpy.
"""

import hashlib
import json
import math
import re
from typing import Any

import numpy as np
from safetensors import deserialize

_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?")
_HEX = re.compile(r"[0-9a-f]{64}")
_VERSION = re.compile(r"tenants/([^/]*)/adapters/([^/]*)/versions/([^/]*)")
_NUMPY = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_NEEDED = {
    "schema_version", "tenant", "adapter", "version", "payload_bytes", "kind", "task", "language",
    "encoder", "tensors", "method", "config_sha256", "seed", "metrics", "teachers", "privacy",
    "golden",
}  # fmt: skip
_OPTIONAL = {"signature", "prototypes", "labels"}


def fault_of(name: str, manifest_json: bytes, payload: bytes) -> str | None:
    """The reason to refuse this upload; None if it is sound."""
    try:
        return _fault(name, manifest_json, payload)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"cannot be read: {type(error).__name__}"


def _fault(name: str, manifest_json: bytes, payload: bytes) -> str | None:
    manifest = json.loads(manifest_json, object_pairs_hook=_once)
    again = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    if again.encode() != manifest_json:
        return "manifest is not canonical"
    if not _NEEDED <= set(manifest) <= _NEEDED | _OPTIONAL:
        return "manifest lacks fields or has unknown ones"
    digest = hashlib.sha256(payload).hexdigest()
    if manifest["version"] != digest or type(manifest["payload_bytes"]) is not int:
        return "version is not the payload's sha256"
    if manifest["payload_bytes"] != len(payload):
        return "payload_bytes is not the payload's length"
    if name != f"tenants/{manifest['tenant']}/adapters/{manifest['adapter']}/versions/{digest}":
        return "name is not the manifest's"
    if not all(_is_name(manifest[key]) for key in ("tenant", "adapter")):
        return "tenant or adapter is no name"
    if manifest["schema_version"] != 1 or manifest["kind"] != "bottleneck":
        return "schema or kind is unknown"
    if not _HEX.fullmatch(manifest["config_sha256"]) or type(manifest["seed"]) is not int:
        return "digest or seed is malformed"
    for teacher in manifest["teachers"]:
        found = _VERSION.fullmatch(teacher)
        if (
            not found
            or not _is_name(found[1])
            or not _is_name(found[2])
            or not _HEX.fullmatch(found[3])
        ):
            return "a teacher is no version"
    labels = manifest.get("labels", ["a"])
    if not 0 < len(labels) <= 16 or not all(map(_is_name, labels)):
        return "a label is malformed"
    limits = {"task": 40, "language": 20, "method": 60, "privacy": 2000}
    if any(
        len(manifest[key]) > most or type(manifest[key]) is not str for key, most in limits.items()
    ):
        return "a text is too long"
    for metric in manifest["metrics"].values():
        if set(metric) != {"value", "count"} or type(metric["count"]) is not int:
            return "a metric is malformed"
        if metric["count"] < 0 or not math.isfinite(metric["value"]):
            return "a metric is malformed"
    golden = manifest["golden"]
    if set(golden) != {"probe_sha256", "distances", "tolerance"} or not golden["tolerance"] > 0:
        return "golden vectors are malformed"
    if not all(map(math.isfinite, [*golden["distances"], golden["tolerance"]])):
        return "golden vectors are malformed"
    return _payload_fault(manifest, payload)


def _payload_fault(manifest: dict[str, Any], payload: bytes) -> str | None:
    encoder = manifest["encoder"]
    layers, hidden = encoder["num_layers"], encoder["hidden_size"]
    if not all(type(size) is int and size > 0 for size in (layers, hidden)):
        return "encoder sizes are malformed"
    if not all(_HEX.fullmatch(encoder[key]) for key in ("weights_sha256", "tokenizer_sha256")):
        return "encoder digests are malformed"
    try:
        tensors = dict(deserialize(payload))  # type: ignore[no-untyped-call]  # has no types
    except Exception:
        return "safetensors cannot read the payload"
    if set(tensors) != set(manifest["tensors"]):
        return "payload and manifest have other tensors"
    header = json.loads(payload[8 : 8 + int.from_bytes(payload[:8], "little")])
    if not set(header.get("__metadata__", {})) <= {"adapter_config"}:
        return "payload has other metadata"
    for name, tensor in tensors.items():
        declared = manifest["tensors"][name]
        if set(declared) != {"dtype", "shape"} or tensor["dtype"] not in _NUMPY:
            return "a tensor's declaration is malformed"
        if [tensor["dtype"], list(tensor["shape"])] != [declared["dtype"], declared["shape"]]:
            return "a tensor is not as declared"
        values = np.frombuffer(bytes(tensor["data"]), _NUMPY[tensor["dtype"]])
        if tensor["dtype"] == "BF16":
            values = (values.astype("<u4") << 16).view("<f4")
        if values.size != math.prod(tensor["shape"]) or not np.isfinite(values).all():
            return "a tensor has NaN, infinity or another size"
    bottleneck = tensors["down.weight"]["shape"][1]
    expected = {
        "down.weight": [layers, bottleneck, hidden], "down.bias": [layers, bottleneck],
        "up.weight": [layers, hidden, bottleneck], "up.bias": [layers, hidden],
    }  # fmt: skip
    if {name: list(tensor["shape"]) for name, tensor in tensors.items()} != expected:
        return "shapes are not a bottleneck adapter's"
    return None


def _is_name(text: object) -> bool:
    return isinstance(text, str) and len(text) <= 63 and _NAME.fullmatch(text) is not None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key occurs twice")
    return dict(pairs)

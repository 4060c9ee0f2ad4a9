"""Admission: what a payload may hold, compared with the safetensors library and with numpy."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load

from adapterdistill.errors import (
    InvalidManifestError,
    InvalidPayloadError,
    PayloadTooLargeError,
)
from adapterdistill.manifest import Manifest
from adapterdistill.registry.admission.admission import (
    MAX_HEADER_BYTES,
    MAX_MANIFEST_BYTES,
    Limits,
    check_manifest,
    check_payload,
    parse_manifest,
)
from tests.unit.registry.samples import (
    LAYERS,
    arrays,
    encoder_fields,
    manifest_of,
    payload_of,
    raw_payload,
    sample,
)


def admit(payload: bytes, manifest: Manifest, folder: Path) -> None:
    path = folder / "payload"
    path.write_bytes(payload)
    check_manifest(manifest, Limits())
    check_payload(path, manifest)


def typed_payload(dtype: str, down_bias: bytes | None = None) -> tuple[bytes, Manifest]:
    """All tensors of one dtype, made without the library; zeros but for `down_bias`."""
    item = 4 if dtype == "F32" else 2
    header: dict[str, Any] = {}
    data = b""
    for name, array in arrays().items():
        content = bytes(array.size * item)
        if name == "down.bias" and down_bias is not None:
            content = down_bias + content[len(down_bias) :]
        span = [len(data), len(data) + len(content)]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": span}
        data += content
    payload = raw_payload(header, data)
    specs = {name: {"dtype": dtype, "shape": a.shape} for name, a in arrays().items()}
    return payload, manifest_of(payload, tensors=specs)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_each_allowed_dtype_is_admitted(dtype: str, tmp_path: Path) -> None:
    payload, manifest = typed_payload(dtype)
    admit(payload, manifest, tmp_path)


def test_what_the_library_writes_is_admitted(tmp_path: Path) -> None:
    manifest, payload = sample()
    admit(payload, manifest, tmp_path)


# Largest finite value, then NaN, infinity and minus infinity, little-endian.
BIT_PATTERNS = {
    "F32": ("ffff7f7f", ["0000c07f", "0000807f", "000080ff", "010080ff"]),
    "F16": ("ff7b", ["007e", "007c", "00fc", "01fc"]),
    "BF16": ("7f7f", ["c07f", "807f", "80ff", "81ff"]),
}


@pytest.mark.parametrize("dtype", BIT_PATTERNS)
def test_largest_finite_value_is_admitted(dtype: str, tmp_path: Path) -> None:
    payload, manifest = typed_payload(dtype, bytes.fromhex(BIT_PATTERNS[dtype][0]))
    admit(payload, manifest, tmp_path)


@pytest.mark.parametrize(
    ("dtype", "bits"), [(dtype, bits) for dtype, (_, bad) in BIT_PATTERNS.items() for bits in bad]
)
def test_nan_and_infinity_are_refused_in_every_dtype(dtype: str, bits: str, tmp_path: Path) -> None:
    payload, manifest = typed_payload(dtype, bytes.fromhex(bits))
    with pytest.raises(InvalidPayloadError, match=r"down\.bias: holds NaN or infinity"):
        admit(payload, manifest, tmp_path)


def test_nan_in_the_last_of_many_pieces_is_found(tmp_path: Path) -> None:
    hidden, bottleneck = 512, 320
    tensors = {
        "down.weight": np.zeros((LAYERS, bottleneck, hidden), "float32"),
        "down.bias": np.zeros((LAYERS, bottleneck), "float32"),
        "up.weight": np.zeros((LAYERS, hidden, bottleneck), "float32"),
        "up.bias": np.zeros((LAYERS, hidden), "float32"),
    }
    encoder = encoder_fields() | {"hidden_size": hidden}
    payload = payload_of(tensors)
    admit(payload, manifest_of(payload, tensors, encoder=encoder), tmp_path)
    tensors["up.weight"][-1, -1, -1] = np.nan
    payload = payload_of(tensors)
    with pytest.raises(InvalidPayloadError, match=r"up\.weight"):
        admit(payload, manifest_of(payload, tensors, encoder=encoder), tmp_path)


def test_pickles_and_zips_are_refused_and_named(tmp_path: Path) -> None:
    for protocol in range(2, 6):
        payload = pickle.dumps(list(range(100)), protocol=protocol)
        with pytest.raises(InvalidPayloadError, match=r"pickle.*only safetensors"):
            admit(payload, manifest_of(payload), tmp_path)
    archive = tmp_path / "archive"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("data.pkl", b"anything")
    payload = archive.read_bytes()
    with pytest.raises(InvalidPayloadError, match=r"zip archive.*only safetensors"):
        admit(payload, manifest_of(payload), tmp_path)


def entry(dtype: str = "F32", shape: object = (4,), offsets: object = (0, 16)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


GOOD_HEADER = {
    "down.weight": entry(shape=[2, 3, 8], offsets=[0, 192]),
    "down.bias": entry(shape=[2, 3], offsets=[192, 216]),
    "up.weight": entry(shape=[2, 8, 3], offsets=[216, 408]),
    "up.bias": entry(shape=[2, 8], offsets=[408, 472]),
}
ZEROS = bytes(472)


def of_up_bias(shape: object, offsets: object, data_bytes: int = 472) -> bytes:
    header = GOOD_HEADER | {"up.bias": entry(shape=shape, offsets=offsets)}
    return raw_payload(header, bytes(data_bytes))


def test_hand_written_header_is_admitted(tmp_path: Path) -> None:
    payload = raw_payload(GOOD_HEADER, ZEROS)
    admit(payload, manifest_of(payload), tmp_path)


NO_JSON = "^safetensors header is not valid JSON$"
MALFORMED = r"up\.bias: malformed safetensors shape"
NO_HEADER = "^payload is not safetensors: no header at its start$"
GAPS = "^safetensors tensors overlap or leave gaps$"
UNKNOWN = "metadata may hold only texts named adapter_config$"
# Each with what is said of it.
BAD_PAYLOADS = {
    "nothing": (b"\0", NO_HEADER),
    "noise": (b"these are not weights, but words", NO_HEADER),
    "truncated": (raw_payload(GOOD_HEADER, ZEROS)[:-1], "take 472 bytes, the payload holds 471"),
    "trailing byte": (raw_payload(GOOD_HEADER, ZEROS + b"\0"), "take 472 bytes.* holds 473"),
    "header alone": (raw_payload({}, b""), "payload has 0 tensors"),
    "header longer than file": ((3).to_bytes(8, "little") + b"{}", NO_HEADER),
    "header far longer than file": ((1 << 40).to_bytes(8, "little") + b"{}", NO_HEADER),
    "header too long": (
        raw_payload({"__metadata__": {"adapter_config": "x" * 70_000}}, ZEROS),
        f"header of 700.. bytes; at most {MAX_HEADER_BYTES}",
    ),
    "not json": (raw_payload(b"{" + b"?" * 20, ZEROS), NO_JSON),
    "deeply nested": (raw_payload(b'{"a":' + b"[" * 30_000, ZEROS), NO_JSON),
    "not utf-8": (raw_payload(b'{"\xff":1}', ZEROS), NO_JSON),
    "key twice": (raw_payload(b'{"up.bias":1,"up.bias":1}', ZEROS), NO_JSON),
    "extra tensor": (
        raw_payload(GOOD_HEADER | {"extra": entry(offsets=[472, 488])}, bytes(488)),
        "payload has 5 tensors, of which 4 are among the 4 of its manifest",
    ),
    "lacking tensor": (
        raw_payload(
            {name: GOOD_HEADER[name] for name in ("down.weight", "down.bias", "up.weight")}, ZEROS
        ),
        "payload has 3 tensors, of which 3 are among the 4",
    ),
    "unknown metadata": (
        raw_payload(GOOD_HEADER | {"__metadata__": {"note": "hello"}}, ZEROS),
        UNKNOWN,
    ),
    "metadata no object": (raw_payload(GOOD_HEADER | {"__metadata__": ["x"]}, ZEROS), UNKNOWN),
    "metadata no text": (
        raw_payload(GOOD_HEADER | {"__metadata__": {"adapter_config": {"a": 1}}}, ZEROS),
        UNKNOWN,
    ),
    "half a character": (
        raw_payload(GOOD_HEADER | {"__metadata__": {"adapter_config": '{"a":"\ud800"}'}}, ZEROS),
        "^payload refused by the safetensors library$",
    ),
    "settings nested deeply": (
        raw_payload(GOOD_HEADER | {"__metadata__": {"adapter_config": "[" * 30_000}}, ZEROS),
        "^adapter_config in the safetensors metadata is not valid JSON$",
    ),
    "settings no object": (
        raw_payload(GOOD_HEADER | {"__metadata__": {"adapter_config": "[1]"}}, ZEROS),
        "^adapter_config in the safetensors metadata is not a JSON object$",
    ),
    "entry no object": (raw_payload(GOOD_HEADER | {"up.bias": 7}, ZEROS), "malformed.* entry"),
    "entry with more": (
        raw_payload(
            GOOD_HEADER | {"up.bias": entry(shape=[2, 8], offsets=[408, 472]) | {"x": 1}}, ZEROS
        ),
        r"up\.bias: malformed safetensors entry",
    ),
    "boolean shape": (of_up_bias([True, 8], [408, 472]), MALFORMED),
    "negative shape": (of_up_bias([-2, -8], [408, 472]), MALFORMED),
    "shape no list": (of_up_bias(16, [408, 472]), MALFORMED),
    "fractional offset": (of_up_bias([2, 8], [408.0, 472]), MALFORMED),
    "infinite offset": (of_up_bias([2, 8], [408, float("inf")]), NO_JSON),
    "three offsets": (of_up_bias([2, 8], [408, 472, 472]), MALFORMED),
    "overlap": (of_up_bias([2, 8], [400, 464], 464), GAPS),
    "gap": (of_up_bias([2, 8], [412, 476], 476), GAPS),
    "span of another size": (of_up_bias([2, 8], [408, 476], 476), r"up\.bias: expected 64 bytes"),
    "float64": (payload_of(arrays(dtype="float64")), "differ; the manifest declares F32"),
    "transposed": (
        of_up_bias([8, 2], [408, 472]),
        r"up\.bias: payload and manifest differ; the manifest declares F32 \(2, 8\)",
    ),
}


@pytest.mark.parametrize("fault", BAD_PAYLOADS)
def test_payload_that_breaks_its_format_or_its_manifest_is_refused(
    fault: str, tmp_path: Path
) -> None:
    payload, said = BAD_PAYLOADS[fault]
    with pytest.raises(InvalidPayloadError, match=said):
        admit(payload, manifest_of(payload), tmp_path)


def test_long_header_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    payload = raw_payload(b"{" * (MAX_HEADER_BYTES + 1), ZEROS)
    with pytest.raises(InvalidPayloadError, match=f"at most {MAX_HEADER_BYTES}"):
        admit(payload, manifest_of(payload), tmp_path)


def test_the_longest_header_that_may_be_is_admitted(tmp_path: Path) -> None:
    def payload_with(note: str) -> bytes:
        return raw_payload(GOOD_HEADER | {"__metadata__": {"adapter_config": note}}, ZEROS)

    room = MAX_HEADER_BYTES + 8 + len(ZEROS) - len(payload_with("{}"))
    longest = payload_with("{}" + " " * room)
    admit(longest, manifest_of(longest), tmp_path)
    longer = payload_with("{}" + " " * (room + 1))
    with pytest.raises(InvalidPayloadError, match=f"header of {MAX_HEADER_BYTES + 1} bytes"):
        admit(longer, manifest_of(longer), tmp_path)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_mutated_payload_is_refused_or_still_holds_what_was_declared(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever bytes come: no other error, and what is admitted loads as declared and finite."""
    original = bytearray(payload_of(arrays()))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, max(len(original) - 1, 0)))
        how = data.draw(st.sampled_from(["set", "cut", "insert", "drop"]))
        if how == "set" and original:
            original[position] = data.draw(st.integers(0, 255))
        elif how == "cut":
            del original[position:]
        elif how == "insert":
            original[position:position] = data.draw(st.binary(min_size=1, max_size=12))
        else:
            del original[position : position + 8]
    payload = bytes(original)
    manifest = manifest_of(payload)
    try:
        admit(payload, manifest, tmp_path_factory.getbasetemp())
    except InvalidPayloadError:
        return
    loaded = load(payload)
    assert {name: a.shape for name, a in loaded.items()} == {
        name: spec.shape for name, spec in manifest.tensors.items()
    }
    assert all(np.isfinite(array).all() for array in loaded.values())


@settings(max_examples=200, deadline=None)
@given(header=st.binary(max_size=200), body=st.binary(max_size=600))
def test_random_headers_raise_nothing_but_invalid_payload(
    header: bytes, body: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    payload = raw_payload(b"{" + header, body)
    with pytest.raises(InvalidPayloadError):
        admit(payload, manifest_of(payload), tmp_path_factory.getbasetemp())


def test_manifest_is_taken_in_canonical_form_only() -> None:
    manifest, _ = sample()
    assert parse_manifest(manifest.canonical_json()) == manifest
    for text in (manifest.canonical_json() + b" ", manifest.model_dump_json().encode()):
        with pytest.raises(
            InvalidManifestError, match=r"^manifest refused: not in canonical JSON$"
        ):
            parse_manifest(text)
    for text in (
        b"",
        b"[" * 10_000,
        b"\xff",
        b"{}",
    ):
        with pytest.raises(InvalidManifestError):
            parse_manifest(text)


def test_huge_manifest_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(InvalidManifestError, match="bytes"):
        parse_manifest(b"[" * (MAX_MANIFEST_BYTES + 1))
    with pytest.raises(InvalidManifestError, match="invalid"):
        parse_manifest(b"[" * MAX_MANIFEST_BYTES)


def test_payload_limit_counts_what_the_manifest_declares() -> None:
    manifest, payload = sample()
    check_manifest(manifest, Limits(max_payload_bytes=len(payload)))
    with pytest.raises(PayloadTooLargeError, match=str(len(payload) - 1)):
        check_manifest(manifest, Limits(max_payload_bytes=len(payload) - 1))


def test_denormal_weights_are_refused_but_where_servers_read_them_as_normal(tmp_path: Path) -> None:
    for dtype, least in (("float32", 1e-39), ("float16", 1e-7)):
        tensors = arrays(dtype=dtype)
        tensors["up.weight"][1, 2, 0] = least
        payload = payload_of(tensors)
        if dtype == "float16":
            admit(payload, manifest_of(payload, tensors), tmp_path)
            continue
        with pytest.raises(InvalidPayloadError, match=r"^up\.weight: holds a number so small"):
            admit(payload, manifest_of(payload, tensors), tmp_path)
    tensors = arrays()
    tensors["up.weight"][:] = 0.0
    tensors["up.weight"][0, 0, 0] = -0.0
    payload = payload_of(tensors)
    admit(payload, manifest_of(payload, tensors), tmp_path)

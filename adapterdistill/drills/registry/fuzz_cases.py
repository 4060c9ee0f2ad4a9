"""Cases of the fuzzer: each is made from a seed and its number alone."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from adapterdistill.drills.registry.fuzz_statements import SOUND, SPOILT
from adapterdistill.drills.registry.mutations import (
    ODD_NUMBERS,
    ODD_TEXTS,
    dumped,
    mutated_bytes,
    mutated_json,
    odd_message,
)
from adapterdistill.manifest import sha256_hex
from adapterdistill.registry.v1 import registry_pb2 as pb
from adapterdistill.testbed.crowd import tenant_name
from adapterdistill.testbed.random_adapters import SMALL, adapter

SERVICE = pb.DESCRIPTOR.services_by_name["RegistryService"]
PUBLISH = "Publish"
_CHUNK_LIMIT = 1 << 20
_UNMUTATED_SHARE = 0.02


@dataclass(frozen=True)
class Case:
    """One call: the bytes of its messages, to which its upload's statement is still to be added.

    `kind` says how it was spoilt, `statement` what is wrong with that.
    """

    kind: str
    method: str
    messages: tuple[bytes, ...]
    statement: str = SOUND


@dataclass
class Upload:
    """A publish in parts, each of which may be spoilt."""

    manifest: Any
    payload: bytes

    def honest(self) -> "Upload":
        """Put the payload's digest and length into the manifest, if it is still an object."""
        if isinstance(self.manifest, dict):
            self.manifest["version"] = sha256_hex(self.payload)
            self.manifest["payload_bytes"] = len(self.payload)
        return self

    def name(self) -> str:
        fields = self.manifest if isinstance(self.manifest, dict) else {}
        tenant, adapter_name, version = (
            str(fields.get(key)) for key in ("tenant", "adapter", "version")
        )
        name = f"tenants/{tenant[:200]}/adapters/{adapter_name[:200]}/versions/{version[:200]}"
        return name.encode("utf-8", "replace").decode()

    def messages(
        self, *, name: str | None = None, manifest_json: bytes | None = None
    ) -> list[pb.PublishRequest]:
        header = pb.PublishHeader(
            name=self.name() if name is None else name,
            manifest_json=dumped(self.manifest) if manifest_json is None else manifest_json,
        )
        return [pb.PublishRequest(header=header), *_chunks(self.payload, _CHUNK_LIMIT)]


def _chunks(payload: bytes, size: int) -> list[pb.PublishRequest]:
    return [
        pb.PublishRequest(chunk=pb.Chunk(offset=offset, data=payload[offset : offset + size]))
        for offset in range(0, len(payload), size)
    ]


def case(seed: int, number: int) -> Case:
    """The case of this number, which depends on seed and number alone."""
    return draw_case(Random(f"{seed} {number}"), number)


def draw_case(draw: Random, number: int) -> Case:
    """Draw a case; the number gives its tenant and the names of what it publishes."""
    manifest, payload = adapter(
        SMALL, draw.randrange(2**31), tenant=tenant_name(number), name=f"a{number}"
    )
    upload = Upload(json.loads(manifest.canonical_json()), payload)
    if draw.random() < _UNMUTATED_SHARE:
        return _publish("unmutated", upload.messages())
    kind = draw.choice(list(_KINDS))
    return _KINDS[kind](kind, upload, draw)


def _publish(kind: str, messages: list[pb.PublishRequest]) -> Case:
    return Case(kind, PUBLISH, tuple(one.SerializeToString() for one in messages))


def _payload_bytes(kind: str, upload: Upload, draw: Random) -> Case:
    upload.payload = mutated_bytes(upload.payload, draw)
    # The digest catches some; the others must be caught by their content.
    return _publish(kind, (upload.honest() if draw.random() < 0.8 else upload).messages())


def _payload_values(kind: str, upload: Upload, draw: Random) -> Case:
    changed = bytearray(upload.payload)
    start = 8 + int.from_bytes(upload.payload[:8], "little")
    place = start + 4 * draw.randrange((len(changed) - start) // 4)
    changed[place : place + 4] = draw.choice(
        (b"\0\0\x80\x7f", b"\0\0\x80\xff", b"\1\0\xc0\x7f", b"\xff\xff\x7f\x7f", b"\1\0\0\0")
    )  # infinities, NaN, the largest, a subnormal
    upload.payload = bytes(changed)
    return _publish(kind, upload.honest().messages())


def _payload_header(kind: str, upload: Upload, draw: Random) -> Case:
    length = int.from_bytes(upload.payload[:8], "little")
    header, data = json.loads(upload.payload[8 : 8 + length]), upload.payload[8 + length :]
    how = draw.randrange(4)
    if how <= 1:
        text = dumped(mutated_json(header, draw))
    elif how == 2:
        text = mutated_bytes(upload.payload[8 : 8 + length], draw)
    else:
        text = upload.payload[8 : 8 + length]
        length = draw.choice((0, 1, length - 1, length + 1, 2**16, 2**31, 2**63 - 1, 2**64 - 1))
    size = length if how == 3 else len(text)
    upload.payload = size.to_bytes(8, "little") + text + data
    if how == 0 and draw.random() < 0.5:  # the manifest may say the same
        upload.manifest["tensors"] = json.loads(text)
    return _publish(kind, upload.honest().messages())


def _manifest_field(kind: str, upload: Upload, draw: Random) -> Case:
    upload.manifest = mutated_json(upload.manifest, draw)
    if draw.random() < 0.3:
        upload.honest()
    return _publish(kind, upload.messages())


def _manifest_text(kind: str, upload: Upload, draw: Random) -> Case:
    text = dumped(upload.manifest)
    how = draw.randrange(6)
    if how <= 1:
        text = mutated_bytes(text, draw)
    elif how == 2:  # equal in meaning, not in bytes
        text = json.dumps(upload.manifest, indent=draw.choice((0, 1, None))).encode()
    elif how == 3:  # a key twice
        text = b'{"seed":' + str(draw.choice(ODD_NUMBERS[:13])).encode() + b"," + text[1:]
    elif how == 4:
        depth = draw.choice((100, 2_000, 30_000))
        text = text.replace(b'"metrics":{', b'"metrics":{"a":' + b"[" * depth + b"]" * depth + b",")
    else:
        text = text + draw.choice((b" ", b"\n", b"\0", b"{}", b"," * 70_000))
    return _publish(kind, upload.messages(manifest_json=text))


def _name(kind: str, upload: Upload, draw: Random) -> Case:
    if draw.random() < 0.5:
        name = draw.choice(ODD_TEXTS).encode("utf-8", "replace").decode()
        return _publish(kind, upload.messages(name=name))
    name = mutated_bytes(upload.name().encode(), draw).decode("utf-8", "replace")
    return _publish(kind, upload.messages(name=name))


def _stream(kind: str, upload: Upload, draw: Random) -> Case:
    header, *_ = upload.messages()
    parts = [header, *_chunks(upload.payload, draw.choice((1 + len(upload.payload) // 5, 997)))]
    for _ in range(draw.choice((1, 1, 2))):
        how, place = draw.randrange(9), draw.randrange(len(parts))
        if how == 0:
            parts.insert(place, parts[place])
        elif how == 1:
            draw.shuffle(parts)
        elif how == 2 and len(parts) > 1:
            del parts[place]
        elif how == 3:
            parts = parts[: place + 1]
        elif how == 4:
            parts.append(header)
        elif how == 5:
            parts.insert(place, pb.PublishRequest())
        elif how == 6:
            offset = draw.choice((0, -1, 2**62, len(upload.payload)))
            data = draw.choice((b"", b"x", upload.payload))
            parts.insert(place, pb.PublishRequest(chunk=pb.Chunk(offset=offset, data=data)))
        elif how == 7 and draw.random() < 0.1:
            parts.insert(place, pb.PublishRequest(chunk=pb.Chunk(data=bytes(_CHUNK_LIMIT + 1))))
        else:
            parts.insert(place, odd_message(pb.PublishRequest, draw))
    return _publish(kind, parts)


def _wire(kind: str, upload: Upload, draw: Random) -> Case:
    messages = [one.SerializeToString() for one in upload.messages()]
    place = draw.randrange(len(messages))
    how = draw.randrange(3)
    if how == 0:
        messages[place] = mutated_bytes(messages[place], draw)
    elif how == 1:
        messages[place] = draw.randbytes(draw.choice((0, 1, 3, 50, 5000)))
    else:  # bytes after a whole message: unknown fields, or none
        messages[place] += draw.choice((b"\xf8\x7f\x01", b"\xfa\x7f\x03abc", draw.randbytes(9)))
    return Case(kind, PUBLISH, tuple(messages))


def _statement(kind: str, upload: Upload, draw: Random) -> Case:
    return replace(_publish(kind, upload.messages()), statement=draw.choice(SPOILT))


def _other_call(kind: str, _upload: Upload, draw: Random) -> Case:
    method = draw.choice([one for one in SERVICE.methods if one.name != PUBLISH])
    if draw.random() < 0.2:
        return Case(kind, method.name, (draw.randbytes(draw.choice((1, 3, 50, 5000))),))
    message = odd_message(method.input_type._concrete_class, draw)
    return Case(kind, method.name, (message.SerializeToString(),))


_KINDS: dict[str, Callable[[str, Upload, Random], Case]] = {
    "payload bytes": _payload_bytes,
    "payload values": _payload_values,
    "payload header": _payload_header,
    "manifest field": _manifest_field,
    "manifest text": _manifest_text,
    "name": _name,
    "stream": _stream,
    "message bytes": _wire,
    "statement": _statement,
    "other calls": _other_call,
}

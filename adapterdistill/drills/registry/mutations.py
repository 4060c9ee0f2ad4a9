"""Seeded ways to spoil JSON, bytes and protobuf messages."""

import copy
import json
import math
from collections.abc import Callable
from random import Random
from typing import Any

from google.protobuf.message import Message

_DEEP: Any = 0
for _ in range(300):
    _DEEP = [_DEEP]

ODD_TEXTS = (
    "", " ", "\x00", "a\x00b", "\ud800", "\u202eabc", "\U0001f600", "e\u0301", "A", "ä", "a/b",
    "../..", "..", ".", "-", "a" * 64, "a" * 5000, "%00", "tenants/a", "'; DROP TABLE versions; --",
    "tenants/a/adapters/b/versions/" + "0" * 64, "tenants/a/adapters/b/aliases/live",
    "tenants/../adapters/b/versions/" + "0" * 64, "0" * 63, "g" * 64, "F32", "F64", "I8", "BF16",
    "bottleneck", "fusion", "1e999", "null", "\n", "a\n",
)  # fmt: skip
ODD_NUMBERS = (
    0, -1, 1, 2, 3, 8, 2**31 - 1, 2**31, -(2**31), 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 2**64,
    10**300, 10**4000, 0.0, -0.0, 0.5, 1e-320, 1e308, -1e308, float("nan"), float("inf"),
    float("-inf"),
)  # fmt: skip
ODD_VALUES: tuple[Any, ...] = (
    *ODD_TEXTS, *ODD_NUMBERS, None, True, False, [], {}, [[]], {"": {}}, [1, "a", None], _DEEP,
    list(range(3000)), {str(number): number for number in range(1000)},
)  # fmt: skip


def mutated_json(value: Any, draw: Random) -> Any:
    """A copy in which one to three places are replaced, removed, renamed, added or nudged."""
    root = {"": copy.deepcopy(value)}
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        holder, key = draw.choice(_places(root))
        _JSON_CHANGES[draw.randrange(len(_JSON_CHANGES))](holder, key, draw)
        if "" not in root:
            root[""] = None
    return root[""]


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (holder, key or index), at most the first 500."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting and len(found) < 500:
        holder = waiting.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        for key in keys:
            found.append((holder, key))
            if isinstance(holder[key], dict | list):
                waiting.append(holder[key])
    return found


def _replace(holder: Any, key: Any, draw: Random) -> None:
    holder[key] = copy.deepcopy(draw.choice(ODD_VALUES))


def _remove(holder: Any, key: Any, _draw: Random) -> None:
    del holder[key]


def _rename(holder: Any, key: Any, draw: Random) -> None:
    if isinstance(holder, dict):
        holder[draw.choice(ODD_TEXTS)] = holder.pop(key)


def _add(holder: Any, key: Any, draw: Random) -> None:
    inside = holder[key]
    if isinstance(inside, dict):
        inside[draw.choice(ODD_TEXTS)] = draw.choice(ODD_VALUES)
    elif isinstance(inside, list):
        inside.insert(draw.randrange(len(inside) + 1), draw.choice(ODD_VALUES))


def _nudge(holder: Any, key: Any, draw: Random) -> None:
    inside = holder[key]
    if isinstance(inside, bool) or inside is None:
        holder[key] = not inside
    elif isinstance(inside, int | float):
        step = draw.choice((-1, 1, 256, 0.5))
        # An integer of hundreds of digits is beyond any float.
        holder[key] = inside + (step if abs(inside) < 2**64 else int(step))
    elif isinstance(inside, str) and inside:
        place = draw.randrange(len(inside))
        holder[key] = inside[:place] + draw.choice(("", "0", "f", "A", "/", "é")) + inside[place:]
    elif isinstance(inside, list) and inside:
        draw.shuffle(inside)
    else:
        holder[key] = [inside]


_JSON_CHANGES: tuple[Callable[[Any, Any, Random], None], ...] = (
    _replace, _replace, _remove, _rename, _add, _nudge, _nudge,
)  # fmt: skip


def mutated_bytes(data: bytes, draw: Random) -> bytes:
    """A copy in which bits are flipped and bytes cut, repeated or inserted, one to four times."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4))):
        place = draw.randrange(len(changed) + 1)
        length = draw.choice((1, 1, 2, 8, 64))
        kind = draw.randrange(6)
        if kind <= 1 and place < len(changed):
            changed[place] ^= 1 << draw.randrange(8)
        elif kind == 2:
            del changed[place:]
        elif kind == 3:
            del changed[place : place + length]
        elif kind == 4:
            changed[place:place] = draw.randbytes(length)
        else:
            changed[place:place] = changed[place : place + length]
    return bytes(changed)


def dumped(value: Any) -> bytes:
    """JSON that is canonical where it can be: it must also hold NaN and lone surrogates."""
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return text.encode()
    except (UnicodeEncodeError, ValueError, TypeError):
        pass  # lone surrogates
    return json.dumps(value, separators=(",", ":"), skipkeys=True).encode()


def odd_message(kind: Any, draw: Random, depth: int = 0) -> Message:
    """A message of this protobuf class, with fields of odd values."""
    message = kind()
    for field in message.DESCRIPTOR.fields:
        if draw.random() < 0.3:
            continue
        values = [_odd_field(field, draw, depth) for _ in range(draw.choice((1, 1, 3)))]
        values = [value for value in values if value is not None]
        if not values:
            continue
        if field.is_repeated:
            getattr(message, field.name).extend(values)
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(values[0])
        else:
            setattr(message, field.name, values[0])
    return message


def _odd_field(field: Any, draw: Random, depth: int) -> Any:
    if field.message_type is not None:
        nested = field.message_type._concrete_class
        return odd_message(nested, draw, depth + 1) if depth < 3 else nested()
    if field.cpp_type == field.CPPTYPE_STRING:
        text = draw.choice(ODD_TEXTS)
        if field.type == field.TYPE_BYTES:
            return draw.choice(
                (text.encode("utf-8", "replace"), draw.randbytes(draw.randrange(99)))
            )
        return text.encode("utf-8", "replace").decode()
    if field.cpp_type == field.CPPTYPE_BOOL:
        return draw.random() < 0.5
    if field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_ENUM):
        return draw.choice((0, 1, 2, 99, -1, 2**31 - 1, -(2**31)))
    if field.cpp_type == field.CPPTYPE_UINT32:
        return draw.choice((0, 1, 2**31, 2**32 - 1))
    if field.cpp_type == field.CPPTYPE_INT64:
        return draw.choice((0, 1, -1, 99, 2**62, 2**63 - 1, -(2**63)))
    if field.cpp_type == field.CPPTYPE_UINT64:
        return draw.choice((0, 1, 2**63, 2**64 - 1))
    return draw.choice((0.0, -1.0, 1e308, float("nan"), float("inf")))


def mutated_payload(payload: bytes, draw: Random) -> bytes:
    """A copy of a safetensors file whose header, settings, length or bytes are spoilt."""
    length = int.from_bytes(payload[:8], "little")
    header, data = json.loads(payload[8 : 8 + length]), payload[8 + length :]
    how = draw.randrange(5)
    if how == 0:
        return mutated_bytes(payload, draw)
    if how == 1:
        text = dumped(mutated_json(header, draw))
    elif how == 2:  # the settings, which are JSON within JSON
        settings = header.get("__metadata__", {})
        for key in settings:
            settings[key] = draw.choice(
                (
                    dumped(mutated_json(json.loads(settings[key]), draw)).decode(errors="replace"),
                    "[" * draw.choice((1, 1_000, 15_000)),
                    draw.choice(ODD_TEXTS).encode("utf-8", "replace").decode(),
                )
            )
        text = dumped(header)
    elif how == 3:  # a shape and its span agree, and are not the adapter's
        names = [name for name in header if name != "__metadata__"]
        one = header[draw.choice(names)]
        one["shape"] = draw.choice(
            ([], [0], one["shape"][::-1], [1, *one["shape"]], [math.prod(one["shape"])])
        )
        text = dumped(header)
    else:
        text = dumped(header)
        length = draw.choice((0, 1, length - 1, length + 1, 2**16, 2**31, 2**63 - 1, 2**64 - 1))
        return length.to_bytes(8, "little") + text + data
    return len(text).to_bytes(8, "little") + text + data

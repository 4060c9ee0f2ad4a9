"""Which rows are held out and which few are kept: by hash, so that runs and machines agree.

Nothing here depends on the order of the rows, on their number, or on a random generator's version.
"""

import hashlib
from collections.abc import Sequence


def held_out(key: str, *, seed: int, fraction: float) -> bool:
    """Whether the row named `key` falls into the held-out `fraction`.

    Nested: what is held out at one fraction stays held out at every larger one.

    Raises:
        ValueError: `fraction` is outside [0, 1].
    """
    if not 0.0 <= fraction <= 1.0:
        raise ValueError(f"fraction must be in [0, 1], got {fraction}")
    # 53 bits fill a float exactly, so the draw is in [0, 1) on every machine.
    draw = (int.from_bytes(row_key(key, seed=seed)[:8], "big") >> 11) / 2.0**53
    return draw < fraction


def row_key(key: str, *, seed: int) -> bytes:
    """Sorts rows named `key` at random: the same way for the same seed, another for another."""
    return hashlib.sha256(f"{seed}|{key}".encode()).digest()


def nested_key(text: str, *, seed: int, tenant: str) -> bytes:
    """What `nested_order` sorts by, for callers that cannot hold all texts."""
    return hashlib.sha256(f"{seed}|{tenant}|{text}".encode()).digest()


def nested_order(texts: Sequence[str], *, seed: int, tenant: str) -> list[int]:
    """Indices of `texts` in sampling order: its first k are the sample of size k.

    Equal texts keep their order.
    """
    keys = [nested_key(text, seed=seed, tenant=tenant) for text in texts]
    return sorted(range(len(texts)), key=keys.__getitem__)

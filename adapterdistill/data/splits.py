"""Choice of held-out rows and of small samples by hash, so that runs and machines agree.

The choice depends neither on the rows' order or number nor on a random generator's version.
"""

import hashlib
from collections.abc import Sequence


def held_out(key: str, *, seed: int, fraction: float) -> bool:
    """Say whether the row named `key` falls into the held-out `fraction`.

    A row that is held out at one fraction is held out at every larger one.

    Raises:
        ValueError: `fraction` is outside [0, 1].
    """
    if not 0.0 <= fraction <= 1.0:
        raise ValueError(f"fraction must be in [0, 1], got {fraction}")
    # 53 bits fill a float exactly, so the draw is in [0, 1) on every machine.
    draw = (int.from_bytes(row_key(key, seed=seed)[:8], "big") >> 11) / 2.0**53
    return draw < fraction


def row_key(key: str, *, seed: int) -> bytes:
    """Make a sort key that orders rows at random: equally for equal seeds, else differently."""
    return hashlib.sha256(f"{seed}|{key}".encode()).digest()


def nested_key(text: str, *, seed: int, tenant: str) -> bytes:
    """Make the sort key of `nested_order`, for callers that cannot hold all texts."""
    return hashlib.sha256(f"{seed}|{tenant}|{text}".encode()).digest()


def nested_order(texts: Sequence[str], *, seed: int, tenant: str) -> list[int]:
    """Order the indices of `texts` for sampling: the first k are the sample of size k.

    Equal texts keep their order.
    """
    keys = [nested_key(text, seed=seed, tenant=tenant) for text in texts]
    return sorted(range(len(texts)), key=keys.__getitem__)

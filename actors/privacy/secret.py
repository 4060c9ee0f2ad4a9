"""The owner's secret, from which everything random of its runs is drawn."""

import hashlib
import secrets
from pathlib import Path

from adapterdistill.config import OnboardConfig
from adapterdistill.files import alone_in, private_folder, read_secret, write_secret
from adapterdistill.manifest import canonical_json

_KEY = "secret.key"
_KEY_BYTES = 32
_LARGEST_SEED = 2**53


def derive_secret(config: OnboardConfig, purpose: str, *made_from: object) -> bytes:
    """Derive 32 secret bytes from the owner's key, for one purpose and what they are used on.

    Equal work gets equal bytes, so that a resumed run ends as an uninterrupted one and publishing
    often does not average noise out. Other work gets other bytes, so that no difference of two
    publications removes their noise. The key is made at first use.

    Args:
        made_from: JSON values that name the work.
    """
    message = canonical_json([purpose, *made_from])
    return hashlib.blake2b(message, key=_key(config), digest_size=32).digest()


def training_secret(config: OnboardConfig, data_sha256: str) -> str | None:
    """The secret of a run's training; None where the run asks for the public seed."""
    if config.training.public_seed:
        return None
    return derive_secret(config, "training", config.digest(), data_sha256).hex()


def folds_seed(config: OnboardConfig, secret: str | None) -> int:
    """The seed that deals rows to folds and holds them out."""
    return config.training.seed if secret is None else int(secret, 16) % _LARGEST_SEED


def _key(config: OnboardConfig) -> bytes:
    file = Path(config.workspace) / config.tenant / _KEY
    private_folder(Path(config.workspace))
    file.parent.mkdir(parents=True, exist_ok=True)
    with alone_in(file.parent):  # another submission may make it at the same time
        if not file.exists():
            write_secret(file, secrets.token_bytes(_KEY_BYTES))
    return read_secret(file)

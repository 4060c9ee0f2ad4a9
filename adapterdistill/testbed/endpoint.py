"""A search endpoint of many tenants whose right answers are known."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path

from adapterdistill.backbone import Encoder
from adapterdistill.testbed.answers import THRESHOLD, Answers
from adapterdistill.testbed.encoder_options import EncoderOptions
from adapterdistill.testbed.faq_banks import Bank, fill_store, read_banks
from adapterdistill.testbed.random_adapters import STRENGTH, random_adapters
from adapterdistill.testbed.serving import Deployment, deployed

MAX_TOKENS = 128
"""The length to which a server cuts texts by default."""
SAMPLES = Path(str(files("adapterdistill"))) / "samples"


@dataclass(frozen=True)
class Endpoint:
    """Tenants with bundles in a store, and how to serve them."""

    banks: list[Bank]
    store: Path
    answers: Answers
    encoder: Encoder
    """The encoder in the dtype that is served."""
    exact: Encoder
    """The encoder in float32."""
    start: Callable[..., AbstractContextManager[Deployment]]
    """`deployed` with all arguments but `haproxy`, `replicas`, `registry` and `bank_mib`."""


def endpoint_in(
    folder: Path,
    data: Path | None,
    tenants: int,
    options: EncoderOptions,
    *,
    threads: int,
    strength: float = STRENGTH,
) -> Endpoint:
    """Make a bundle for every tenant, each with an adapter of its own.

    Args:
        data: a folder of FAQ banks, or with one in `faqbanks`; None takes the samples.
        strength: of the random adapters.
    """
    encoder, exact = options.load(), options.load_exact()
    banks = read_banks(banks_folder(data), tenants)
    store = folder / "store"
    adapters = random_adapters(exact, len(banks), strength=strength)
    fill_store(store, banks, exact, adapters, threshold=THRESHOLD)
    start = partial(
        deployed, store, folder / "log", encoder=options.name, dtype=options.dtype, threads=threads
    )
    return Endpoint(banks, store, Answers(banks, store, encoder), encoder, exact, start)


def banks_folder(data: Path | None) -> Path:
    """The folder of FAQ banks in `data`; the samples without `data`."""
    if data is None:
        return SAMPLES
    return data / "faqbanks" if (data / "faqbanks").is_dir() else data

"""The system from Python: what `import adapterdistill` offers beside its modules.

    model = adapterdistill.load("serving/acme")
    model.search("where is my parcel?").best

    adapterdistill.onboard("acme.toml", on_stage=print)
    with adapterdistill.connect("127.0.0.1:50051") as registry: ...

Questions to a running endpoint are `adapterdistill.client`, which imports none of this.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from adapterdistill.actors.onboarding import OnboardReport, in_process, write_report
from adapterdistill.actors.onboarding import onboard as run_stages
from adapterdistill.actors.tracking import Tracker
from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder, load_encoder
from adapterdistill.client import Answer, Faq
from adapterdistill.config import OnboardConfig, load_toml, parse_config
from adapterdistill.manifest import Manifest
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.serve.engine.banks import Banks
from adapterdistill.serve.engine.faq_index import rank
from adapterdistill.serve.engine.loading import Loaded, Loader
from adapterdistill.store.bundle import Place, read_bundle
from adapterdistill.store.release import locate


class Model:
    """A tenant's bundle in memory: its adapter on the frozen encoder, and its FAQs.

    It answers as the endpoint does. Nothing follows the store: a model stays the version that it
    was loaded as.
    """

    def __init__(self, encoder: Encoder, loaded: Loaded) -> None:
        self._encoder, self._loaded = encoder, loaded
        served = loaded.served
        self._embedder = served if isinstance(served, BottleneckAdapter) else served.embedder

    @property
    def manifest(self) -> Manifest:
        """Who made the adapter, from what, and how well it ranks."""
        return self._loaded.manifest

    @property
    def faq_ids(self) -> tuple[str, ...]:
        return tuple(faq.faq_id for faq in self._loaded.faqs)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed queries through the adapter: [texts, embedding size], unit length."""
        ids = self._encoder.tokenize_queries(texts, [self.manifest.encoder] * len(texts))
        return self._encoder.embed_ids(ids, self._embedder).cpu().numpy()

    def search(self, query: str, *, top_k: int = 5, explain: bool = False) -> Answer:
        """Rank the FAQs for one question."""
        [answer] = self.search_all([query], top_k=top_k, explain=explain)
        return answer

    def search_all(
        self, queries: Sequence[str], *, top_k: int = 5, explain: bool = False
    ) -> list[Answer]:
        """Rank the FAQs for each question, in their order.

        Raises:
            ValueError: `top_k` is below 1.
        """
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        count, loaded = len(queries), self._loaded
        rankings = rank(
            torch.from_numpy(self.embed(queries)),
            queries,
            [loaded.index] * count,
            [top_k] * count,
            [explain] * count,
        )
        answers = []
        for ranking in rankings:
            views: Sequence[Mapping[str, float]] = ranking.views or [{}] * len(ranking.faqs)
            ranked = tuple(
                Faq(*_texts_of(loaded, faq), score, seen)
                for faq, score, seen in zip(ranking.faqs, ranking.scores, views, strict=True)
            )
            best, calibration = ranking.scores[0], loaded.calibration
            answers.append(
                Answer(
                    ranked=ranked,
                    abstained=best < loaded.threshold,
                    confidence=None if calibration is None else calibration.confidence(best),
                    version=self.manifest.version,
                    decided_by=ranking.decided_by,
                )
            )
        return answers


def load(
    bundle: str | Path, *, encoder: str | None = None, dtype: str = "auto", device: str = "cpu"
) -> Model:
    """Load a tenant's bundle.

    Args:
        bundle: the tenant in a serving store, whose live bundle is loaded, or one bundle
            in it (STORE/TENANT or STORE/TENANT/ID).
        encoder: name or folder of its encoder; None: the one that the bundle names.

    Raises:
        ServingError: there is no bundle, or it is broken.
        EncoderError, EncoderMismatchError: the encoder is not found, or is another.
    """
    return load_from(*locate(bundle), encoder=encoder, dtype=dtype, device=device)


def load_from(
    store: Place, tenant: str, bundle_id: str, *, encoder: str | None, dtype: str, device: str
) -> Model:
    """Load a bundle of a store; see `load`."""
    name = encoder or read_bundle(store, tenant, bundle_id).manifest.encoder.name
    loaded = load_encoder(name, dtype=dtype, device=device)
    banks = Banks(loaded, {}, encoder_mib=float("inf"))
    return Model(loaded, Loader(banks, store, retry_refused_s=0).load(tenant, bundle_id))


def onboard(
    config: OnboardConfig | Mapping[str, Any] | str | Path,
    *,
    on_stage: Callable[[str], None] = lambda line: None,
    callbacks: Sequence[Tracker] = (),
) -> OnboardReport:
    """Take a tenant from its private data to a live bundle, in this process.

    Args:
        config: the run's TOML file, or what it would hold. Its report is written beside the runs.
        on_stage: called with a line for people when a stage ends.
        callbacks: each called with the numbers of every gradient step and of every stage, when
            the stage ends (`actors.tracking.Numbers`).

    Raises:
        AdapterDistillError: the run stopped; run again, it goes on where it stopped.
    """
    if isinstance(config, Mapping):
        config = parse_config(dict(config), source="config")
    elif not isinstance(config, OnboardConfig):
        config = load_toml(Path(config))
    report = run_stages(config, in_process(config, trackers=tuple(callbacks)), emit=on_stage)
    write_report(config, report)
    return report


def connect(
    address: str, *, credentials: str | Path | None = None, timeout_s: float = 30.0
) -> RegistryClient:
    """Connect to a registry; use the client in a `with` statement.

    Args:
        address: HOST:PORT.
        credentials: the owner's folder of certificate and key; None: plain text.
    """
    folder = None if credentials is None else Path(credentials)
    return RegistryClient(address, timeout_s=timeout_s, credentials=folder)


def _texts_of(loaded: Loaded, faq: int) -> tuple[str, str, str | None]:
    found = loaded.faqs[faq]
    return found.faq_id, found.question, found.answer

"""An arrival: a tenant with k queries an FAQ is onboarded as a user would, and then asked."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adapterdistill.actors.onboarding import OnboardReport, in_process, onboard
from adapterdistill.bench.arrivals.answers import answers, kept_adapters
from adapterdistill.bench.arrivals.baselines import baselines
from adapterdistill.bench.cache import ResultCache, content_key
from adapterdistill.bench.tenants import BenchTenant, TextRows
from adapterdistill.bench.transfer.cells import Cell, Workbench
from adapterdistill.bench.transfer.method_table import OWN, TEACHER_SEED
from adapterdistill.bench.transfer.methods import Setting
from adapterdistill.checkpoint import golden_vectors, unpack_adapter
from adapterdistill.config import OnboardConfig, parse_config
from adapterdistill.data import Faq, Query, nested_order
from adapterdistill.data.dataset import write_tenant
from adapterdistill.distill.methods import DEFAULT
from adapterdistill.errors import AdapterDistillError, NotServedError
from adapterdistill.manifest import Manifest
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.selection import Probes
from adapterdistill.testbed.encoder_options import EncoderOptions
from adapterdistill.testbed.progress import say
from adapterdistill.testbed.random_adapters import random_manifest
from adapterdistill.testbed.registry import registry_process

VERSION = "7"
"""Part of every key: raise it when the code that a run goes through has changed."""
TEACHER = Setting(learning_rate=1e-3, steps=70)
"""Own adapters on all training rows; one setting for all teachers."""
UNLABELLED = 100
_NEVER_UNLABELLED = 10
"""First queries of each FAQ that are never unlabelled: the pool is the same at every k."""
_POOL_SEED = 77
_PLACEHOLDER = "127.0.0.1:1"


@dataclass(frozen=True)
class Arriving:
    """One arrival. `k` is None for all training rows; `teachers` are the other tenants."""

    tenant: str
    k: int | None
    unlabelled: int
    seed: int
    teachers: tuple[str, ...]


@dataclass(frozen=True)
class ArrivalBench:
    """What the arrivals of a run share."""

    bench: Workbench
    encoder: EncoderOptions
    faqs: Mapping[str, tuple[Faq, ...]]
    """Each tenant's FAQs with their answers, in the order of its questions."""
    training: Mapping[str, int | str]
    """Keys of a run's [training] that differ from the defaults."""

    @property
    def cache(self) -> ResultCache:
        return self.bench.cache

    @property
    def method(self) -> str:
        """The method of the runs."""
        return str(self.training.get("method", DEFAULT))

    def key(self, job: Arriving | Cell) -> str:
        """Names everything that the result depends on."""
        if isinstance(job, Cell):
            return self.bench.key(job)
        tenant, ref = self.bench.tenants[job.tenant], self.bench.encoder.ref
        return content_key(
            {
                "purpose": "arrival",
                "version": VERSION,
                "run": self.config(job, Path("/nowhere"), _PLACEHOLDER).digest(),
                "encoder": [
                    ref.weights_sha256,
                    ref.tokenizer_sha256,
                    str(self.bench.encoder.dtype),
                ],
                "tenant": [tenant.name, tenant.digest],
                "rows": [len(tenant.test), len(tenant.out_of_scope)],
                "teachers": [self.bench.key(teacher_of(name)) for name in job.teachers],
                "k": job.k,
                "unlabelled": job.unlabelled,
                "seed": job.seed,
            }
        )

    def run(self, job: Arriving | Cell) -> None:
        """Make the result, unless the cache has it. A failed run leaves none; one that refuses to
        serve what it made is a result.

        Args:
            job: an arrival, or the cell of a teacher.
        """
        if isinstance(job, Cell):
            return self.bench.run(job)
        key = self.key(job)
        if self.cache.read(key) is not None:
            return
        try:
            result = self._arrive(job)
        except NotServedError as error:
            say(f"{job.tenant}, k = {job.k}, {job.unlabelled} unlabelled: {error}")
            result = {"not_served": True}
        except AdapterDistillError as error:
            say(f"{job.tenant}, k = {job.k}, {job.unlabelled} unlabelled: {error}")
            return
        self.cache.write(key, {"arrival": asdict(job), **result})

    def _arrive(self, job: Arriving) -> dict[str, Any]:
        tenant, encoder = self.bench.tenants[job.tenant], self.bench.encoder
        rows = tenant.arrival(job.k, seed=job.seed)
        with tempfile.TemporaryDirectory(prefix="arrival") as folder, ExitStack() as stack:
            home = Path(folder)
            queries = arriving_queries(tenant, self.faqs[job.tenant], job)
            write_tenant(home / "data", self.faqs[job.tenant], queries)
            registry = stack.enter_context(registry_process(home / "registry"))
            with RegistryClient(registry.address) as client:
                for name in job.teachers:
                    client.publish(*self.teacher(name))
            config = self.config(job, home, registry.address)
            report = onboard(config, in_process(config), emit=lambda line: None)
            found = baselines(encoder, tenant, rows)
            found |= kept_adapters(encoder, config, tenant, rows)
            found["served"] = answers(encoder, config, tenant, self.faqs[job.tenant])
        return {"rows": found, **_figures(report)}

    def config(self, job: Arriving, home: Path, registry: str) -> OnboardConfig:
        """What the tenant's runs are told; its data are in `home`/data."""
        return parse_config(
            {
                "tenant": job.tenant,
                "data": str(home / "data"),
                "workspace": str(home / "owner"),
                "serving_store": str(home / "serving"),
                "encoder": asdict(self.encoder),
                "registry": {"address": registry},
                "training": {"seed": job.seed, "public_seed": True, **self.training},
            },
            source="arrival",
        )

    def teacher(self, name: str) -> tuple[Manifest, bytes]:
        """The teacher as it is published; its golden vectors and fingerprint are made once."""
        key = self.bench.key(teacher_of(name))
        payload = self.cache.read_payload(key)
        kept = content_key({"purpose": "manifest", "teacher": key})
        found = self.cache.read(kept)
        if found is None:
            encoder, adapter = self.bench.encoder, unpack_adapter(payload)
            adapter = adapter.to(encoder.device)
            manifest = random_manifest(
                encoder,
                adapter,
                payload,
                tenant=name,
                golden=golden_vectors(encoder, adapter),
                fingerprint=Probes(encoder).fingerprint(adapter),
            )
            self.cache.write(kept, {"manifest": manifest.canonical_json().decode()})
            return manifest, payload
        return Manifest.from_json(found["manifest"].encode()), payload


def teacher_of(name: str) -> Cell:
    """The cell that trains this tenant's adapter for the others."""
    return Cell(OWN, name, None, TEACHER_SEED, TEACHER, keep=True)


def unlabelled_pool(tenant: BenchTenant, job: Arriving) -> TextRows:
    """Training queries beyond the first ones of each FAQ, in a seeded order; fewer if it has fewer.

    An arrival with all training rows has none left.
    """
    if job.k is None:
        return tenant.train.select([])
    used = set(tenant.first(max(job.k, _NEVER_UNLABELLED), seed=job.seed).texts)
    rest = [row for row, text in enumerate(tenant.train.texts) if text not in used]
    texts = [tenant.train.texts[row] for row in rest]
    order = nested_order(texts, seed=job.seed + _POOL_SEED, tenant=tenant.name)
    return tenant.train.select([rest[i] for i in order[: job.unlabelled]])


def arriving_queries(tenant: BenchTenant, faqs: tuple[Faq, ...], job: Arriving) -> Iterator[Query]:
    """Rows of the arriving tenant's folder: k queries an FAQ, and unlabelled ones.

    Its `valid` and test rows stay away: a tenant with k queries an FAQ has no others, and the
    served engine is asked the test queries afterwards.
    """
    parts = {
        "train": tenant.first(job.k, seed=job.seed),
        "unlabelled": unlabelled_pool(tenant, job),
    }
    for split, rows in parts.items():
        for number, (text, label) in enumerate(zip(rows.texts, rows.labels.tolist(), strict=True)):
            faq_id = faqs[label].faq_id if split == "train" else None
            yield Query(f"{split}-{number}", text, faq_id, split)


def _figures(report: OnboardReport) -> dict[str, Any]:
    stages = report.stage_seconds()
    return {
        "seconds": report.seconds,
        "stage_seconds": stages,
        "peak_rss_mb": max(report.result_of(stage).peak_rss_mb for stage in stages),
        "choice": report.decide.choice,
        "reason": report.decide.reason,
        "quarantined": report.publish.quarantined,
    }

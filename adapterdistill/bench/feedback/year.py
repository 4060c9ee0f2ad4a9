"""One year of one tenant: questions come in, the owner labels a few of them, and onboards again.

All of it goes through what users run: `onboard` makes each version, the serving engine answers the
month's questions, the endpoint's keeper keeps those that were turned away or uncertain, and
`feedback export` takes them into the tenant's data.
"""

import random
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from adapterdistill.actors.onboarding import in_process, onboard
from adapterdistill.bench.arrivals.answers import answers, ask
from adapterdistill.bench.arrivals.arriving import VERSION, ArrivalBench, Arriving, arriving_queries
from adapterdistill.bench.cache import ResultCache, content_key
from adapterdistill.bench.tenants import BenchTenant, TextRows
from adapterdistill.bench.transfer.cells import Cell
from adapterdistill.config import OnboardConfig
from adapterdistill.data import nested_order
from adapterdistill.data.dataset import write_tenant
from adapterdistill.errors import NotServedError
from adapterdistill.feedback import opened, take_into
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.serve.engine.engine import Engine
from adapterdistill.serve.queue.keeping import Keeper
from adapterdistill.testbed.registry import registry_process

_LOG_SEED = 5


@dataclass(frozen=True)
class Year:
    """A year of one tenant."""

    arrival: Arriving
    """How it begins."""
    chosen: bool
    """Whether labels go to the questions that `feedback list` puts first, or to random ones."""
    months: int
    questions: int
    """Questions of a month at most."""
    labels: int
    """Labels that the owner gives in a month."""


@dataclass(frozen=True)
class YearBench:
    """Runs years; what their tenants and teachers need is the arrivals' own."""

    arrivals: ArrivalBench

    @property
    def cache(self) -> ResultCache:
        return self.arrivals.cache

    def key(self, job: Year | Cell) -> str:
        """Names everything that the result depends on."""
        if isinstance(job, Cell):
            return self.arrivals.key(job)
        rest = asdict(job) | {"arrival": self.arrivals.key(job.arrival)}
        return content_key({"purpose": "year", "version": VERSION, **rest})

    def run(self, job: Year | Cell) -> None:
        """Make the result, unless the cache has it."""
        if isinstance(job, Cell):
            return self.arrivals.run(job)
        key = self.key(job)
        if self.cache.read(key) is None:
            self.cache.write(key, {"months": list(self._months(job))})

    def _months(self, job: Year) -> Iterator[dict[str, Any]]:
        """What is served at the start of the year and after each month."""
        arrival, bench = job.arrival, self.arrivals
        whole, faqs = bench.bench.tenants[arrival.tenant], bench.faqs[arrival.tenant]
        log, tenant = asked(whole, job)
        truth = {
            text: "" if label < 0 else faqs[label].faq_id
            for month in log
            for text, label in zip(month.texts, month.labels.tolist(), strict=True)
        }
        with tempfile.TemporaryDirectory(prefix="year") as folder, ExitStack() as stack:
            home = Path(folder)
            write_tenant(home / "data", faqs, arriving_queries(whole, faqs, arrival))
            registry = stack.enter_context(registry_process(home / "registry"))
            with RegistryClient(registry.address) as client:
                for name in arrival.teachers:
                    client.publish(*bench.teacher(name))
            config = bench.config(arrival, home, registry.address)
            labelled = 0
            for month in range(job.months + 1):
                served = True
                try:
                    onboard(config, in_process(config), emit=lambda line: None)
                except NotServedError:
                    served = False
                found = answers(bench.bench.encoder, config, tenant, faqs)
                yield {"labels": labelled, "new_version": served, **found}
                if month < job.months:
                    labelled += self._label(job, config, log[month], truth)

    def _label(
        self, job: Year, config: OnboardConfig, month: TextRows, truth: Mapping[str, str]
    ) -> int:
        """Ask a month's questions, label some of them, and take what was kept into the data.

        Returns:
            How many were labelled.
        """
        store, name = Path(config.serving_store), config.tenant
        with closing(Engine(self.arrivals.bench.encoder, store)) as engine:
            engine.refresh()
            given = ask(engine, name, month, 1)
        with closing(Keeper(store)) as keeper:
            keeper.see(name, month.texts, given)
        with opened(store, name) as feedback:
            if job.chosen:
                waiting = feedback.questions(labelled=False)
                texts = [one.text for one in waiting if one.text in truth][: job.labels]
            else:
                draw = random.Random(f"{job.arrival.seed}|{name}|{len(truth)}|{month.texts[0]}")
                texts = draw.sample(month.texts, min(job.labels, len(month)))
            for text in texts:
                feedback.tell(text, right=truth[text])
            take_into(feedback, Path(config.data))
        return len(texts)


def asked(tenant: BenchTenant, job: Year) -> tuple[list[TextRows], BenchTenant]:
    """The questions of each month, and the tenant with those out-of-scope queries that test.

    Half of the out-of-scope queries are asked in the year, among the training queries that the
    tenant does not begin with; its answerable test queries are never asked.
    """
    seed = job.arrival.seed
    begins = set(tenant.first(job.arrival.k, seed=seed).texts)
    rest = [row for row, text in enumerate(tenant.train.texts) if text not in begins]
    outside = _shuffled(tenant.out_of_scope, seed, tenant.name)
    half = len(outside) // 2
    inside = _shuffled(tenant.train.select(rest), seed, tenant.name)
    inside = inside.select(range(min(len(inside), max(0, job.months * job.questions - half))))
    log = _shuffled(inside.join(outside.select(range(half))), seed + _LOG_SEED, tenant.name)
    months = [log.select(range(month, len(log), job.months)) for month in range(job.months)]
    return months, replace(tenant, out_of_scope=outside.select(range(half, len(outside))))


def _shuffled(rows: TextRows, seed: int, name: str) -> TextRows:
    return rows.select(nested_order(list(rows.texts), seed=seed, tenant=name))

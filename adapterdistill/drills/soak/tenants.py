"""The tenants of a soak: their queries, their right answers, and the next onboarding."""

import random
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from adapterdistill.backbone import Encoder
from adapterdistill.data import TenantDataset, sample_names
from adapterdistill.data.importing import import_samples
from adapterdistill.drills.endpoint.hazards import WITHIN_S, Timeline
from adapterdistill.errors import TrainingError
from adapterdistill.manifest import VersionRef
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.store.bundle import read_bundle, remove_bundle
from adapterdistill.store.release import (
    bundles_of,
    live_bundle,
    read_release,
    release_key,
    take_down,
)
from adapterdistill.testbed.answers import Answers, Question, draw_questions, version_of
from adapterdistill.testbed.faq_banks import Bank
from adapterdistill.testbed.http_load import Reply
from adapterdistill.testbed.owner_site import Site, driver_of

RESIDENTS = 3
"""Tenants that stay, and get a new version by turns."""
_TRAIN_WORKER_EVERY = 3
"""One in so many onboardings trains in a worker of Ray Train, the others in the owner's actor."""
_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class _Known:
    bank: Bank
    live: str
    """Id of the bundle."""
    answers: Answers
    timeline: Timeline
    """Which version was right when, of the live one and the one before."""


class Tenants:
    """Tenants that may be queried. The serving store says which version is live."""

    def __init__(self, store: Path, encoder: Encoder) -> None:
        """`encoder` in the dtype that is served."""
        self.store = store
        self._encoder = encoder
        self._known: dict[str, _Known] = {}
        self._turn = threading.Lock()

    def join(self, bank: Bank) -> None:
        """The tenant is live, and may be asked from now on."""
        with self._turn:
            self._known[bank.tenant] = self._look_up(bank)

    def leave(self, tenant: str) -> None:
        """The tenant is queried no more."""
        with self._turn:
            del self._known[tenant]

    def draw(self, draw: random.Random) -> Question:
        """Draw a question of a tenant that may be queried now."""
        with self._turn:
            (found,) = draw_questions([known.bank for known in self._known.values()], 1, draw)
            return found

    def follow(self) -> None:
        """See which versions have gone live."""
        with self._turn:
            for tenant in list(self._known):
                self._follow(tenant)

    def fault(self, question: Question, reply: Reply) -> str | None:
        """The fault of an answer; None: it is right, or the tenant has left."""
        with self._turn:
            known = self._known.get(question.tenant)
            if known is None:
                return None
            version = reply.body.partition(b'"version":"')[2][:64].decode()
            if version != version_of(known.live):
                known = self._follow(question.tenant)
            ended = reply.sent + reply.seconds
            late_s = known.timeline.late_s(question.tenant, version, reply.sent, ended)
            if late_s > WITHIN_S:
                return "comes from a version that is not live"
            return known.answers.fault(question, reply.body)

    def _follow(self, tenant: str) -> _Known:
        known = self._known[tenant]
        if live_bundle(self.store, tenant) != known.live:
            known = self._known[tenant] = self._look_up(known.bank, known.live)
        return known

    def _look_up(self, bank: Bank, before: str | None = None) -> _Known:
        live, answers = (
            live_bundle(self.store, bank.tenant),
            Answers([bank], self.store, self._encoder),
        )
        timeline = Timeline()
        if before is not None:
            answers.add(bank.tenant, before)
            timeline.begin(bank.tenant, frozenset([version_of(before)]), float("-inf"))
        written = (self.store / release_key(bank.tenant)).stat().st_mtime
        at = time.perf_counter() - (time.time() - written)
        timeline.begin(bank.tenant, frozenset([version_of(live)]), at)
        return _Known(bank, live, answers, timeline)


class Onboardings(threading.Thread):
    """Onboards until it is stopped: each resident's next version, then a guest, which replaces the
    last guest.

    Old files are removed as an operator would: all runs but the last, all bundles but the live one
    and the one before. The registry keeps its history, and grows.
    """

    def __init__(self, site: Site, tenants: Tenants) -> None:
        super().__init__(name="onboardings")
        self.done = 0
        self.failed: list[str] = []
        self.seconds: list[float] = []
        self._site, self._tenants = site, tenants
        self._names = sample_names()
        self._guest: str | None = None
        self._stopping = threading.Event()
        self._raised: BaseException | None = None

    @property
    def workspace(self) -> Path:
        return Path(self._site.config("soak", 0)["workspace"])

    def run(self) -> None:
        try:
            while not self._stopping.is_set():
                self.next()
        except BaseException as error:
            self._raised = error

    def stop(self) -> None:
        """Stop after the onboarding that is under way. Raises the error that stopped it."""
        self._stopping.set()
        self.join()
        if self._raised is not None:
            raise self._raised

    def next(self) -> None:
        """The next onboarding, to its end."""
        number = self.done + len(self.failed)
        place = number % (RESIDENTS + 1)
        tenant, sample = self._names[place], self._names[place]
        if place == RESIDENTS:
            tenant = f"guest-{number}"
            sample = self._names[RESIDENTS + number % (len(self._names) - RESIDENTS)]
            if self._guest is not None:
                self._part_with(self._guest)
                self._guest = None
        data = self._site.folder / "tenants" / sample
        if not data.is_dir():
            import_samples(sample, data)
        began = time.monotonic()
        try:
            self._onboard(tenant, data, number)
        except (TrainingError, psutil.TimeoutExpired) as error:
            self.failed.append(str(error))
            return
        self.done += 1
        self.seconds.append(time.monotonic() - began)
        self._tidy(tenant)
        if number >= RESIDENTS and place < RESIDENTS:
            return
        time.sleep(WITHIN_S)  # a replica reads the store every second
        faqs = tuple(TenantDataset.open(data).faqs())
        asked = tuple((faq.question, faq.faq_id) for faq in faqs)
        self._tenants.join(Bank(tenant, faqs, asked))
        if place == RESIDENTS:
            self._guest = tenant

    def _onboard(self, tenant: str, data: Path, number: int) -> None:
        """Raises TrainingError."""
        trains_apart = number % _TRAIN_WORKER_EVERY == _TRAIN_WORKER_EVERY - 1
        config = self._site.config("soak", num_workers=int(trains_apart))
        config |= {"tenant": tenant, "data": str(data)}
        config["training"]["seed"] = number  # another adapter each time
        if tenant not in self._names:  # withdrawing a teacher would withdraw its students too
            config["registry"]["share_with"] = "nobody"
        with driver_of(self._site, config) as driver:
            status = driver.wait(timeout=_TIMEOUT_S)
        if status:
            log = (self._site.folder / "driver.log").read_text(errors="replace").strip()
            raise TrainingError(f"an onboarding ended with {status}: {log.splitlines()[-1][:300]}")

    def _tidy(self, tenant: str) -> None:
        runs = list((self.workspace / tenant / "runs").iterdir())
        for run in sorted(runs, key=lambda folder: folder.stat().st_mtime)[:-1]:
            shutil.rmtree(run)
        release = read_release(self._tenants.store, tenant)
        for bundle_id, _ in bundles_of(self._tenants.store, tenant):
            if bundle_id not in (release.bundle, release.before):
                remove_bundle(self._tenants.store, tenant, bundle_id)

    def _part_with(self, tenant: str) -> None:
        """Withdraw the tenant and remove its files."""
        store = self._tenants.store
        self._tenants.leave(tenant)
        time.sleep(WITHIN_S)  # until all requests are answered
        manifest = read_bundle(store, tenant, live_bundle(store, tenant)).manifest
        take_down(store, tenant)
        with RegistryClient(self._site.registry) as registry:
            registry.withdraw(VersionRef.parse(manifest.ref.name), "the guest has left")
        for bundle_id, _ in bundles_of(store, tenant):
            remove_bundle(store, tenant, bundle_id)
        shutil.rmtree(self.workspace / tenant)

"""Mixed requests at once, each answer checked, while tenants come, go, change and are withdrawn.

The bank of adapters holds a quarter of the tenants, so that they are loaded and evicted all the
while. First one replica, then two; the changes are those of `hazards`.
"""

import asyncio
import random
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from adapterdistill.backbone import Encoder
from adapterdistill.drills.drill import Outcome, reported
from adapterdistill.drills.endpoint.control import control
from adapterdistill.drills.endpoint.hazards import CANARY, ROUNDS, STEPS, WITHIN_S, Hazards
from adapterdistill.drills.endpoint.report import isolation_sections
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.store.bundle import read_bundle
from adapterdistill.store.release import live_bundle, set_live
from adapterdistill.testbed.answers import THRESHOLD, Answers, Question
from adapterdistill.testbed.encoder_options import EncoderOptions
from adapterdistill.testbed.endpoint import MAX_TOKENS, Endpoint, endpoint_in
from adapterdistill.testbed.faq_banks import Bank, fill_store
from adapterdistill.testbed.http_load import Reply, load, scrape_all
from adapterdistill.testbed.progress import phase, say
from adapterdistill.testbed.random_adapters import random_adapters
from adapterdistill.testbed.registry import registry_process
from adapterdistill.testbed.reporting import Part

REPLICAS = (1, 2)
_CLIENTS = 32
_AT_ONCE = 1000  # requests between two looks at the answers
_STEP_EVERY_S = 0.3
_CHANGING = 24
"""Tenants of each part that change."""
_LEAST_FAQS = 3
_PAGING = re.compile(rb'^adapterdistill_paging_total\{.*event="(\w+)".*\} (\S+)', re.M)


@dataclass
class Seen:
    """Outcomes of the answers of one part."""

    wrong: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    versions: set[tuple[str, str]] = field(default_factory=set)
    canaries: int = 0
    """Answers by candidates."""
    latest_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Seconds from a change to the last request with an earlier answer, by kind of change."""


def measure_isolation(endpoint: Endpoint, *, requests: int) -> dict[str, Any]:
    """Ask until `requests` are answered, half of them by one replica, half by two."""
    store, banks, answers = endpoint.store, endpoint.banks, endpoint.answers
    encoder, exact = endpoint.encoder, endpoint.exact
    changing = changing_tenants(banks, _CHANGING * len(REPLICAS))
    pairs = second_versions(store, changing, exact, len(banks))
    for tenant, (_, second) in pairs.items():
        answers.add(tenant, second)
    found: dict[str, Any] = {"control": control(encoder, store, changing, answers), "parts": []}
    slots = max(4, len(banks) // 4)
    adapter = next(iter(random_adapters(exact, 1)))
    slot_bytes = sum(p.numel() for p in adapter.parameters()) * encoder.dtype.itemsize
    withdrawn: set[str] = set()
    with registry_process(store.parent / "registry" / "root") as served:
        registry = RegistryClient(served.address)
        publish(store, pairs, registry)
        for place, replicas in enumerate(REPLICAS):
            say(f"{replicas} replicas, {slots} of {len(banks)} tenants in memory")
            mine = changing[place :: len(REPLICAS)]
            options = {
                "haproxy": True,
                "replicas": replicas,
                "registry": served.address,
                "bank_mib": slots * slot_bytes / 2**20,
            }
            with endpoint.start(**options) as server:
                part = measure_part(
                    server.address,
                    Hazards(
                        store,
                        registry,
                        [bank.tenant for bank in banks],
                        {bank.tenant: pairs[bank.tenant] for bank in mine},
                        withdrawn,
                        every_s=_STEP_EVERY_S,
                    ),
                    banks,
                    mine,
                    answers,
                    requests=requests // len(REPLICAS),
                )
                paging = asyncio.run(_paging(server.address, replicas))
            found["parts"].append({"replicas": replicas, "slots": slots, "paging": paging, **part})
        registry.close()
    for tenant, (first, _) in pairs.items():
        set_live(store, tenant, first)  # other parts ask for it, without this registry
    return found


def changing_tenants(banks: Sequence[Bank], most: int) -> list[Bank]:
    """Pages of some FAQs, so that versions' answers differ on many texts."""
    return [bank for bank in banks if len(bank.faqs) >= _LEAST_FAQS][: min(most, len(banks))]


def second_versions(
    store: Path, banks: Sequence[Bank], exact: Encoder, num_adapters: int
) -> dict[str, tuple[str, str]]:
    """Tenant -> ids of its live bundle, which stays live, and of another with an adapter of its
    own: the first `num_adapters` random ones are others'."""
    first = {bank.tenant: live_bundle(store, bank.tenant) for bank in banks}
    adapters = random_adapters(exact, num_adapters + len(banks))[num_adapters:]
    fill_store(store, banks, exact, adapters, threshold=THRESHOLD)
    pairs = {tenant: (one, live_bundle(store, tenant)) for tenant, one in first.items()}
    for tenant, one in first.items():
        set_live(store, tenant, one)
    return pairs


def publish(store: Path, pairs: dict[str, tuple[str, str]], registry: RegistryClient) -> None:
    """Publish both versions of each pair, so that either may be withdrawn."""
    for tenant, both in pairs.items():
        for bundle_id in both:
            bundle = read_bundle(store, tenant, bundle_id)
            registry.publish(bundle.manifest, bundle.adapter_payload)


def measure_part(
    address: str,
    hazards: Hazards,
    banks: Sequence[Bank],
    changing: Sequence[Bank],
    answers: Answers,
    *,
    requests: int,
) -> dict[str, Any]:
    """Half of the requests are of tenants that change, and of 3 texts."""
    draw, seen = random.Random(8), Seen()
    texts = {bank.tenant: answers.texts(bank.tenant) for bank in banks}
    portion = min(_AT_ONCE, max(1, requests // 4))
    hazards.start()
    began = time.perf_counter()
    try:
        with phase("requests checked", requests) as done:
            while seen.statuses.total() < requests or (
                hazards.rounds < ROUNDS and hazards.is_alive()
            ):
                asked = [
                    *_draw(banks, texts, portion // 2, 1, draw),
                    *_draw(changing, texts, portion - portion // 2, 3, draw),
                ]
                draw.shuffle(asked)
                replies, _ = asyncio.run(
                    load(address, [one.http for one in asked], num_clients=_CLIENTS)
                )
                with hazards.changing:
                    for place, reply in replies:
                        look(asked[place], reply, answers, hazards, seen)
                        done()
    finally:
        hazards.stop()
    return {
        "requests": seen.statuses.total(),
        "clients": _CLIENTS,
        "seconds": round(time.perf_counter() - began, 1),
        "statuses": dict(sorted(seen.statuses.items())),
        "steps": dict(hazards.steps),
        "changing_tenants": dict(Counter(hazards.kinds.values())),
        "canary_answers": seen.canaries,
        "both_versions_seen": sum(
            len({v for t, v in seen.versions if t == tenant}) == 2 for tenant in hazards.kinds
        ),
        "last_answer_of_before_s": {k: round(s, 2) for k, s in sorted(seen.latest_s.items())},
        "farthest_from_alone": answers.farthest,
        "wrong": dict(seen.wrong),
        "failed": dict(seen.failed),
    }


def look(question: Question, reply: Reply, answers: Answers, hazards: Hazards, seen: Seen) -> None:
    """Check one reply, by its content and by what was right at its time."""
    tenant, outcome = question.tenant, str(reply.status)
    seen.statuses[outcome] += 1
    if reply.status == 200:
        if fault := answers.fault(question, reply.body):
            seen.wrong[fault] += 1
        outcome = reply.body.partition(b'"version":"')[2][:64].decode()
        seen.versions.add((tenant, outcome))
        if b'"alias":"canary"' in reply.body.partition(b'"results"')[0]:
            outcome += CANARY
            seen.canaries += 1
    late_s = hazards.timeline.late_s(tenant, outcome, reply.sent, reply.sent + reply.seconds)
    if late_s > WITHIN_S:
        if reply.status == 200:
            seen.wrong["comes from a version that is not live"] += 1
        else:
            seen.failed[outcome] += 1
    elif kind := hazards.kinds.get(tenant):
        seen.latest_s[kind] = max(seen.latest_s[kind], late_s)


def isolation_faults(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield what must not be, and what did not happen so that the rest means nothing."""
    found = figures["isolation"]
    for kind, made in found["control"].items():
        if made["noticed"] != (0 if kind == "right" else made["made"]):
            yield f"isolation: of {made['made']} answers {kind}, {made['noticed']} are noticed"
    for part in found["parts"]:
        name = f"isolation, {part['replicas']} replicas"
        yield from (f"{name}: {count} answers: {fault}" for fault, count in part["wrong"].items())
        yield from (
            f"{name}: {n} requests failed: {status}" for status, n in part["failed"].items()
        )
        if part["both_versions_seen"] < sum(part["changing_tenants"].values()):
            yield f"{name}: not both versions of every changing tenant answered"
        happened = part["steps"] | {
            "evictions": part["paging"]["evictions"],
            "answers by canaries": part["canary_answers"],
        }
        yield from (
            f"{name}: no {what}"
            for what in (*STEPS, "evictions", "answers by canaries")
            if not happened.get(what)
        )


def isolation_part(endpoint: Endpoint, requests: int) -> Part:
    return Part(
        "isolation",
        lambda: measure_isolation(endpoint, requests=requests),
        isolation_sections,
        isolation_faults,
    )


def isolation(
    folder: Path, draw: random.Random, *, requests: int, tenants: int, data: Path | None
) -> Outcome:
    """Ask many tenants at once while they change, and check every answer."""
    options, threads = EncoderOptions(max_tokens=MAX_TOKENS), torch.get_num_threads()
    endpoint = endpoint_in(folder, data, tenants, options, threads=threads)
    part = isolation_part(endpoint, requests)
    return reported(folder, "Isolation", part, tenants=tenants)[1]


def _draw(
    banks: Sequence[Bank],
    texts: dict[str, list[str]],
    count: int,
    num_texts: int,
    draw: random.Random,
) -> Iterable[Question]:
    for bank in draw.choices(banks, k=count):
        yield Question(bank.tenant, tuple(draw.choices(texts[bank.tenant], k=num_texts)))


async def _paging(address: str, replicas: int) -> dict[str, int]:
    """Loads, evictions and the like of all replicas."""
    events: Counter[str] = Counter()
    for body in await scrape_all(address, replicas):
        for event, count in _PAGING.findall(body):
            events[event.decode()] += int(float(count))
    return dict(sorted(events.items()))

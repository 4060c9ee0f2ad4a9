"""More live tenants than slots: loads, waits and evictions, without a wrong answer."""

import asyncio
import gc
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from adapterdistill.backbone import Encoder
from adapterdistill.checkpoint import telling_probes
from adapterdistill.errors import (
    DeadlineExceededError,
    EncoderMismatchError,
    OverloadedError,
    UnknownTenantError,
    WithdrawnError,
)
from adapterdistill.serve.engine import embedding, proofs
from adapterdistill.serve.engine.adapter_bank import AdapterBank
from adapterdistill.serve.engine.engine import Engine, LiveTenant, SearchAnswer, SearchItem
from tests.random_variants import make_variant_tenant
from tests.serving_store import MadeTenant, make_tenant, put_live, stored_file
from tests.unit.serve.engine.test_engine import assert_answers_as, serve_tenants

TEXTS = ["where is my parcel", "hi", "opening hours"]


def tenants(encoder: Encoder, count: int) -> list[MadeTenant]:
    return [make_tenant(encoder, f"tenant-{n}", seed=n, num_faqs=4) for n in range(count)]


def paged(store: Path, encoder: Encoder, made: list[MadeTenant], slots: int) -> Engine:
    for tenant in made:
        put_live(store, tenant)
    engine = Engine(encoder, store, retry_refused_s=3600, capacity=1, max_slots=slots)
    engine.refresh()
    return engine


def held(engine: Engine, tenant: str) -> LiveTenant:
    found = engine.admit(tenant)
    return found.result(30) if isinstance(found, Future) else found


def ask(engine: Engine, made: MadeTenant, encoder: Encoder) -> None:
    item = SearchItem(made.tenant, "hi", 50, held(engine, made.tenant))
    [answer] = engine.search([item])
    assert isinstance(answer, SearchAnswer)
    assert_answers_as(answer, made, encoder, "hi")


def test_all_are_live_and_only_as_many_in_memory_as_there_are_slots(
    store: Path, encoder: Encoder
) -> None:
    made = tenants(encoder, 7)
    engine = paged(store, encoder, made, slots=3)
    assert len(engine.snapshot.tenants) == 3 and len(engine.snapshot.bundles) == 7
    for tenant in (*made, *reversed(made)):
        ask(engine, tenant, encoder)
        assert len(engine.snapshot.tenants) == 3 and engine.num_slots == 3
    counts = engine.paging
    assert counts.loads == counts.waits == counts.evictions > 4
    assert counts.loads + counts.hits == 14 and counts.failures == 0
    assert engine.working_set == 7 > engine.max_slots


def test_a_form_counts_as_one_in_memory_too(store: Path, encoder: Encoder) -> None:
    made = [*tenants(encoder, 2), make_variant_tenant(encoder, "light", "transformer", seed=9)]
    engine = paged(store, encoder, made, slots=2)
    for tenant in (*made, *made):
        ask(engine, tenant, encoder)
        assert len(engine.snapshot.tenants) <= 2


def test_a_bank_has_as_many_slots_as_its_memory_holds(store: Path, encoder: Encoder) -> None:
    engine = Engine(encoder, store, bank_mib=1)
    for tenant in tenants(encoder, 2):
        put_live(store, tenant)
    engine.refresh()
    one = engine.bank_bytes // engine.num_slots
    assert engine.max_slots == 2**20 // one
    assert engine.bank_bytes <= 2**20


def test_requests_for_one_tenant_share_its_load(store: Path, encoder: Encoder) -> None:
    made = tenants(encoder, 3)
    engine = paged(store, encoder, made, slots=2)
    gate, load = threading.Event(), engine._loader.load

    def slow(tenant: str, bundle_id: str, *, prove: bool) -> object:
        assert gate.wait(10)
        return load(tenant, bundle_id, prove=prove)

    engine._loader.load = slow  # type: ignore[method-assign, assignment]
    waiting = [engine.admit("tenant-2") for _ in range(5)]
    # The others are answered meanwhile, and nobody has gone for a load that may fail.
    ask(engine, made[0], encoder)
    ask(engine, made[1], encoder)
    assert engine.paging.evictions == 0
    gate.set()
    found = {id(one.result(30)) for one in waiting if isinstance(one, Future)}
    assert len(found) == 1
    assert (engine.paging.loads, engine.paging.waits) == (1, 5)


def test_a_failed_load_is_logged_evicts_nobody_and_is_not_tried_again_at_once(
    store: Path, encoder: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    made = tenants(encoder, 3)
    damaged = put_live(store, made[2])
    engine = paged(store, encoder, made, slots=2)
    before = set(engine.snapshot.tenants)
    stored_file(store, "tenant-2", damaged, "adapter.safetensors").write_bytes(b"")
    with pytest.raises(UnknownTenantError, match="refused"):
        held(engine, "tenant-2")
    for _ in range(3):
        with pytest.raises(UnknownTenantError, match="refused"):
            engine.admit("tenant-2")
    counts = engine.paging
    assert (counts.failures, counts.waits, counts.evictions) == (1, 1, 0)
    assert set(engine.snapshot.tenants) == before
    [line] = [r.message for r in caplog.records if "tenant-2: bundle refused" in r.message]
    assert "does not have its recorded digest" in line


def test_unknown_tenants_cost_no_load_and_count_in_no_working_set(
    store: Path, encoder: Encoder
) -> None:
    engine = paged(store, encoder, tenants(encoder, 2), slots=1)
    for n in range(1000):
        with pytest.raises(UnknownTenantError):
            engine.admit(f"made-up-{n}")
    assert (engine.paging.waits, engine.paging.evictions, engine.working_set) == (0, 0, 0)


def test_whoever_is_held_stays_and_a_load_waits_for_the_slot(store: Path, encoder: Encoder) -> None:
    made = tenants(encoder, 4)
    engine = paged(store, encoder, made, slots=2)
    kept = [held(engine, made[n].tenant) for n in (0, 1)]
    waiting = engine.admit("tenant-2")
    assert isinstance(waiting, Future)
    time.sleep(0.05)
    assert not waiting.done() and set(engine.snapshot.tenants) == {"tenant-0", "tenant-1"}
    del kept[0]
    waiting.result(30)
    assert set(engine.snapshot.tenants) == {"tenant-1", "tenant-2"}
    item = SearchItem("tenant-1", "hi", 50, kept[0])
    [answer] = engine.search([item])
    assert isinstance(answer, SearchAnswer)


def test_an_item_without_a_hold_is_refused_where_its_tenant_is_not_in_memory(
    store: Path, encoder: Encoder
) -> None:
    engine = paged(store, encoder, tenants(encoder, 2), slots=1)
    found = engine.search([SearchItem("tenant-0", "hi"), SearchItem("tenant-1", "hi")])
    assert isinstance(found[0], SearchAnswer) and isinstance(found[1], OverloadedError)


def test_waiting_for_a_load_ends_in_time_and_leaves_the_load_to_the_others(
    store: Path, encoder: Encoder
) -> None:
    engine = paged(store, encoder, tenants(encoder, 2), slots=1)
    kept = held(engine, "tenant-0")

    async def scenario() -> LiveTenant:
        nonlocal kept
        patient = asyncio.create_task(engine.hold("tenant-1", 30))
        with pytest.raises(DeadlineExceededError, match="still being loaded"):
            await engine.hold("tenant-1", 0.02)
        del kept
        return await patient

    assert asyncio.run(scenario()).manifest.tenant == "tenant-1"


def test_a_withdrawn_version_is_not_loaded_and_not_answered_to_who_holds_it(
    store: Path, encoder: Encoder
) -> None:
    made = tenants(encoder, 2)
    engine = paged(store, encoder, made, slots=1)
    kept = held(engine, "tenant-0")
    names = [tenant.bundle.manifest.ref.name for tenant in made]
    assert [engine.withdraw(name) for name in names] == [("tenant-0",), ("tenant-1",)]
    [answer] = engine.search([SearchItem("tenant-0", "hi", 5, kept)])
    assert isinstance(answer, WithdrawnError)
    with pytest.raises(WithdrawnError):
        engine.admit("tenant-1")


def with_golden(made: MadeTenant, distances: tuple[float, ...]) -> MadeTenant:
    golden = made.bundle.manifest.golden.model_copy(update={"distances": distances})
    manifest = made.bundle.manifest.model_copy(update={"golden": golden})
    return replace(made, bundle=replace(made.bundle, manifest=manifest))


def test_a_tenant_is_proven_briefly_when_asked_for_and_wholly_afterwards(
    store: Path, encoder: Encoder
) -> None:
    made = tenants(encoder, 3)
    golden = made[2].bundle.manifest.golden
    [told] = telling_probes(golden)
    wrong = tuple(d if n == told else d / 2 for n, d in enumerate(golden.distances))
    made[2] = with_golden(made[2], wrong)
    engine = paged(store, encoder, made, slots=3)
    assert engine.snapshot.tenants.keys() == {"tenant-0", "tenant-1", "tenant-2"}
    refused = [engine.prove_next().refused for _ in range(4)]
    assert [list(found) for found in refused] == [[], [], ["tenant-2"], []]
    assert isinstance(refused[2]["tenant-2"], EncoderMismatchError)
    assert engine.snapshot.tenants.keys() == {"tenant-0", "tenant-1"}
    for _ in range(2):  # nor does the next reading of the store bring it back
        engine.refresh()
        with pytest.raises(UnknownTenantError, match="refused"):
            engine.admit("tenant-2")
    ask(engine, made[0], encoder)


def with_wrong_golden(made: MadeTenant) -> MadeTenant:
    distances = made.bundle.manifest.golden.distances
    return with_golden(made, tuple(d + 0.05 for d in distances))


def test_a_bundle_that_fails_the_proof_with_its_first_answer_answers_nothing(
    store: Path, encoder: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    made = tenants(encoder, 3)
    made[2] = with_wrong_golden(made[2])
    engine = paged(store, encoder, made, slots=2)
    lying = held(engine, "tenant-2")
    other = held(engine, "tenant-0")
    for _ in range(2):  # the second time to a request that has held it since
        items = [SearchItem("tenant-2", "hi", 50, lying), SearchItem("tenant-0", "hi", 50, other)]
        refused, answered, again = engine.search([*items, items[0]])
        for found in (refused, again):
            assert isinstance(found, UnknownTenantError) and "refused" in str(found)
        assert isinstance(answered, SearchAnswer)
        assert_answers_as(answered, made[0], encoder, "hi")
    with pytest.raises(UnknownTenantError, match="refused"):
        engine.admit("tenant-2")
    assert engine.paging.failures == 1 and "tenant-2" not in engine.snapshot.tenants
    [line] = [r.message for r in caplog.records if "tenant-2: bundle refused" in r.message]
    assert "tolerance" in line


def test_embeddings_of_a_bundle_that_fails_its_proof_are_refused(
    store: Path, encoder: Encoder
) -> None:
    made = tenants(encoder, 2)
    made[1] = with_wrong_golden(made[1])
    engine = paged(store, encoder, made, slots=1)
    lying = held(engine, "tenant-1")
    with pytest.raises(UnknownTenantError, match="refused"):
        engine.embed(["hi"], [lying])


def test_the_store_s_first_tenants_are_proven_when_it_is_read(
    store: Path, encoder: Encoder
) -> None:
    made = tenants(encoder, 4)
    made[1] = with_wrong_golden(made[1])
    for tenant in made:
        put_live(store, tenant)
    engine = Engine(encoder, store, retry_refused_s=3600)
    changed = engine.refresh()
    assert changed.loaded == ("tenant-0", "tenant-2", "tenant-3")
    assert changed.refused.keys() == {"tenant-1"}
    assert engine.snapshot.num_tenants == 3
    with pytest.raises(UnknownTenantError, match="no live adapter"):
        engine.admit("tenant-1")
    for place in (0, 2, 3):
        ask(engine, made[place], encoder)


def test_a_proof_costs_rows_of_the_first_batch_and_none_of_the_next(
    store: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tenants(encoder, 3)
    engine = paged(store, encoder, made, slots=2)
    rows: list[int] = []

    def counted(bank: AdapterBank, ids: Sequence[Sequence[int]], served: object) -> Tensor:
        rows.append(len(ids))
        return embedding.embed(bank, ids, served)  # type: ignore[arg-type]

    monkeypatch.setattr(proofs, "embed", counted)
    for _ in range(2):
        ask(engine, made[2], encoder)
    assert rows == [2, 1]


def test_reading_the_store_keeps_nobody_in_memory(
    store: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tenants(encoder, 2)
    engine = paged(store, encoder, made, slots=1)
    read, in_memory = engine._pointers.read, []

    def meanwhile() -> object:
        held(engine, "tenant-1")
        in_memory.extend(engine.snapshot.tenants)
        return read()

    monkeypatch.setattr(engine._pointers, "read", meanwhile)
    engine.refresh()
    assert in_memory == ["tenant-1"]


def test_a_proof_keeps_nobody_in_memory(store: Path, encoder: Encoder) -> None:
    made = tenants(encoder, 3)
    engine = paged(store, encoder, made, slots=1)
    for tenant in made:
        ask(engine, tenant, encoder)
        assert engine.prove_next().refused == {}
    assert engine.paging.evictions == 2


def test_a_new_version_out_of_memory_is_proven_before_it_is_live(
    store: Path, encoder: Encoder
) -> None:
    made = tenants(encoder, 2)
    engine = paged(store, encoder, made, slots=1)
    new = make_tenant(encoder, "tenant-1", seed=77)
    damaged = put_live(store, new)
    stored_file(store, "tenant-1", damaged, "faqs.parquet").write_bytes(b"")
    assert engine.refresh().refused.keys() == {"tenant-1"}
    ask(engine, made[1], encoder)
    new = make_tenant(encoder, "tenant-1", seed=78)
    put_live(store, new)
    assert engine.refresh().loaded == ("tenant-1",)
    ask(engine, new, encoder)


def test_a_slot_in_use_by_a_batch_is_not_reused(store: Path, encoder: Encoder) -> None:
    old, new = make_tenant(encoder, "acme", seed=1), make_tenant(encoder, "acme", seed=2)
    engine = serve_tenants(store, encoder, [old])
    live = (in_flight := engine.snapshot).tenants["acme"]
    number, stack = live.served.number, live.bank.stack
    weights = stack.down[:, number].clone()
    for made in (new, make_tenant(encoder, "other", seed=3), make_tenant(encoder, "third", seed=4)):
        put_live(store, made)
        engine.refresh()
    assert torch.equal(stack.down[:, number], weights)
    del in_flight, live
    gc.collect()
    put_live(store, make_tenant(encoder, "fourth", seed=5))
    engine.refresh()
    assert engine.snapshot.tenants["fourth"].served.number == number

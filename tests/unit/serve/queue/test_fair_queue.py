"""Fairness, with a simulated clock and an engine as fast as the measured one."""

import random
import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapterdistill.errors import OverloadedError
from adapterdistill.serve.queue.fair_queue import FairQueue, QueueLimits, Request

BATCH_S, TOKEN_S = 1.8e-3, 60e-6
OTHERS = [f"other-{n}" for n in range(9)]


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(eq=False)
class Sent(Request):
    at: float


@dataclass
class Run:
    """The results of one trace of arrivals."""

    waits: dict[str, list[float]] = field(default_factory=dict)
    """Seconds from arrival to answer, by tenant."""
    tokens: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def p95(self, tenants: list[str]) -> float:
        together = [wait for tenant in tenants for wait in self.waits[tenant]]
        return statistics.quantiles(together, n=20)[-1]


def arrivals(rates: Mapping[str, float], seconds: float, seed: int) -> list[Sent]:
    """Poisson arrivals of queries of 8 to 20 tokens; `rates` in queries a second."""
    sent = []
    for tenant, rate in rates.items():
        draw = random.Random(f"{seed} {tenant}")
        at = draw.expovariate(rate)
        while at < seconds:
            sent.append(Sent(tenant, draw.randint(8, 20), 1, at))
            at += draw.expovariate(rate)
    return sorted(sent, key=lambda one: one.at)


def simulate(sent: list[Sent], limits: QueueLimits) -> Run:
    clock, run = Clock(), Run()
    queue: FairQueue[Sent] = FairQueue(limits, clock)
    coming = iter(sent)
    next_one = next(coming, None)
    while next_one is not None or queue.queries:
        if next_one is not None and not queue.queries:
            clock.now = max(clock.now, next_one.at)
        while next_one is not None and next_one.at <= clock.now:
            try:
                queue.add(next_one)
            except OverloadedError:
                run.refused[next_one.tenant] += 1
            next_one = next(coming, None)
        batch = queue.take()
        clock.now += BATCH_S + TOKEN_S * sum(one.tokens for one in batch)
        for one in batch:
            run.waits.setdefault(one.tenant, []).append(clock.now - one.at)
            run.tokens[one.tenant] += one.tokens
    run.seconds = clock.now
    return run


def rates(of_all_others: float, **more: float) -> dict[str, float]:
    return dict.fromkeys(OTHERS, of_all_others / len(OTHERS)) | more


@pytest.mark.parametrize("load", [60, 180, 360, 600])
def test_a_tenant_with_nine_tenths_of_the_traffic_at_most_doubles_the_others_p95(load: int) -> None:
    """From an engine half idle, with the flood, to one that the others alone keep half busy and
    the flood asks five times too much of."""
    calm = simulate(arrivals(rates(load), 6, seed=1), QueueLimits())
    flood = simulate(arrivals(rates(load, flood=9 * load), 6, seed=1), QueueLimits())
    assert flood.p95(OTHERS) <= 2 * calm.p95(OTHERS)
    assert sum(flood.refused[tenant] for tenant in OTHERS) == 0


def test_without_turns_in_a_batch_the_flood_would_be_felt() -> None:
    """Control for the test above."""
    unfair = QueueLimits(tenant_batch_tokens=512)
    calm = simulate(arrivals(rates(360), 6, seed=1), unfair)
    flood = simulate(arrivals(rates(360, flood=3240), 6, seed=1), unfair)
    assert flood.p95(OTHERS) > 4 * calm.p95(OTHERS)


def test_two_floods_share_the_engine_by_tokens_not_by_requests() -> None:
    draw = random.Random(2)
    sent = [Sent("long", 100, 1, n / 1000) for n in range(5000)]
    sent += [Sent("short", draw.randint(4, 8), 1, n / 10000) for n in range(50000)]
    limits = QueueLimits(max_queued_of_tenant=16)  # what waits at the end hardly counts
    run = simulate(sorted(sent, key=lambda one: one.at), limits)
    assert run.refused["long"] > 0 and run.refused["short"] > 0
    assert run.tokens["long"] / run.tokens["short"] == pytest.approx(1, rel=0.1)


def test_floods_alone_fill_whole_batches() -> None:
    for floods in (1, 2):
        sent = arrivals({f"flood-{n}": 3000 / floods for n in range(floods)}, 5, seed=3)
        run = simulate(sent, QueueLimits())
        best = 512 / (BATCH_S + 512 * TOKEN_S)
        assert run.tokens.total() / run.seconds > 0.95 * best


def test_a_flood_is_refused_and_leaves_room_for_others() -> None:
    queue: FairQueue[Request] = FairQueue(
        QueueLimits(max_queued=8, max_queued_of_tenant=4), Clock()
    )
    queue.add(Request("flood", 10, 3))
    with pytest.raises(OverloadedError, match="of this tenant"):
        queue.add(Request("flood", 10, 2))
    for tenant in ("a", "b"):
        queue.add(Request(tenant, 10, 2))
    with pytest.raises(OverloadedError, match="too many queries are waiting"):
        queue.add(Request("c", 10, 2))
    assert (queue.queries, queue.tokens) == (7, 30)


def test_a_large_request_is_served_at_once_and_waited_for_afterwards() -> None:
    limits = QueueLimits(max_batch_tokens=50, tenant_batch_tokens=10)
    queue: FairQueue[Request] = FairQueue(limits, Clock())
    for tokens in (40, 10):
        queue.add(Request("large", tokens, 1))
    for _ in range(5):
        queue.add(Request("small", 10, 1))
    turns = []
    while batch := queue.take():
        turns.append([(one.tenant, one.tokens) for one in batch])
    assert turns[0] == [("large", 40), ("small", 10)]
    assert [tenant for turn in turns[1:] for tenant, _ in turn] == [
        *["small"] * 3,
        "large",
        "small",
    ]


def test_what_was_removed_is_neither_served_nor_counted() -> None:
    queue: FairQueue[Request] = FairQueue(QueueLimits(), Clock())
    gone, stays = Request("a", 10, 2), Request("b", 20, 1)
    for one in (gone, stays):
        queue.add(one)
    assert queue.remove(gone) and not queue.remove(gone)
    assert (queue.queries, queue.tokens) == (1, 20)
    assert list(queue.take()) == [stays]
    assert not queue.remove(stays)
    assert not queue.take()


def test_inactive_tenants_are_forgotten() -> None:
    clock = Clock()
    queue: FairQueue[Request] = FairQueue(QueueLimits(), clock)
    for n in range(1000):
        clock.now += 0.01
        queue.add(Request(f"tenant-{n}", 10, 1))
        queue.take()
    assert len(queue._active) <= 101


@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from("abc"), st.integers(1, 30)),
            st.just("take"),
            st.just("remove"),
            st.floats(0.1, 2),
        ),
        max_size=60,
    )
)
def test_every_request_leaves_once_in_its_tenant_s_order_and_batches_keep_to_their_size(
    steps: list[object],
) -> None:
    clock = Clock()
    queue: FairQueue[Request] = FairQueue(
        QueueLimits(max_batch_tokens=40, tenant_batch_tokens=8), clock
    )
    waiting: list[Request] = []

    def take() -> None:
        batch = queue.take()
        assert bool(batch) == bool(waiting)
        assert len(batch) == 1 or sum(one.tokens for one in batch) <= 40
        for one in batch:
            assert next(other for other in waiting if other.tenant == one.tenant) is one
            waiting.remove(one)

    for step in steps:
        if isinstance(step, tuple):
            waiting.append(Request(*step, queries=1))
            queue.add(waiting[-1])
        elif isinstance(step, float):
            clock.now += step
        elif step == "take":
            take()
        elif waiting:
            assert queue.remove(waiting.pop(len(waiting) // 2))
        assert (queue.queries, queue.tokens) == (len(waiting), sum(one.tokens for one in waiting))
    while waiting:
        take()
    assert not queue.take()


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 40), st.integers(0, 2)), max_size=40))
def test_a_batch_is_of_one_encoder_and_nobody_waits_for_ever(
    asked: list[tuple[int, int, int]],
) -> None:
    """Each tenant's requests are served in order, and a batch holds the lowest place of all."""
    queue: FairQueue[Sent] = FairQueue(QueueLimits(max_batch_tokens=64), Clock())
    sent = [Sent(f"t{t}", tokens, 1, n, encoder=e) for n, (t, tokens, e) in enumerate(asked)]
    for one in sent:
        queue.add(one)
    served: list[Sent] = []
    while queue.queries:
        firsts = [tenant.place for tenant in queue._waiting.values()]
        places = {name: tenant.place for name, tenant in queue._waiting.items()}
        batch = queue.take()
        assert len({one.encoder for one in batch}) == 1
        assert places[batch[0].tenant] == min(firsts)
        served += batch
    assert len(served) == len(sent)
    for tenant in {one.tenant for one in sent}:
        own = [one.at for one in served if one.tenant == tenant]
        assert own == sorted(own)


def test_two_encoders_get_equal_shares_of_the_engine_under_load() -> None:
    queue: FairQueue[Sent] = FairQueue(QueueLimits(), Clock())
    for n in range(400):
        for encoder in (0, 1):
            queue.add(Sent(f"tenant-{encoder}-{n % 8}", 10, 1, n, encoder=encoder))
    tokens: Counter[object] = Counter()
    for _ in range(8):
        batch = queue.take()
        tokens[batch[0].encoder] += sum(one.tokens for one in batch)
    assert abs(tokens[0] - tokens[1]) <= 512 and min(tokens.values()) > 1000

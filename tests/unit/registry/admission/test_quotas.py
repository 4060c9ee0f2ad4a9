"""Token buckets on a clock that the test turns, slots, and room held for uploads."""

import asyncio
import pickle
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapterdistill.errors import QuotaExceededError, RateLimitedError
from adapterdistill.registry.access import ANYONE, Caller
from adapterdistill.registry.admission import quotas
from adapterdistill.registry.admission.quotas import (
    CallLimits,
    OpenCalls,
    Quotas,
    RateLimit,
    StorageQuota,
    Stored,
    TransferSlots,
)


class Clock:
    """Seconds, as the test sets them."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def limit_of(clock: Clock, per_s: float = 2.0, burst: int = 3) -> RateLimit:
    return RateLimit("2 calls a second", per_s, burst, clock=clock)


def taken(limit: RateLimit, caller: str = "owner/acme") -> int:
    """Return the number of tokens now."""
    for count in range(10_000):
        try:
            limit.take(caller)
        except RateLimitedError:
            return count
    raise AssertionError("no bound")


def test_a_burst_is_allowed_and_then_tokens_come_at_the_rate() -> None:
    clock = Clock()
    limit = limit_of(clock)
    assert taken(limit) == 3
    clock.now_s += 0.5
    assert taken(limit) == 1
    clock.now_s += 60
    assert taken(limit) == 3


def test_the_wait_that_is_told_is_enough_and_not_too_long() -> None:
    clock = Clock()
    limit = limit_of(clock)
    taken(limit)
    with pytest.raises(RateLimitedError, match="owner/acme made more than 2 calls") as caught:
        limit.take("owner/acme")
    wait_s = caught.value.retry_after_s
    assert wait_s == pytest.approx(0.5)
    clock.now_s += wait_s * 0.9
    assert taken(limit) == 0
    clock.now_s += wait_s * 0.1
    assert taken(limit) == 1


def test_one_callers_flood_costs_another_nothing() -> None:
    limit = limit_of(Clock())
    taken(limit, "owner/flood")
    assert taken(limit, "owner/acme") == 3


def test_buckets_of_callers_who_come_and_go_take_bounded_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quotas, "MAX_CALLERS", 10)
    limit = limit_of(Clock())
    for number in range(1000):
        limit.take(f"owner/t{number}")
    assert len(limit._full_at) == 10
    assert taken(limit, "owner/t999") == 2  # the latest are the ones remembered


@given(
    pauses=st.lists(st.floats(0, 2), max_size=60),
    per_s=st.floats(0.1, 50),
    burst=st.integers(1, 20),
)
def test_never_more_than_burst_and_rate_allow(
    pauses: list[float], per_s: float, burst: int
) -> None:
    clock = Clock()
    limit = limit_of(clock, per_s, burst)
    begun_s, allowed = clock.now_s, 0
    for pause in pauses:
        clock.now_s += pause
        try:
            limit.take("a")
        except RateLimitedError:
            continue
        allowed += 1
    assert allowed <= burst + (clock.now_s - begun_s) * per_s + 1e-3


def test_the_wait_survives_pickle() -> None:
    error = pickle.loads(pickle.dumps(RateLimitedError("slower", retry_after_s=2.5)))
    assert (str(error), error.retry_after_s) == ("slower", 2.5)


def test_open_calls_are_counted_for_each_caller_and_given_back() -> None:
    limit = OpenCalls(2)
    with limit.hold("a"), limit.hold("a"), limit.hold("b"):
        with pytest.raises(RateLimitedError, match="2 calls open"), limit.hold("a"):
            pass
        with limit.hold("b"):
            pass
    with limit.hold("a"), limit.hold("a"):
        pass
    assert not limit._open


def test_calls_are_limited_by_their_rate_and_by_how_many_are_open() -> None:
    acme, brook = Caller("owner", "acme"), Caller("owner", "brook")
    limits = CallLimits(Quotas(calls_per_s=0.001, burst_calls=2, calls_at_once=1))
    with limits.hold(acme), limits.hold(brook):
        with pytest.raises(RateLimitedError, match="has 1 calls open"), limits.hold(acme):
            pass
        with pytest.raises(RateLimitedError, match="has 1 calls open"), limits.hold(brook):
            pass
    refused = pytest.raises(RateLimitedError, match=r"acme made more than 0\.001 calls a second")
    with refused, limits.hold(acme):
        pass


def test_publishes_are_limited_by_the_hour() -> None:
    limits = CallLimits(Quotas(publishes_per_hour=2))
    for caller in (Caller("owner", "acme"), Caller("owner", "brook")):
        limits.take_publish(caller)
        limits.take_publish(caller)
        with pytest.raises(RateLimitedError, match="2 publishes an hour") as caught:
            limits.take_publish(caller)
        # Not longer than half an hour, and less by what the calls before took.
        assert 1740 < caught.value.retry_after_s < 1800 + 1e-3


def test_over_plain_text_no_call_is_limited() -> None:
    limits = CallLimits(Quotas(calls_per_s=0.001, burst_calls=1, calls_at_once=1))
    for _ in range(3):
        with limits.hold(ANYONE), limits.hold(ANYONE):
            limits.take_publish(ANYONE)


def test_one_caller_never_has_all_the_slots() -> None:
    async def scenario() -> list[str]:
        slots = TransferSlots(total=4, each=2)
        held: list[str] = []
        release = asyncio.Event()

        async def transfer(caller: str | None) -> None:
            async with slots.hold(caller):
                held.append(caller or "-")
                await release.wait()

        callers = ["flood"] * 50 + ["acme", "brook", "-"]
        tasks = [asyncio.create_task(transfer(None if c == "-" else c)) for c in callers]
        for _ in range(5):
            await asyncio.sleep(0)
        first = list(held)
        release.set()
        await asyncio.gather(*tasks)
        assert len(held) == len(callers)
        del tasks
        assert not slots._own
        return first

    assert sorted(asyncio.run(scenario())) == ["acme", "brook", "flood", "flood"]


def stored(payload_bytes: int, versions: int) -> Callable[[], Awaitable[Stored]]:
    async def look() -> Stored:
        await asyncio.sleep(0)
        return Stored(payload_bytes, versions)

    return look


def test_uploads_in_progress_count_as_stored() -> None:
    async def scenario() -> None:
        quota = StorageQuota(Quotas(stored_bytes=100, versions=3))
        async with quota.reserve("acme", 40, stored(30, 0)):
            with pytest.raises(QuotaExceededError, match=r"stored_bytes 110.* may have 100"):
                async with quota.reserve("acme", 40, stored(30, 0)):
                    pass
            async with quota.reserve("brook", 100, stored(0, 0)):
                pass
            async with quota.reserve("acme", 30, stored(30, 0)):
                pass
        with pytest.raises(QuotaExceededError, match="versions 4"):
            async with quota.reserve("acme", 1, stored(0, 3)):
                pass
        assert not quota._reserved and not quota._uploads

    asyncio.run(scenario())


def test_of_two_uploads_where_one_fits_one_is_taken() -> None:
    async def scenario() -> list[object]:
        quota = StorageQuota(Quotas(stored_bytes=100))

        async def upload() -> None:
            async with quota.reserve("acme", 60, stored(0, 0)):
                await asyncio.sleep(0.01)

        return await asyncio.gather(upload(), upload(), return_exceptions=True)

    outcomes = asyncio.run(scenario())
    assert sorted(type(one).__name__ for one in outcomes) == ["NoneType", "QuotaExceededError"]


ACME, BROOK = Caller("owner", "acme"), Caller("owner", "brook")


def test_work_is_charged_after_it_was_done_and_refused_from_then_on() -> None:
    limits = CallLimits(Quotas(written_bytes_per_s=1.0, burst_written_bytes=100))
    limits.check_change(ACME)
    limits.charge_change(ACME, 150)
    with pytest.raises(RateLimitedError, match="KiB of changes a second") as refused:
        limits.check_change(ACME)
    assert refused.value.retry_after_s == pytest.approx(50, abs=1)
    limits.check_change(BROOK)
    with limits.hold(ACME):  # it may still read
        pass


def test_a_certificate_is_limited_before_its_caller_is_known() -> None:
    limits = CallLimits(Quotas(calls_per_s=0.001, burst_calls=2))
    for _ in range(2):
        limits.take_certificate("certificate 1")
    with pytest.raises(RateLimitedError):
        limits.take_certificate("certificate 1")
    limits.take_certificate("certificate 2")
    limits.take_certificate(None)


def test_watches_are_counted_apart_from_calls_that_end() -> None:
    limits = CallLimits(Quotas(watches_at_once=1, calls_at_once=1))
    with limits.hold(ACME, "Watch"), limits.hold(ACME, "Fetch"):
        with pytest.raises(RateLimitedError), limits.hold(ACME, "Watch"):
            pass
        with pytest.raises(RateLimitedError), limits.hold(ACME, "GetVersion"):
            pass

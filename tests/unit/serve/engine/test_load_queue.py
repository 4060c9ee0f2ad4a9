import threading
from concurrent.futures import Future

import pytest

from adapterdistill.errors import OverloadedError
from adapterdistill.serve.engine.live import LiveTenant
from adapterdistill.serve.engine.load_queue import MAX_WAIT_S, LoadQueue, PagingCounts


def test_who_would_wait_for_too_long_is_refused_and_told_how_long() -> None:
    gate, counts = threading.Event(), PagingCounts()

    def load(key: str) -> LiveTenant:
        assert gate.wait(10)
        raise RuntimeError(key)

    queue = LoadQueue(load, counts, threads=2)
    queue._load_s = 1.0
    waiting = [queue.join(f"tenant-{n}") for n in range(int(2 * MAX_WAIT_S) + 1)]
    with pytest.raises(OverloadedError, match="too many adapters") as refused:
        queue.join("one-too-many")
    assert refused.value.retry_after_s == queue.wait_s > MAX_WAIT_S
    assert queue.join("tenant-3") is waiting[3]  # who asks for one that waits already may wait
    assert (counts.overloads, counts.waits) == (1, len(waiting) + 1)
    gate.set()
    for n, one in enumerate(waiting):
        with pytest.raises(RuntimeError, match=f"tenant-{n}"):
            one.result(10)
    queue.close()


def test_a_queue_of_quick_loads_may_be_long() -> None:
    queue = LoadQueue(lambda key: pytest.fail(key), PagingCounts(), threads=1)
    queue._load_s = 0.001
    queue._loads = {f"tenant-{n}": Future() for n in range(2000)}
    assert queue.wait_s == pytest.approx(2)
    queue.join("one more")
    queue.close()

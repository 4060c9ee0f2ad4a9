"""Retries of the client's calls: until the time is over, no sooner than the registry asks."""

import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

import grpc
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_before_delay,
    wait_random_exponential,
)

from adapterdistill.errors import (
    AdapterDistillError,
    ChunkChecksumError,
    RateLimitedError,
    RegistryUnavailableError,
    StaleStatementError,
    UploadIncompleteError,
)

T = TypeVar("T")
TRANSIENT: tuple[type[AdapterDistillError], ...] = (
    RegistryUnavailableError,
    RateLimitedError,
    ChunkChecksumError,
    UploadIncompleteError,
    StaleStatementError,  # the same owner published meanwhile
)
"""Errors that a later call may not meet again."""
_backoff = wait_random_exponential(multiplier=0.1, max=2.0)
_SILENT_S = 1.0
"""How long an unreachable registry is called again before that is said."""
logger = logging.getLogger(__name__)


def retried(
    call: Callable[[float], T],
    *,
    timeout_s: float,
    explain: Callable[[Any], AdapterDistillError],
) -> T:
    """Run `call(seconds left)`, and repeat it after transient errors while time is left.

    `explain` makes a domain error of what gRPC raises. The last error is raised.
    """
    deadline = time.monotonic() + timeout_s
    told = False

    def tell(state: RetryCallState) -> None:
        nonlocal told
        error = state.outcome.exception() if state.outcome is not None else None
        elapsed = state.seconds_since_start or 0.0
        if isinstance(error, RegistryUnavailableError) and elapsed >= _SILENT_S and not told:
            told = True
            logger.warning("%s; trying for %.0f s more", error, timeout_s - elapsed)

    attempts = Retrying(
        retry=retry_if_exception_type(TRANSIENT),
        stop=stop_before_delay(timeout_s),
        wait=_wait,
        before_sleep=tell,
        reraise=True,
    )

    def attempt() -> T:
        try:
            return call(max(deadline - time.monotonic(), 0.001))
        except grpc.RpcError as error:
            raise explain(error) from None

    return attempts(attempt)


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    asked_s = error.retry_after_s if isinstance(error, AdapterDistillError) else None
    return max(_backoff(state), asked_s or 0.0)

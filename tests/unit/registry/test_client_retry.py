"""A client that calls an unreachable registry again says so, once and soon."""

import logging

import pytest

from adapterdistill.errors import RegistryUnavailableError
from adapterdistill.registry.client import retry


@pytest.mark.parametrize(("silent_s", "warnings"), [(0.0, 1), (60.0, 0)])
def test_a_registry_that_stays_away_is_told_once_while_it_is_called(
    silent_s: float,
    warnings: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(retry, "_SILENT_S", silent_s)
    calls: list[float] = []

    def call(left_s: float) -> None:
        calls.append(left_s)
        raise RegistryUnavailableError("list at registry r:1: nothing listens there")

    with caplog.at_level(logging.WARNING), pytest.raises(RegistryUnavailableError):
        retry.retried(call, timeout_s=1.0, explain=lambda error: error)
    assert len(calls) > 2
    assert len(caplog.messages) == warnings
    for told in caplog.messages:
        assert told.startswith("list at registry r:1: nothing listens there; trying for ")

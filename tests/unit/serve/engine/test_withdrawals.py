"""A replica drops a withdrawn version within seconds, and says so to those who ask for it."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

import adapterdistill.serve.engine.withdrawals
from adapterdistill.backbone import Encoder
from adapterdistill.errors import WithdrawnError
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.serve.engine.engine import Engine, SearchAnswer, SearchItem
from adapterdistill.serve.engine.withdrawals import WithdrawalFollower
from tests.contract.running_registry import Running, wait_until
from tests.serving_store import MadeTenant, make_tenant, put_live

ITEM = SearchItem("one", "where is my parcel")


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path / "registry")
    yield running
    running.close()


def made_engine(store: Path, encoder: Encoder, *made: MadeTenant) -> Engine:
    for tenant in made:
        put_live(store, tenant)
    engine = Engine(encoder, store, retry_refused_s=0)
    engine.refresh()
    return engine


def following(engine: Engine, registry: Running) -> WithdrawalFollower:
    follower = WithdrawalFollower(engine, lambda: RegistryClient(registry.address, timeout_s=5))
    follower.start()
    return follower


def test_a_withdrawn_version_is_answered_no_more_and_the_rest_stays(
    store: Path, encoder: Encoder
) -> None:
    one, two = (make_tenant(encoder, name, seed=seed) for name, seed in (("one", 1), ("two", 2)))
    engine = made_engine(store, encoder, one, two)
    assert engine.withdraw(one.bundle.manifest.ref.name) == ("one",)
    assert engine.withdraw(one.bundle.manifest.ref.name) == ()
    gone, kept = engine.search([ITEM, SearchItem("two", "hi")])
    assert isinstance(gone, WithdrawnError)
    assert one.bundle.manifest.version in str(gone)
    assert isinstance(kept, SearchAnswer)
    assert engine.refresh().loaded == ()
    assert isinstance(engine.search([ITEM])[0], WithdrawnError)


def test_a_tenant_comes_back_with_another_version(store: Path, encoder: Encoder) -> None:
    old, new = make_tenant(encoder, "one", seed=1), make_tenant(encoder, "one", seed=2)
    engine = made_engine(store, encoder, old)
    engine.withdraw(old.bundle.manifest.ref.name)
    put_live(store, new)
    assert engine.refresh().loaded == ("one",)
    [answer] = engine.search([ITEM])
    assert isinstance(answer, SearchAnswer)
    assert answer.version == new.bundle.manifest.version
    put_live(store, old)  # rolled back to what was withdrawn: it stays so
    engine.refresh()
    assert isinstance(engine.search([ITEM])[0], WithdrawnError)


def test_a_replica_drops_what_the_registry_withdraws(
    store: Path, encoder: Encoder, registry: Running, caplog: pytest.LogCaptureFixture
) -> None:
    made = make_tenant(encoder, "one", seed=1)
    manifest = made.bundle.manifest
    registry.client.publish(manifest, made.bundle.adapter_payload)
    engine = made_engine(store, encoder, made)
    logging.getLogger("ray.serve").propagate = True
    follower = following(engine, registry)
    wait_until(lambda: follower.state.followed_until > 0)
    assert isinstance(engine.search([ITEM])[0], SearchAnswer)
    with caplog.at_level(logging.ERROR, "ray.serve"):
        registry.client.withdraw(manifest.ref, "labels were wrong")
        wait_until(lambda: isinstance(engine.search([ITEM])[0], WithdrawnError))
    assert any("labels were wrong" in record.getMessage() for record in caplog.records)
    follower.stop()
    follower.join(timeout=10)
    assert not follower.is_alive()


def test_a_replica_that_starts_later_is_told_what_it_missed(
    store: Path, encoder: Encoder, registry: Running
) -> None:
    made = make_tenant(encoder, "one", seed=1)
    registry.client.publish(made.bundle.manifest, made.bundle.adapter_payload)
    registry.client.withdraw(made.bundle.manifest.ref, "old")
    engine = made_engine(store, encoder, made)
    follower = following(engine, registry)
    wait_until(lambda: isinstance(engine.search([ITEM])[0], WithdrawnError))
    follower.stop()
    follower.join(timeout=10)


def test_a_registry_that_comes_back_is_no_longer_lost_though_nothing_changed(
    store: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapterdistill.serve.engine.withdrawals, "_RETRY_S", 0.1)
    registry = Running(tmp_path / "registry")
    port = int(registry.address.rsplit(":", 1)[1])
    follower = WithdrawalFollower(
        made_engine(store, encoder), lambda: RegistryClient(registry.address, timeout_s=0.5)
    )
    follower.start()
    registry.close()
    wait_until(lambda: follower.state.lost_at is not None, timeout_s=15)
    registry = Running(tmp_path / "registry", port=port)
    wait_until(lambda: follower.state.lost_at is None, timeout_s=15)
    follower.stop()
    follower.join(timeout=10)
    assert not follower.is_alive()
    registry.close()

"""A change is made once for one request id, however often it is sent."""

import sqlite3
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapterdistill.errors import AliasConflictError, ConfigError, RequestIdReusedError
from adapterdistill.registry.access import Caller
from adapterdistill.registry.index import idempotency
from adapterdistill.registry.index.database import sqlite
from adapterdistill.registry.index.idempotency import once
from adapterdistill.registry.v1 import registry_pb2 as pb

ACME, BROOK = Caller("owner", "acme"), Caller("owner", "brook")


class Changes:
    """A change that counts how often it was made."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db
        self.made = 0

    def make(self) -> pb.SetAliasResponse:
        self.made += 1
        self.db.execute(
            "INSERT INTO lineage VALUES (?, ?, ?)", (f"student {self.made}", "teacher", b"")
        )
        return pb.SetAliasResponse(alias=pb.Alias(etag=f"etag {self.made}"))

    def once(self, request: pb.SetAliasRequest, caller: Caller = ACME) -> str:
        return once(self.db, caller, request, pb.SetAliasResponse, self.make).alias.etag


@pytest.fixture
def changes(tmp_path: Path) -> Iterator[Changes]:
    db = sqlite(tmp_path / "index.sqlite3")
    yield Changes(db)
    db.close()


def request(request_id: str = "", etag: str = "") -> pb.SetAliasRequest:
    return pb.SetAliasRequest(alias=pb.Alias(etag=etag), request_id=request_id)


def test_a_repeated_request_is_answered_as_the_first_time(changes: Changes) -> None:
    one = request(str(uuid.uuid4()))
    assert [changes.once(one) for _ in range(3)] == ["etag 1"] * 3
    assert changes.once(request(str(uuid.uuid4()))) == "etag 2"
    assert changes.made == 2


def test_without_an_id_every_request_is_made(changes: Changes) -> None:
    assert [changes.once(request()) for _ in range(2)] == ["etag 1", "etag 2"]


def test_ids_of_different_callers_are_different(changes: Changes) -> None:
    one = request(str(uuid.uuid4()))
    assert changes.once(one, ACME) == "etag 1"
    assert changes.once(one, BROOK) == "etag 2"


def test_an_id_with_another_request_is_refused(changes: Changes) -> None:
    request_id = str(uuid.uuid4())
    changes.once(request(request_id))
    with pytest.raises(RequestIdReusedError) as caught:
        changes.once(request(request_id, etag="x"))
    assert caught.value.field == "request_id"
    other_kind = pb.SetConsentRequest(request_id=request_id)
    with pytest.raises(RequestIdReusedError):
        once(changes.db, ACME, other_kind, pb.SetConsentResponse, pb.SetConsentResponse)
    assert changes.made == 1


@pytest.mark.parametrize("request_id", ["1", "x" * 36, "{" + "1" * 34 + "}", "1" * 32])
def test_an_id_that_is_no_uuid_is_refused(changes: Changes, request_id: str) -> None:
    with pytest.raises(ConfigError, match="UUID"):
        changes.once(request(request_id))
    assert changes.made == 0


def test_a_change_that_fails_is_not_remembered(changes: Changes) -> None:
    one = request(str(uuid.uuid4()))

    def fail() -> pb.SetAliasResponse:
        changes.make()
        raise AliasConflictError("moved")

    with pytest.raises(AliasConflictError):
        once(changes.db, ACME, one, pb.SetAliasResponse, fail)
    assert changes.db.execute("SELECT count(*) FROM lineage").fetchone() == (0,)
    assert changes.once(one) == "etag 2"


def test_answers_are_forgotten_after_a_day_and_the_oldest_beyond_the_bound(
    changes: Changes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "MAX_KEPT", 3)
    ids = [request(str(uuid.uuid4())) for _ in range(5)]
    other = request(str(uuid.uuid4()))
    changes.once(other, BROOK)
    for one in ids:
        changes.once(one)
    kept = changes.db.execute("SELECT count(*) FROM requests WHERE caller = 'owner/acme'")
    assert kept.fetchone() == (3,)
    made = changes.made
    assert changes.once(ids[-1]) == f"etag {made}" and changes.made == made
    assert changes.once(ids[0]) == f"etag {made + 1}"
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + (idempotency.KEPT_S + 1) * 10**9)
    assert changes.once(other, BROOK) == f"etag {made + 2}"
    assert changes.db.execute("SELECT count(*) FROM requests").fetchone() == (1,)

"""The gRPC interface over a real engine, without Ray and without a network."""

import asyncio
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from starlette.testclient import TestClient

from adapterdistill.backbone import Encoder
from adapterdistill.serve.grpc.rpc import MAX_REQUEST_BYTES, Rpc
from adapterdistill.serve.http.api import build_api
from adapterdistill.serve.queue.batcher import SearchOutcome
from adapterdistill.serving.v1 import serving_pb2 as pb
from tests.serving_rpc import assert_equal_answers, assert_equal_states
from tests.serving_store import make_tenant, put_live
from tests.unit.serve.grpc.rpc_calls import (
    SECRET,
    Asked,
    Context,
    assert_refused,
    call,
    made,
)

LOGGER = "adapterdistill.requests"


@pytest.fixture
def asked(store: Path, encoder: Encoder, tmp_path: Path) -> Iterator[Asked]:
    with made(store, encoder, tmp_path) as asked:
        yield asked


def test_grpc_and_http_give_the_same_answers(asked: Asked) -> None:
    texts = [f"question number {n}" for n in range(64)]
    # Not entered: at its end the app would drain the batcher that both use.
    client = TestClient(build_api(asked.engine, asked.batcher, time.monotonic))
    for tenant, fields in (("acme", {}), ("acme", {"top_k": 2}), ("strict", {})):
        body = {"queries": texts, **fields}
        expected = client.post(f"/v1/tenants/{tenant}/search", json=body).json()
        answered, context = asked.search(tenant, queries=texts, **fields)
        assert context.code is None
        assert_equal_answers(answered, expected)
        assert {result.abstained for result in answered.results} == {tenant == "strict"}


def test_grpc_and_http_explain_alike(asked: Asked, store: Path, encoder: Encoder) -> None:
    put_live(store, make_tenant(encoder, "acme", seed=7, scorer=True))
    asked.engine.refresh()
    client = TestClient(build_api(asked.engine, asked.batcher, time.monotonic))
    body = {"queries": ["hi", "opening hours"], "explain": True}
    expected = client.post("/v1/tenants/acme/search", json=body).json()
    answered, _ = asked.search("acme", **body)
    for result, wanted in zip(answered.results, expected["results"], strict=True):
        assert result.decided_by == wanted["decided_by"]
        for faq, wanted_faq in zip(result.ranked, wanted["ranked"], strict=True):
            views = {field.name: value for field, value in faq.views.ListFields()}
            assert list(wanted_faq["views"]) == ["cosine", "head", "characters", "answers"]
            assert views == pytest.approx(wanted_faq["views"], abs=1e-5)
    plain, _ = asked.search("acme", queries=["hi"])
    assert not plain.results[0].HasField("decided_by")
    assert not any(faq.HasField("views") for faq in plain.results[0].ranked)


def test_a_tenant_s_state_is_that_of_http(asked: Asked) -> None:
    client = TestClient(build_api(asked.engine, asked.batcher, time.monotonic))
    for tenant in ("acme", "tried", "strict"):
        raw = pb.GetTenantRequest(tenant=tenant).SerializeToString()
        answered = call(asked.rpc.get_tenant, raw, Context(asked.headers(tenant)))
        assert_equal_states(answered, client.get(f"/v1/tenants/{tenant}").json())
        assert answered.HasField("candidate") == (tenant == "tried")
    assert answered.quality.queries == 40
    context = Context(asked.headers("absent"))
    raw = pb.GetTenantRequest(tenant="absent").SerializeToString()
    refused = call(asked.rpc.get_tenant, raw, context)
    assert_refused(refused, context, "NOT_FOUND", "UNKNOWN_TENANT")


def test_the_version_that_is_asked_for_answers(asked: Asked) -> None:
    versions = set()
    for alias in (pb.ALIAS_LIVE, pb.ALIAS_CANARY):
        answered, _ = asked.search("tried", queries=["hi"], alias=alias)
        assert answered.adapter.alias == alias
        versions.add(answered.adapter.version)
    assert len(versions) == 2
    refused, context = asked.search("acme", queries=[SECRET], alias=pb.ALIAS_CANARY)
    assert_refused(refused, context, "NOT_FOUND", "NO_CANDIDATE")


@pytest.mark.parametrize(
    ("fields", "at_fault"),
    [
        ({}, "queries"),
        ({"queries": [SECRET, ""]}, "queries[1]"),
        ({"queries": [" \n\t"]}, "queries[0]"),
        ({"queries": [SECRET, SECRET, SECRET * 200]}, "queries[2]"),
        ({"queries": [SECRET] * 65}, "queries"),
        ({"queries": [SECRET], "top_k": 0}, "top_k"),
        ({"queries": [SECRET], "top_k": 51}, "top_k"),
        ({"queries": [SECRET], "top_k": -1}, "top_k"),
        ({"queries": [SECRET], "alias": 9}, "alias"),
    ],
)
def test_a_malformed_field_is_named_and_not_echoed(
    asked: Asked, fields: dict[str, Any], at_fault: str
) -> None:
    response, context = asked.search(**fields)
    assert_refused(response, context, "INVALID_ARGUMENT", "INVALID_REQUEST")
    [violation] = context.detail(BadRequest()).field_violations
    assert violation.field == at_fault and at_fault in context.details


@pytest.mark.parametrize(
    "raw",
    [
        SECRET.encode(),
        b"\xff\xff",
        b"\x0a\x02\xff\xfe",
        pb.SearchRequest(tenant="acme", queries=[SECRET * 60_000]).SerializeToString(),
    ],
    ids=["text", "cut", "bad-utf8", "too-long"],
)
def test_bytes_that_are_no_message_are_refused_and_not_echoed(asked: Asked, raw: bytes) -> None:
    context = Context(asked.headers("acme"))
    response = call(asked.rpc.search, raw, context)
    assert_refused(response, context, "INVALID_ARGUMENT", "INVALID_REQUEST")


def test_the_longest_valid_request_is_read(asked: Asked) -> None:
    queries = ["\U0001f600" * 2000] * 64
    request = pb.SearchRequest(tenant="acme", queries=queries, top_k=1)
    assert len(request.SerializeToString()) < MAX_REQUEST_BYTES
    response, context = asked.search(queries=queries, top_k=1)
    assert context.code is None and len(response.results) == 64


def test_every_refusal_of_a_token_is_one_and_the_same(asked: Asked) -> None:
    token = asked.texts["acme"]
    given: list[tuple[tuple[str, str], ...]] = [
        (),
        (("authorization", ""),),
        (("authorization", "Bearer"),),
        (("authorization", token),),
        (("authorization", f"Basic {token}"),),
        (("authorization", f"Bearer {token}x"),),
        (("authorization", "Bearer \u00fc"),),
        (("authorization", f"Bearer {asked.expired}"),),
        asked.headers("other"),
        (*asked.headers("acme"), *asked.headers("acme")),
    ]
    told = set()
    for tenant in ("acme", "nobody", "Not A Name", ""):
        for metadata in given:
            for method, request in (
                (asked.rpc.search, pb.SearchRequest(tenant=tenant, queries=[SECRET])),
                (asked.rpc.search, pb.SearchRequest(tenant=tenant)),
                (asked.rpc.get_tenant, pb.GetTenantRequest(tenant=tenant)),
            ):
                context = Context(metadata)
                response = call(method, request.SerializeToString(), context)
                assert_refused(response, context, "UNAUTHENTICATED", "UNAUTHENTICATED")
                told.add((context.details, tuple(context.trailer)))
    assert len(told) == 1
    lower = Context((("authorization", f"bearer {token}"),))
    raw = pb.GetTenantRequest(tenant="acme").SerializeToString()
    assert call(asked.rpc.get_tenant, raw, lower).num_faqs == 5


def test_a_deployment_without_tokens_answers_nobody(asked: Asked) -> None:
    context = Context(asked.headers("acme"))
    raw = pb.SearchRequest(tenant="acme", queries=["hi"]).SerializeToString()
    response = call(Rpc(asked.engine, asked.batcher).search, raw, context)
    assert_refused(response, context, "UNAUTHENTICATED", "UNAUTHENTICATED")


def broken(_items: object) -> list[SearchOutcome]:
    raise RuntimeError(SECRET)


def test_overload_says_when_to_come_again(store: Path, encoder: Encoder, tmp_path: Path) -> None:
    with made(store, encoder, tmp_path, broken, max_queued=3) as asked:
        response, context = asked.search(queries=[SECRET] * 4)
        assert_refused(response, context, "UNAVAILABLE", "OVERLOADED")
        assert context.detail(RetryInfo()).retry_delay.seconds >= 1


def test_waiting_for_too_long_says_when_to_come_again(
    store: Path, encoder: Encoder, tmp_path: Path
) -> None:
    limits = {"max_wait_ms": 1000, "request_timeout_s": 0.01}
    with made(store, encoder, tmp_path, broken, **limits) as asked:
        response, context = asked.search(queries=[SECRET])
        assert_refused(response, context, "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")
        assert context.detail(RetryInfo()).retry_delay.ToNanoseconds() > 0


def test_an_unforeseen_failure_is_told_and_logged_without_its_message(
    store: Path, encoder: Encoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with made(store, encoder, tmp_path, broken) as asked:
        response, context = asked.search(queries=[SECRET])
        assert_refused(response, context, "INTERNAL", "INTERNAL")
    assert "given-1 failed: RuntimeError at " in caplog.text and SECRET not in caplog.text


def test_a_withdrawn_adapter_is_a_failed_precondition(asked: Asked) -> None:
    live = asked.engine.snapshot.find("acme")
    assert not isinstance(live, str | Exception)
    asked.engine.withdraw(live.manifest.ref.name)
    response, context = asked.search(queries=[SECRET])
    assert_refused(response, context, "FAILED_PRECONDITION", "WITHDRAWN")


@pytest.fixture
def request_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, LOGGER)
    monkeypatch.setattr(logging.getLogger(LOGGER), "propagate", True)
    return caplog


def written(log: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [json.loads(record.message) for record in log.records if record.name == LOGGER]


def test_a_caller_who_leaves_is_not_waited_for(
    store: Path, encoder: Encoder, tmp_path: Path, request_log: pytest.LogCaptureFixture
) -> None:
    raw = pb.SearchRequest(tenant="acme", queries=[SECRET]).SerializeToString()

    async def leave(asked: Asked) -> None:
        context = Context(asked.headers("acme"))
        waiting = asyncio.ensure_future(asked.rpc.search(raw, context))
        while asked.batcher.num_queued == 0:
            assert not waiting.done()
            await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert asked.batcher.num_queued == 0

    with made(store, encoder, tmp_path, broken, max_wait_ms=600_000) as asked:
        asyncio.run(leave(asked))
    [line] = written(request_log)
    assert (line["status"], line["outcome"]) == ("CANCELLED", "CANCELLED")


def test_a_request_is_counted_and_written_as_over_http(
    asked: Asked, request_log: pytest.LogCaptureFixture
) -> None:
    answered, _ = asked.search(queries=[SECRET, "hi"])
    asked.search("absent", queries=[SECRET])
    raw = pb.GetTenantRequest(tenant="acme").SerializeToString()
    call(asked.rpc.get_tenant, raw, Context(request_id=f"{SECRET} is text"))
    lines = written(request_log)
    told = [(line["status"], line["outcome"], line["tenant"], line["queries"]) for line in lines]
    assert told == [
        ("OK", "OK", "acme", 2),
        ("NOT_FOUND", "UNKNOWN_TENANT", "absent", 1),
        ("UNAUTHENTICATED", "UNAUTHENTICATED", None, 0),
    ]
    assert [line["request_id"] for line in lines[:2]] == ["given-1"] * 2
    assert lines[0]["version"] == answered.adapter.version
    assert SECRET not in request_log.text
    figures = asked.metrics.exposition().decode()
    for outcome in ("OK", "UNKNOWN_TENANT", "UNAUTHENTICATED"):
        assert f'adapterdistill_requests_total{{outcome="{outcome}",replica=""}} 1.0' in figures
    assert 'adapterdistill_tenant_queries_total{replica="",tenant="acme"} 2.0' in figures

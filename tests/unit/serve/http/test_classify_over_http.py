"""Classification over HTTP and gRPC: the same answers, tokens and refusals."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.rpc.error_details_pb2 import BadRequest
from starlette.testclient import TestClient

from adapterdistill.backbone import Encoder
from adapterdistill.serve.engine.engine import Engine
from adapterdistill.serve.grpc.rpc import Rpc
from adapterdistill.serve.http import openapi
from adapterdistill.serve.http.api import build_api
from adapterdistill.serve.http.classify import ClassifyRequest, ClassifyResponse
from adapterdistill.serve.queue.batcher import Batcher
from adapterdistill.serve.queue.fair_queue import QueueLimits
from adapterdistill.serve.tokens import Tokens, new_token
from adapterdistill.serving.v1 import serving_pb2 as pb
from tests.random_variants import TASKS, make_variant_tenant
from tests.serving_store import make_tenant, put_live
from tests.unit.serve.grpc.rpc_calls import Context, assert_refused, call

SECRET = "canary-4711"
TEXTS = ["it works", "it broke at once"]


class Deployment:
    """Tenants with tasks and one without, over HTTP and gRPC, with tokens."""

    def __init__(self, store: Path, encoder: Encoder, tokens: Path) -> None:
        for tenant, seed in (("acme", 1), ("brook", 2)):
            put_live(store, make_variant_tenant(encoder, tenant, "bilstm", seed=seed, tasks=TASKS))
        put_live(store, make_tenant(encoder, "plain", seed=3))
        self.engine = Engine(encoder, store)
        self.engine.refresh()
        self.batcher = Batcher(self.engine.answer, QueueLimits())
        names = ("acme", "brook", "plain", "nobody")
        self.tokens = {name: new_token(tokens, name, days=1)[0] for name in names}
        held = Tokens(tokens)
        api = build_api(self.engine, self.batcher, time.monotonic, tokens=held)
        self.http = TestClient(api)
        self.rpc = Rpc(self.engine, self.batcher, tokens=held)

    def post(self, tenant: str, body: dict[str, Any], *, token: str | None = None) -> Any:
        headers = {"Authorization": f"Bearer {self.tokens[token or tenant]}"}
        return self.http.post(f"/v1/tenants/{tenant}/classify", json=body, headers=headers)

    def call(
        self, tenant: str, body: dict[str, Any], *, token: str | None = None
    ) -> tuple[pb.ClassifyResponse, Context]:
        fields = {**body, "alias": {"canary": 2}.get(body.get("alias", ""), 0)}
        request = pb.ClassifyRequest(tenant=tenant, **fields)
        context = Context((("authorization", f"Bearer {self.tokens[token or tenant]}"),))
        return call(self.rpc.classify, request.SerializeToString(), context), context


@pytest.fixture
def deployment(store: Path, encoder: Encoder, tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment(store, encoder, tmp_path / "tokens.json")
    yield made
    made.batcher.close()
    made.engine.close()


@pytest.mark.parametrize(
    "body",
    [
        {"task": "mood", "texts": TEXTS},
        {"task": "mood", "texts": TEXTS, "top_k": 1},
        {"task": "same", "texts": TEXTS, "text_pairs": TEXTS[::-1]},
    ],
)
def test_http_and_grpc_give_the_same_classes(deployment: Deployment, body: dict[str, Any]) -> None:
    found = deployment.post("acme", body).json()
    answered, context = deployment.call("acme", body)
    assert context.code is None
    assert found["task"] == answered.task == body["task"]
    assert found["adapter"]["version"] == answered.adapter.version
    assert found["adapter"]["form"] == answered.adapter.form == "multitask_kd"
    for one, other in zip(found["results"], answered.results, strict=True):
        assert [(r["label"], pytest.approx(r["probability"])) for r in one["ranked"]] == [
            (r.label, r.probability) for r in other.ranked
        ]
        assert len(one["ranked"]) == body.get("top_k", {"mood": 3, "same": 2}[body["task"]])
    others = deployment.post("brook", body).json()
    assert others["adapter"]["version"] != found["adapter"]["version"]
    assert others["results"] != found["results"]


@pytest.mark.parametrize(
    ("tenant", "body", "status", "code", "reason", "says"),
    [
        ("nobody", {}, 404, "NOT_FOUND", "UNKNOWN_TENANT", "nobody"),
        ("plain", {}, 404, "NOT_FOUND", "UNKNOWN_TASK", "its tasks: none"),
        ("acme", {"task": "other"}, 404, "NOT_FOUND", "UNKNOWN_TASK", "its tasks: mood, same"),
        ("acme", {"alias": "canary"}, 404, "NOT_FOUND", "NO_CANDIDATE", "candidate"),
        ("acme", {"task": "same"}, 422, "INVALID_ARGUMENT", "INVALID_REQUEST", "give text_pairs"),
        (
            *("acme", {"text_pairs": TEXTS}, 422, "INVALID_ARGUMENT", "INVALID_REQUEST"),
            "no text_pairs",
        ),
        (
            *("acme", {"text_pairs": TEXTS[:1]}, 422, "INVALID_ARGUMENT", "INVALID_REQUEST"),
            "as many text_pairs as texts",
        ),
        ("acme", {"task": "MOOD!"}, 422, "INVALID_ARGUMENT", "INVALID_REQUEST", "task must be"),
        ("acme", {"texts": []}, 422, "INVALID_ARGUMENT", "INVALID_REQUEST", "a list of 1 to 64"),
        ("acme", {"texts": [" "]}, 422, "INVALID_ARGUMENT", "INVALID_REQUEST", "texts[0] is blank"),
        ("acme", {"top_k": 51}, 422, "INVALID_ARGUMENT", "INVALID_REQUEST", "from 1 to 50"),
    ],
)
def test_refusals_are_the_same_over_both_and_quote_nothing(
    deployment: Deployment,
    tenant: str,
    body: dict[str, Any],
    status: int,
    code: str,
    reason: str,
    says: str,
) -> None:
    asked = {"task": "mood", "texts": [SECRET, "hi"], **body}
    answer = deployment.post(tenant, asked)
    assert (answer.status_code, answer.json()["reason"]) == (status, reason)
    assert says in answer.json()["message"] and SECRET not in answer.text
    response, context = deployment.call(tenant, asked)
    assert_refused(response, context, code, reason)
    assert says in context.details
    if "pairs" in says:
        assert context.detail(BadRequest()) is not None


def test_another_tenants_token_is_refused(deployment: Deployment) -> None:
    body = {"task": "mood", "texts": TEXTS}
    assert deployment.post("acme", body, token="brook").status_code == 401
    response, context = deployment.call("acme", body, token="brook")
    assert_refused(response, context, "UNAUTHENTICATED", "UNAUTHENTICATED")


def test_a_withdrawn_version_classifies_no_more(deployment: Deployment) -> None:
    name = deployment.engine.snapshot.tenants["acme"].manifest.ref.name
    deployment.engine.withdraw(name)
    body = {"task": "mood", "texts": TEXTS}
    assert deployment.post("acme", body).status_code == 410
    response, context = deployment.call("acme", body)
    assert_refused(response, context, "FAILED_PRECONDITION", "WITHDRAWN")
    assert deployment.post("brook", body).status_code == 200


def test_a_web_pages_form_is_not_read(deployment: Deployment) -> None:
    headers = {
        "Authorization": f"Bearer {deployment.tokens['acme']}",
        "Content-Type": "text/plain",
        "Origin": "https://elsewhere.example",
    }
    answer = deployment.http.post("/v1/tenants/acme/classify", content=b"{}", headers=headers)
    assert answer.status_code == 422


def test_every_example_is_a_message_that_is_taken_or_sent() -> None:
    for example in openapi.CLASSIFY_EXAMPLES.values():
        ClassifyRequest.model_validate(example["value"])
    answer = ClassifyResponse.model_validate(openapi.CLASSES_EXAMPLE)
    assert answer.model_dump() == openapi.CLASSES_EXAMPLE

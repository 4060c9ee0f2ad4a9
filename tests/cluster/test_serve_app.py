"""The app on a real Ray Serve, over HTTP on loopback and over gRPC."""

import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from adapterdistill.actors.cluster import free_port
from adapterdistill.backbone import Encoder, load_encoder
from adapterdistill.drills.catalogue import DRILLS, ON_NAMED
from adapterdistill.drills.drill import run_drill
from adapterdistill.drills.endpoint import named as named_drill
from adapterdistill.drills.named import load_named, on_named
from adapterdistill.serve.tokens import new_token
from adapterdistill.serving.v1 import serving_pb2 as pb
from tests.serving_rpc import Client, assert_equal_answers
from tests.serving_store import MadeTenant, make_tenant, put_live, save_tiny_encoder

pytestmark = pytest.mark.ray
TEXTS = ["where is my parcel", "hi", "can I pay by card?", "opening hours", "refund 7"]
SECRET = "canary-4711"
TWO_REPLICAS: dict[str, object] = {"max_wait_ms": 1, "num_replicas": 2}


@dataclass(frozen=True)
class Served:
    client: httpx.Client
    store: Path
    encoder: Encoder
    tenants: dict[str, MadeTenant]
    redeploy: Callable[[dict[str, object]], str]
    """Deploys again with these settings changed."""
    grpc_address: str


@pytest.fixture(scope="module")
def served(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    from ray import serve as ray_serve

    from adapterdistill.serve.app import APP_NAME, deploy

    folder = save_tiny_encoder(tmp_path_factory.mktemp("encoder"))
    store = tmp_path_factory.mktemp("bundles")
    encoder = load_encoder(str(folder), dtype="float32")
    tenants = {name: make_tenant(encoder, name, seed=n) for n, name in enumerate(["ash", "birch"])}
    for made in tenants.values():
        put_live(store, made)
    args = {"store": str(store), "encoder": str(folder), "dtype": "float32", "refresh_s": 0.1}
    args |= {"max_queued": 64}
    port, grpc_port = free_port(), free_port()

    def redeploy(changed: dict[str, object]) -> str:
        return deploy(args | changed, port=port, grpc_port=grpc_port)

    address = redeploy({})
    with httpx.Client(base_url=address, timeout=30) as client:
        yield Served(client, store, encoder, tenants, redeploy, f"127.0.0.1:{grpc_port}")
    ray_serve.delete(APP_NAME)
    ray_serve.shutdown()


def search(client: httpx.Client, tenant: str, body: object) -> httpx.Response:
    return client.post(f"/v1/tenants/{tenant}/search", json=body)


def eventually(condition: Callable[[], bool], *, timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(0.05)


def assert_answered_by(body: dict, made: MadeTenant, encoder: Encoder, texts: list[str]) -> None:
    assert body["tenant"] == made.tenant
    assert body["adapter"] == {
        "name": "faq",
        "version": made.bundle.manifest.version,
        "form": "adapter",
        "alias": "live",
    }
    for result, text in zip(body["results"], texts, strict=True):
        expected = made.expected(encoder, text)[: len(result["ranked"])]
        assert [r["faq_id"] for r in result["ranked"]] == [faq_id for faq_id, _ in expected]
        scores = [r["score"] for r in result["ranked"]]
        assert scores == pytest.approx([score for _, score in expected], abs=2e-5)


def test_questions_are_answered_over_http(served: Served) -> None:
    for tenant, made in served.tenants.items():
        response = search(served.client, tenant, {"queries": TEXTS, "top_k": 3})
        assert response.status_code == 200
        assert_answered_by(response.json(), made, served.encoder, TEXTS)


def test_unknown_and_malformed_requests_are_refused_without_an_echo(served: Served) -> None:
    for tenant, body, status in (
        ("nobody", {"query": SECRET}, 404),
        ("Not%20A%20Name", {"query": SECRET}, 422),
        ("ash", {"query": ""}, 422),
        ("ash", {"query": SECRET * 200}, 422),
        ("ash", {"query": SECRET, "top_k": 0}, 422),
        ("ash", {SECRET: SECRET}, 422),
    ):
        response = search(served.client, tenant, body)
        assert response.status_code == status
        assert response.json().keys() == {"reason", "message"}
        assert SECRET not in response.text


def test_metrics_are_those_of_a_replica(served: Served) -> None:
    search(served.client, "ash", {"query": "hi"})
    text = served.client.get("/metrics").text
    assert re.search(r'adapterdistill_tenant_queries_total{replica="\w+",tenant="ash"} [1-9]', text)


def ray_s_logs() -> str:
    import ray

    logs = Path(ray.init(ignore_reinit_error=True).address_info["session_dir"], "logs")
    files = (path for path in logs.rglob("*") if path.is_file())
    return "".join(path.read_text("utf-8", "replace") for path in files)


def test_ray_s_logs_tell_of_requests_without_their_text(served: Served) -> None:
    for number, body in enumerate(({"query": SECRET}, {SECRET: SECRET}, [SECRET])):
        response = served.client.post(
            f"/v1/tenants/ash/search?{SECRET}",
            json=body,
            headers={"X-Request-Id": f"seen-{number}", "Authorization": f"Bearer {SECRET}"},
        )
        assert response.headers.get_list("X-Request-Id") == [f"seen-{number}"]

    eventually(lambda: '"request_id": "seen-2"' in ray_s_logs())
    assert '"status": 200, "outcome": "OK"' in ray_s_logs()
    assert SECRET not in ray_s_logs()


def test_documentation_health_and_tenants_can_be_read(served: Served) -> None:
    assert served.client.get("/docs").status_code == 200
    assert "/v1/tenants/{tenant}/search" in served.client.get("/openapi.json").json()["paths"]
    assert served.client.get("/healthz").json()["num_tenants"] >= 2
    status = served.client.get("/v1/tenants/ash").json()
    assert status["adapter"]["version"] == served.tenants["ash"].bundle.manifest.version
    assert status["num_faqs"] == 5


def test_a_new_version_and_a_new_tenant_go_live_without_restart(served: Served) -> None:
    newcomer = make_tenant(served.encoder, "newcomer", seed=10)
    assert search(served.client, "newcomer", {"query": "hi"}).status_code == 404
    put_live(served.store, newcomer)
    eventually(lambda: search(served.client, "newcomer", {"query": "hi"}).status_code == 200)
    second = make_tenant(served.encoder, "newcomer", seed=11)
    put_live(served.store, second)
    version = second.bundle.manifest.version

    def is_live() -> bool:
        status = served.client.get("/v1/tenants/newcomer").json()
        return bool(status["adapter"]["version"] == version)

    eventually(is_live)
    body = search(served.client, "newcomer", {"queries": TEXTS}).json()
    assert_answered_by(body, second, served.encoder, TEXTS)


def test_concurrent_mixed_tenants_and_swaps_never_mix(served: Served) -> None:
    swapping = [make_tenant(served.encoder, "swap", seed=seed) for seed in (20, 21)]
    put_live(served.store, swapping[0])
    eventually(lambda: search(served.client, "swap", {"query": "hi"}).status_code == 200)
    by_version = {
        (made.tenant, made.bundle.manifest.version): made
        for made in [*served.tenants.values(), *swapping]
    }
    failures: list[BaseException] = []
    versions: set[str] = set()

    def ask(seed: int) -> None:
        draw = random.Random(seed)
        try:
            with httpx.Client(base_url=served.client.base_url, timeout=30) as client:
                for _ in range(60):
                    tenant = draw.choice(["ash", "birch", "swap"])
                    texts = draw.choices(TEXTS, k=draw.randint(1, 4))
                    response = search(client, tenant, {"queries": texts})
                    assert response.status_code == 200
                    body = response.json()
                    versions.add(body["adapter"]["version"])
                    made = by_version[tenant, body["adapter"]["version"]]
                    assert_answered_by(body, made, served.encoder, texts)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    turn = 0
    while any(thread.is_alive() for thread in threads):
        turn += 1
        put_live(served.store, swapping[turn % 2])
        time.sleep(0.15)
    assert failures == []
    assert {made.bundle.manifest.version for made in swapping} <= versions


def test_too_much_at_once_is_503_with_retry_after_and_passes(served: Served) -> None:
    """Each request alone fills the queue of 64, so some of several at once must be refused."""
    responses: list[httpx.Response] = []

    def ask() -> None:
        with httpx.Client(base_url=served.client.base_url, timeout=30) as client:
            responses.append(search(client, "ash", {"queries": ["x" * 300] * 64}))

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = [response for response in responses if response.status_code != 200]
    assert 0 < len(refused) < 16
    for response in refused:
        assert response.status_code == 503
        assert response.json()["reason"] == "OVERLOADED"
        assert int(response.headers["Retry-After"]) >= 1
    assert search(served.client, "ash", {"query": "hi"}).status_code == 200


def test_a_redeployment_fails_no_request(served: Served) -> None:
    """The replica that stops answers its requests; new ones wait for the next replica."""
    stop = threading.Event()
    statuses: list[int] = []

    def ask() -> None:
        with httpx.Client(base_url=served.client.base_url, timeout=30) as client:
            while not stop.is_set():
                statuses.append(search(client, "ash", {"queries": ["x" * 300] * 8}).status_code)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(statuses) > 20)
    served.redeploy(TWO_REPLICAS)
    before = len(statuses)
    eventually(lambda: len(statuses) > before + 20)
    stop.set()
    for thread in threads:
        thread.join()
    assert set(statuses) == {200}


def test_the_drill_kills_a_replica_of_a_named_deployment_and_it_recovers(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.redeploy(TWO_REPLICAS)  # which are there already after the test before
    monkeypatch.setattr(named_drill, "_LONGEST_WAIT_S", 0.1)
    monkeypatch.setattr(named_drill, "_AFTERWARDS_S", 0.2)
    (tmp_path / "questions.txt").write_text("\n".join(TEXTS), "utf-8")
    (tmp_path / "day.toml").write_text(
        f'[serving]\naddress = "{served.client.base_url}"\ntenant = "birch"\n'
        f'queries = "{tmp_path / "questions.txt"}"\n[ray]\n',
        "utf-8",
    )
    named = load_named(tmp_path / "day.toml")
    drill = on_named(DRILLS["kill-serve-replica"], ON_NAMED, named, tmp_path / "day.toml")
    found = run_drill(drill, seed=1)
    assert found.findings == ()
    assert found.recovery_s is not None and found.recovery_s > 0


def test_grpc_answers_as_http_does_and_refuses_without_private_text(
    served: Served, tmp_path: Path
) -> None:
    asked = pb.SearchRequest(tenant="ash", queries=TEXTS, top_k=3)
    with Client(served.grpc_address) as client:
        assert client.refusal("Search", asked) == ("UNAUTHENTICATED", "UNAUTHENTICATED")
        tokens = tmp_path / "tokens.json"
        held = {tenant: new_token(tokens, tenant, days=1)[0] for tenant in ("ash", "absent")}
        served.redeploy({"tokens": str(tokens)})
        http = served.client.post(
            "/v1/tenants/ash/search",
            json={"queries": TEXTS, "top_k": 3},
            headers={"Authorization": f"Bearer {held['ash']}"},
        )
        assert_equal_answers(client.search(asked, held["ash"]), http.json())
        told = client.call("GetTenant", pb.GetTenantRequest(tenant="ash"), held["ash"])
        assert pb.GetTenantResponse.FromString(told).num_faqs == 5
        for request, token, code, reason in (
            (asked, held["absent"], "UNAUTHENTICATED", "UNAUTHENTICATED"),
            (
                pb.SearchRequest(tenant="absent", queries=[SECRET]),
                held["absent"],
                "NOT_FOUND",
                "UNKNOWN_TENANT",
            ),
            (
                pb.SearchRequest(tenant="ash", queries=[SECRET * 200]),
                held["ash"],
                "INVALID_ARGUMENT",
                "INVALID_REQUEST",
            ),
            (SECRET.encode(), held["ash"], "INVALID_ARGUMENT", "INVALID_REQUEST"),
        ):
            assert client.refusal("Search", request, token) == (code, reason)
    eventually(lambda: ray_s_logs().count('"status": "INVALID_ARGUMENT"') == 2)
    assert SECRET not in ray_s_logs()

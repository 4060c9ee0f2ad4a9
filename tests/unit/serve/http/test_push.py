"""A push over HTTP: whole or not at all, resumable, and for the token's own tenant alone."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from adapterdistill.backbone import Encoder
from adapterdistill.data.schema import Faq
from adapterdistill.errors import (
    ConfigError,
    PushRefusedError,
    ServingError,
    UnauthenticatedError,
)
from adapterdistill.serve.engine.engine import Engine
from adapterdistill.serve.http.api import build_api
from adapterdistill.serve.queue.batcher import Batcher
from adapterdistill.serve.queue.fair_queue import QueueLimits
from adapterdistill.serve.tokens import Tokens, new_token
from adapterdistill.serving import pusher
from adapterdistill.store import pushing
from adapterdistill.store.bundle import Bundle, read_bundle, read_contents, write_bundle
from adapterdistill.store.objects import Folder
from adapterdistill.store.pushing import Receiver
from adapterdistill.store.release import has_release, put_up, read_release, set_live
from adapterdistill.store.sealing import new_key
from tests.serving_store import make_tenant, stored_file

URL = "http://127.0.0.1:8000"
Push = Callable[..., pusher.Pushed]


class Deployment:
    """A deployment that takes pushes, and the wire to it, which counts and can be cut."""

    def __init__(self, path: Path, encoder: Encoder, *, max_bytes: int = 1 << 24) -> None:
        self.store, self.keys = path / "there", dict[str, bytes]()
        self.store.mkdir()
        tokens = path / "tokens.json"
        self.tokens = {t: new_token(tokens, t, days=1)[0] for t in ("acme", "brook")}
        self.engine = Engine(encoder, self.store, key_for=self.keys.get)
        self.batcher = Batcher(self.engine.search, QueueLimits())
        self.receiver = Receiver(
            Folder(self.store), max_bytes=max_bytes, key_for=lambda tenant: self.keys.get(tenant)
        )
        self.api = TestClient(
            build_api(
                self.engine,
                self.batcher,
                time.monotonic,
                tokens=Tokens(tokens),
                receiver=self.receiver,
            )
        )
        self.requests = self.blob_bytes = 0
        self.cut_after = 1000
        self.answers: dict[int, httpx.Response] = {}

    def send(self, request: httpx.Request) -> httpx.Response:
        self.requests += 1
        if self.requests in self.answers:
            return self.answers[self.requests]
        if self.requests > self.cut_after:
            raise httpx.ConnectError("cut")
        content = request.read()
        if "/blobs/" in request.url.path:
            self.blob_bytes += len(content)
        path = request.url.raw_path.decode()
        found = self.api.put(path, content=content, headers=dict(request.headers))
        return httpx.Response(found.status_code, content=found.content)


@pytest.fixture
def there(
    tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Deployment]:
    made = Deployment(tmp_path, encoder)
    whole = httpx.Client

    def client(**how: Any) -> httpx.Client:
        how.pop("verify"), how.pop("trust_env")
        return whole(**how, transport=httpx.MockTransport(made.send))

    monkeypatch.setattr(httpx, "Client", client)
    monkeypatch.setattr(pusher, "_WAIT_S", 0)
    monkeypatch.setattr(pusher, "CHUNK_BYTES", 500)
    yield made
    made.batcher.close()


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return tmp_path / "here"


@pytest.fixture
def bundle(encoder: Encoder) -> Bundle:
    return make_tenant(encoder, "acme", seed=1, scorer=True).bundle


def push(there: Deployment, here: Path, tenant: str = "acme") -> pusher.Pushed:
    there.requests = there.blob_bytes = 0
    return pusher.push(here, tenant, URL, there.tokens[tenant])


def test_a_push_serves_what_the_owner_has_and_an_update_sends_what_changed(
    there: Deployment, here: Path, bundle: Bundle
) -> None:
    set_live(here, "acme", write_bundle(here, bundle))
    done = push(there, here)
    assert done.sent_bytes == done.bytes == there.blob_bytes  # one pass over its bytes
    assert read_release(there.store, "acme") == read_release(here, "acme")
    assert there.engine.refresh().loaded == ("acme",)
    assert not any((there.store / "pushing").rglob("*.json"))
    assert push(there, here).sent_bytes == 0 and there.requests == 1

    new = write_bundle(here, replace(bundle, faqs=bundle.faqs[::-1]))
    set_live(here, "acme", new)
    files = read_contents(here, "acme", new).files
    changed = files["faqs.parquet"].size + files["bundle.json"].size
    assert push(there, here).sent_bytes == there.blob_bytes == changed
    assert there.engine.refresh().loaded == ("acme",)
    put_up(here, "acme", write_bundle(here, replace(bundle, threshold=0.5)), mode="canary", share=1)
    push(there, here)
    assert read_release(there.store, "acme") == read_release(here, "acme")


def test_bundles_that_the_release_no_longer_names_go(
    there: Deployment, here: Path, bundle: Bundle
) -> None:
    for threshold in (0.1, 0.2, 0.3):
        set_live(here, "acme", write_bundle(here, replace(bundle, threshold=threshold)))
        push(there, here)
    release = read_release(here, "acme")
    kept = {path.stem for path in (there.store / "bundles" / "acme").iterdir()}
    assert kept == {release.bundle, release.before}
    assert len(list((there.store / "blobs" / "acme").iterdir())) == 6  # two heads


def test_a_push_that_is_torn_at_any_step_leaves_the_old_version_and_goes_on(
    there: Deployment, here: Path, bundle: Bundle
) -> None:
    set_live(here, "acme", write_bundle(here, replace(bundle, threshold=0.5)))
    push(there, here)
    old = read_release(there.store, "acme")
    set_live(here, "acme", write_bundle(here, replace(bundle, vectors=-bundle.vectors)))
    wanted, sent, tries = read_release(here, "acme"), 0, 0
    told: set[str] = set()
    there.cut_after = 2  # the offer, and one chunk
    while read_release(there.store, "acme") == old:
        try:
            push(there, here)
        except ServingError as error:
            told.add(str(error))
        sent, tries = sent + there.blob_bytes, tries + 1
        read_bundle(there.store, "acme", read_release(there.store, "acme").bundle)
        assert there.engine.refresh().refused == {}
    assert read_release(there.store, "acme") == wanted and tries > 4
    assert told == {
        f"no answer from {URL}: the connection failed: push again, and it goes on where this ended"
    }
    lacked = sum(
        read_contents(here, "acme", wanted.bundle).files[name].size
        for name in ("index.safetensors", "bundle.json")
    )
    assert sent == lacked  # no byte travelled twice


def test_the_deployment_s_disk_fails_at_any_write_and_the_old_version_stays(
    there: Deployment, here: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_live(here, "acme", write_bundle(here, replace(bundle, threshold=0.5)))
    push(there, here)
    old = read_release(there.store, "acme")
    set_live(here, "acme", write_bundle(here, bundle))
    whole, left = Folder.write, [0]

    def failing(folder: Folder, key: str, content: bytes) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise pushing.StoreError("no room")
        whole(folder, key, content)

    monkeypatch.setattr(Folder, "write", failing)
    for number in range(1, 20):
        left[0] = number
        push(there, here)  # tries again by itself
        if left[0] > 0:
            break
        assert read_release(there.store, "acme") == read_release(here, "acme")
        monkeypatch.setattr(Folder, "write", whole)
        set_live(there.store, "acme", old.bundle)
        (there.store / "live" / "acme.json").write_bytes(old.canonical_json())
        for name in read_contents(here, "acme", read_release(here, "acme").bundle).files:
            blob = stored_file(here, "acme", read_release(here, "acme").bundle, name).name
            if name == "bundle.json":
                (there.store / "blobs" / "acme" / blob).unlink()
        monkeypatch.setattr(Folder, "write", failing)
    assert number > 3


def test_another_tenant_s_token_is_refused_and_nothing_tells_who_is_there(
    there: Deployment, here: Path, bundle: Bundle
) -> None:
    set_live(here, "acme", write_bundle(here, bundle))
    for token in (there.tokens["brook"], "adt_wrong"):
        with pytest.raises(UnauthenticatedError, match="refuses the token for this tenant"):
            pusher.push(here, "acme", URL, token)
    bearer = {"Authorization": f"Bearer {there.tokens['brook']}"}
    release = read_release(here, "acme")
    offer = pushing.Offer(
        release=release, bundles={release.bundle: read_contents(here, "acme", release.bundle)}
    ).canonical_json()
    foreign = there.api.put("/v1/tenants/brook/release", content=offer, headers=bearer)
    assert (foreign.status_code, foreign.json()["reason"]) == (422, "PUSH_REFUSED")
    assert "of another tenant" in foreign.json()["message"]
    assert not has_release(there.store, "acme") and not has_release(there.store, "brook")


def test_what_was_not_offered_is_too_long_or_damaged_is_refused(
    there: Deployment, here: Path, bundle: Bundle
) -> None:
    set_live(here, "acme", write_bundle(here, bundle))
    bearer = {"Authorization": f"Bearer {there.tokens['acme']}"}

    def put(path: str, body: bytes) -> tuple[int, str]:
        found = there.api.put(f"/v1/tenants/acme/{path}", content=body, headers=bearer)
        return found.status_code, found.json().get("message", found.text)

    faqs = read_contents(here, "acme", read_release(here, "acme").bundle).files["faqs.parquet"]
    sha, size = faqs.sha256, faqs.size
    assert put(f"blobs/{sha}?offset=0", b"x") == (
        422,
        "no open offer has this blob: push again from the beginning",
    )
    assert put("release", b"{") == (422, "the offer is malformed: push with the same release")
    there.cut_after = 1
    with pytest.raises(ServingError):
        push(there, here)
    assert put(f"blobs/{sha}?offset=0", b"x" * (size + 1))[1].startswith("the chunk is too large")
    assert put(f"blobs/{sha}?offset=7", b"x") == (200, '{"have":0}')
    assert put(f"blobs/{sha}?offset=0", b"x" * size)[1] == (
        "a blob did not arrive as it was offered: push again"
    )
    assert put(f"blobs/{sha}?offset=0", b"x" * (3 << 20))[0] == 413
    assert put("blobs/not-a-digest?offset=0", b"x")[0] == 422
    there.cut_after = 1000
    push(there, here)
    offer = json.loads((here / "live" / "acme.json").read_text())
    none = json.dumps({"release": offer, "bundles": {}}).encode()
    assert put("release", none)[1].startswith("the offer has not exactly the bundles")


def test_what_is_too_large_names_both_sizes(there: Deployment, here: Path, bundle: Bundle) -> None:
    there.receiver._max_bytes = 10_000
    set_live(here, "acme", write_bundle(here, bundle))
    said = r"0\.0 MiB, and this deployment takes .* MiB of a tenant \(max_push_mib\)"
    with pytest.raises(PushRefusedError, match=said):
        push(there, here)
    assert not (there.store / "blobs").exists()


def test_a_bundle_that_is_not_what_its_name_says_is_refused_and_nothing_changes(
    there: Deployment, here: Path, bundle: Bundle
) -> None:
    set_live(here, "acme", write_bundle(here, replace(bundle, threshold=0.5)))
    push(there, here)
    old = read_release(there.store, "acme")
    set_live(here, "acme", write_bundle(here, bundle))
    live = read_release(here, "acme").bundle
    listed = here / "bundles" / "acme" / f"{live}.json"
    contents = json.loads(listed.read_text())
    contents["files"]["faqs.parquet"] = contents["files"]["index.safetensors"]
    listed.write_text(json.dumps(contents))
    with pytest.raises(PushRefusedError, match="damaged"):
        push(there, here)
    assert read_release(there.store, "acme") == old and there.engine.refresh().refused == {}


def test_a_blob_that_the_deployment_s_disk_changed_is_sent_again(
    there: Deployment, here: Path, bundle: Bundle
) -> None:
    live = write_bundle(here, bundle)
    set_live(here, "acme", live)
    push(there, here)
    damaged = stored_file(there.store, "acme", live, "faqs.parquet")
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    with pytest.raises(PushRefusedError, match="damaged"):
        push(there, here)
    assert push(there, here).sent_bytes == damaged.stat().st_size
    read_bundle(there.store, "acme", live)


def test_an_encrypted_bundle_needs_its_key_there(
    there: Deployment, here: Path, bundle: Bundle, tmp_path: Path
) -> None:
    key = new_key(tmp_path / "acme.key")
    secret = replace(bundle, faqs=[Faq(f"f{n}", f"canary-4711 {n}", None) for n in range(5)])
    set_live(here, "acme", write_bundle(here, secret, key=key))
    for wrong in ({}, {"acme": new_key(tmp_path / "other.key")}):
        there.keys.clear()
        there.keys.update(wrong)
        with pytest.raises(PushRefusedError, match="which this deployment has not got"):
            push(there, here)
    there.keys["acme"] = key
    push(there, here)
    assert there.engine.refresh().loaded == ("acme",)
    files = [path for path in there.store.rglob("*") if path.is_file()]
    assert not any(b"canary" in path.read_bytes() for path in files)


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (httpx.Response(404, json={"reason": "NOT_FOUND"}), PushRefusedError, "serve --push"),
        (httpx.Response(200, text="<html>"), ServingError, "not an AdapterDistill server"),
        (httpx.Response(302, text=""), ServingError, r"not an AdapterDistill server \(302\)"),
    ],
)
def test_a_server_that_takes_no_pushes_is_told(
    there: Deployment, here: Path, bundle: Bundle, answer: httpx.Response,
    error: type[Exception], said: str,
) -> None:  # fmt: skip
    set_live(here, "acme", write_bundle(here, bundle))
    there.answers[1] = answer
    with pytest.raises(error, match=said):
        push(there, here)


def test_a_failing_proxy_is_asked_again(there: Deployment, here: Path, bundle: Bundle) -> None:
    set_live(here, "acme", write_bundle(here, bundle))
    there.answers = {1: httpx.Response(503), 3: httpx.Response(502, text="<html>")}
    push(there, here)
    there.answers = {n: httpx.Response(503, json={"reason": "X"}) for n in range(1, 9)}
    with pytest.raises(ServingError, match=r"failed \(503 X\): push again"):
        push(there, here)


def test_what_a_caller_gets_wrong_is_told_before_anything_is_sent(
    here: Path, bundle: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(ServingError, match="no live bundle"):
        pusher.push(here, "acme", URL, "adt_x")
    set_live(here, "acme", write_bundle(here, bundle))
    with pytest.raises(ConfigError, match="private FAQs and a token: give an https:// URL"):
        pusher.push(here, "acme", "http://10.0.0.1:8000", "adt_x")
    (tmp_path / "ca.pem").write_text("nothing")
    for file in (tmp_path / "ca.pem", tmp_path / "absent.pem"):
        with pytest.raises(ConfigError, match=r"expected certificates as PEM|No such file"):
            pusher.push(here, "acme", "https://10.0.0.1:8000", "adt_x", ca=file)

"""No secret leaves its own file: not as output, log, record, backup, argument or environment.

Real keys and tokens, made by the commands that people use, are looked for in all that these and
the services say and write. Ray's own token is looked for where there is a Ray: in tests/e2e.
"""

import base64
import contextlib
import io
import logging
import socket
import sqlite3
import stat
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.testclient import TestClient

from adapterdistill import cli
from adapterdistill.backbone import Encoder
from adapterdistill.errors import AdapterDistillError
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.serve.engine.engine import Engine
from adapterdistill.serve.http.api import build_api
from adapterdistill.serve.queue.batcher import Batcher
from adapterdistill.serve.queue.fair_queue import QueueLimits
from adapterdistill.serve.tokens import Tokens
from adapterdistill.serve.tracing import Tracing
from adapterdistill.testbed.registry import registry_process
from tests.serving_store import make_tenant, put_live
from tests.unit.registry.samples import sample

KEYS = {
    "registry/authority/ca.key",
    "registry/server/server.pem",
    "registry/operator/tls.key",
    "registry/operator/signing.key",
    "registry/audit.key",
    "registry/authority/audit.key",
    "keys/tls.key",
    "keys/signing.key",
}
TOKENS = {"acme.token", "other.token", "operator.token"}


class Searched:
    """All that was said, and the folder in which all else was written."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.said: dict[str, bytes] = {}

    def run(self, *arguments: object) -> None:
        """`adapterdistill ARGUMENTS`, in this process."""
        given = [*map(str, arguments)]
        with (
            contextlib.redirect_stdout(io.StringIO()) as out,
            contextlib.redirect_stderr(out),
            pytest.raises(SystemExit) as ended,
        ):
            cli.main(given)
        self.said[f"$ {' '.join(given)}"] = " ".join([*given, out.getvalue()]).encode()
        assert ended.value.code == 0, out.getvalue()

    def watch(self, process: psutil.Process) -> None:
        """Record what the machine shows about a process."""
        seen = [Path(f"/proc/{process.pid}/{name}").read_bytes() for name in ("cmdline", "environ")]
        self.said[f"process {seen[0]!r}"] = b"".join(seen)

    def found(self, needles: list[bytes]) -> set[str]:
        files = (path for path in self.home.rglob("*") if path.is_file())
        texts = {str(path.relative_to(self.home)): path.read_bytes() for path in files} | self.said
        return {place for place, text in texts.items() if any(one in text for one in needles)}


def forms_of(secret: bytes) -> list[bytes]:
    encoded = (base64.b64encode(secret), base64.urlsafe_b64encode(secret))
    return [secret, secret.hex().encode(), *encoded]


def forms_of_key(pem: bytes) -> list[bytes]:
    """Return the secret texts of a private key in PEM: its lines and its number."""
    der = load_pem_private_key(pem, None).private_bytes(
        Encoding.DER, PrivateFormat.PKCS8, NoEncryption()
    )
    # ed25519: the last 32 bytes. P-256: the 32 before the public key (RFC 5915, RFC 5958).
    number = der[-32:] if len(der) < 64 else der[36:68]
    body = pem.split(b"-----BEGIN PRIVATE KEY-----\n")[1].split(b"-----END")[0]
    return [*forms_of(number), body.strip(), body.splitlines()[0]]


def use_registry(searched: Searched) -> None:
    home, root, keys = searched.home, searched.home / "registry", searched.home / "keys"
    searched.run("registry", "init", "--root", root, "--host", "127.0.0.1")
    searched.run("owner", "keygen", keys, "--tenant", "acme")
    enrol = ("registry", "enrol", "acme", "--root", root, "--request", keys / "request.pem")
    searched.run(*enrol, "--out", keys / "certificates.pem")
    searched.run("owner", "show", keys)
    manifest, payload = sample(1)
    foreign, _ = sample(2, tenant="other")
    with registry_process(
        root,
        *("--record", str(home / "recorded")),
        address_file=home / "address",
        log=home / "registry.log",
    ) as registry:
        for process in psutil.Process().children(recursive=True):
            searched.watch(process)
        with RegistryClient(registry.address, timeout_s=10, credentials=keys) as client:
            client.publish(manifest, payload)
            client.fetch(manifest.ref)
            for call in (lambda: client.publish(foreign, _), lambda: client.get(foreign.ref)):
                with pytest.raises(AdapterDistillError) as refused:
                    call()
                searched.said[f"refusal {len(searched.said)}"] = repr(refused.value).encode()
        searched.run("registry", "backup", root, home / "backup")
    searched.run("registry", "audit", "verify", root)
    searched.run("registry", "fsck", root)
    searched.run("registry", "revoke", "acme", "--root", root)


def use_endpoint(searched: Searched, encoder: Encoder) -> None:
    home, tokens = searched.home, searched.home / "tokens.json"
    for holder in (["--tenant", "acme"], ["--tenant", "other"], ["--operator"]):
        out = home / f"{holder[-1].strip('-')}.token"
        searched.run("token", "new", "--tokens", tokens, *holder, "--out", out)
    searched.run("token", "list", "--tokens", tokens)
    put_live(home / "store", make_tenant(encoder, "acme", seed=1))
    engine, spans = Engine(encoder, home / "store"), InMemorySpanExporter()
    engine.refresh()
    batcher, provider = Batcher(engine.search, QueueLimits()), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    api = build_api(
        engine,
        batcher,
        time.monotonic,
        tokens=Tokens(tokens),
        log_requests=True,
        tracing=Tracing(provider),
    )
    statuses = []
    with TestClient(api) as client:
        for token in sorted(TOKENS):
            bearer = {"Authorization": f"Bearer {(home / token).read_text().strip()}"}
            for path in ("/v1/tenants/acme/search", "/v1/tenants/other/search", "/metrics"):
                for body in ({"query": "hi"}, {"query": 1}):
                    answer = client.request(
                        "GET" if path == "/metrics" else "POST", path, json=body, headers=bearer
                    )
                    statuses.append(answer.status_code)
                    searched.said[f"answer {len(searched.said)}"] = answer.content
    batcher.close()
    engine.close()
    assert {200, 401, 404, 422} <= {*statuses}
    traced = "".join(span.to_json() for span in spans.get_finished_spans())
    assert "/search" in traced
    searched.said["traces"] = traced.encode()


def ask(searched: Searched) -> None:
    """`adapterdistill query` of a server that takes its time, and then refuses."""
    token = searched.home / "acme.token"
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        command = ["query", "acme", "x", "--address", address, "--token-file", str(token)]
        with psutil.Popen(
            [sys.executable, "-m", "adapterdistill", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            server.settimeout(60)
            caller, _ = server.accept()
            with caller:
                caller.settimeout(60)
                heard = caller.recv(1 << 16)
                searched.watch(process)
                body = b'{"reason": "UNAUTHENTICATED", "message": "no"}'
                caller.sendall(b"HTTP/1.1 401 No\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            searched.said["query"], _ = process.communicate(timeout=60)
    assert f"Bearer {token.read_text().strip()}".encode() in heard
    assert b"error [UNAUTHENTICATED]" in searched.said["query"]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Encoder) -> Searched:
    """After a registry and an endpoint were used and misused, with all logging on."""
    searched, log = Searched(tmp_path_factory.mktemp("home")), io.StringIO()
    handler, root = logging.StreamHandler(log), logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        use_registry(searched)
        use_endpoint(searched, tiny_encoder)
        ask(searched)
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
    searched.said["logs"] = log.getvalue().encode()
    assert '"outcome": "UNAUTHENTICATED"' in log.getvalue()
    return searched


def test_keys_are_in_their_own_files_alone(searched: Searched) -> None:
    home = searched.home
    for name in KEYS:
        assert searched.found(forms_of_key((home / name).read_bytes())) == {name}
    held = (path for path in home.rglob("*") if path.is_file())
    private = {str(p.relative_to(home)) for p in held if b"PRIVATE KEY" in p.read_bytes()}
    assert private == KEYS  # so the list above is all of them
    assert len(searched.said) > 20


def test_tokens_are_in_their_own_files_alone(searched: Searched) -> None:
    for name in TOKENS:
        token = (searched.home / name).read_bytes().strip()
        assert searched.found([*forms_of(token), token.removeprefix(b"adt_")]) == {name}


def test_what_the_registry_seals_pages_with_is_in_its_index_alone(searched: Searched) -> None:
    with closing(sqlite3.connect(searched.home / "registry/index.sqlite3")) as index:
        secrets = [value for (value,) in index.execute("SELECT value FROM secrets")]
    assert secrets
    for secret in secrets:
        assert searched.found(forms_of(secret)) == {"registry/index.sqlite3"}


def test_what_holds_a_secret_is_its_owners_alone(searched: Searched) -> None:
    for name in {*KEYS, *TOKENS, "tokens.json", "registry/index.sqlite3"}:
        assert stat.S_IMODE((searched.home / name).stat().st_mode) == 0o600, name

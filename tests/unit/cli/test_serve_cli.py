"""`adapterdistill query` against a stand-in server on loopback; what `serve` refuses."""

import errno
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from adapterdistill.cli import query, serve
from adapterdistill.errors import (
    AdapterDistillError,
    ConfigError,
    NoCandidateError,
    OverloadedError,
    ServingError,
    UnauthenticatedError,
    UnknownTenantError,
)
from adapterdistill.files import read_secret
from adapterdistill.serve import local_ray

VERSION = "ab12" * 16
TOKEN = "adt_" + "x" * 43
RANKED = [
    {"faq_id": "f1", "question": "[red]How?[/red]", "answer": None, "score": 0.91},
    {"faq_id": "f2", "question": "When?", "answer": "Daily.", "score": 0.4},
]


def answer_of(*, abstained: bool = False, form: str = "adapter") -> dict[str, Any]:
    return {
        "tenant": "acme",
        "adapter": {"name": "faq", "version": VERSION, "form": form},
        "results": [{"ranked": RANKED, "abstained": abstained}],
    }


class StandIn(ThreadingHTTPServer):
    """Answers every request with `status` and `content`, and keeps what it was asked."""

    status = 200
    content = b""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.authorizations: list[str | None] = []
        self.address = f"http://127.0.0.1:{self.server_port}"

    def will_answer(self, status: int, body: object) -> None:
        self.status, self.content = status, json.dumps(body).encode()


class Handler(BaseHTTPRequestHandler):
    server: StandIn

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.authorizations.append(self.headers["Authorization"])
        self.server.asked.append((self.path, json.loads(body)))
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[StandIn]:
    with StandIn() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def run(*args: str, command: str = "query") -> str:
    app = typer.Typer()
    for module in (query, serve):
        module.register(app)
    result = CliRunner().invoke(
        app, [command, *args], catch_exceptions=True, env={"COLUMNS": "120"}
    )
    if result.exception is not None:
        raise result.exception
    return result.output


def test_the_table_shows_ranked_faqs_and_the_adapter_s_digest(server: StandIn) -> None:
    server.will_answer(200, answer_of())
    output = run("acme", "how?", "--address", server.address, "--top-k", "2")
    assert server.asked == [("/v1/tenants/acme/search", {"query": "how?", "top_k": 2})]
    assert VERSION[:12] in output
    assert output.index("[red]How?[/red]") < output.index("When?")
    assert "0.910" in output and "Daily." in output and "abstained" not in output


def test_a_variant_is_named_where_one_is_served(server: StandIn) -> None:
    for form, shown in (("adapter", False), ("conditional", True)):
        server.will_answer(200, answer_of(form=form))
        words = " ".join(run("acme", "how?", "--address", server.address).split())
        assert ("variant conditional" in words) == shown


def test_an_alias_is_asked_for_and_a_candidate_s_answer_is_told_as_such(server: StandIn) -> None:
    answer = answer_of()
    answer["adapter"]["alias"] = "canary"
    server.will_answer(200, answer)
    output = run("acme", "how?", "--address", server.address, "--alias", "canary")
    assert server.asked[0][1] == {"query": "how?", "top_k": 5, "alias": "canary"}
    assert "(canary)" in output
    server.will_answer(404, {"reason": "NO_CANDIDATE", "message": "said the server"})
    with pytest.raises(NoCandidateError, match="said the server"):
        run("acme", "how?", "--address", server.address, "--alias", "canary")


def test_an_explanation_shows_each_view_and_which_one_decided(server: StandIn) -> None:
    answer = answer_of()
    [result] = answer["results"]
    for place, faq in enumerate(result["ranked"]):
        faq["views"] = {"cosine": 0.75 - place / 4, "head": 2.5, "answers": -1.0}
    result["decided_by"] = "cosine"
    server.will_answer(200, answer)
    output = run("acme", "how?", "--address", server.address, "--explain")
    assert server.asked[0][1] == {"query": "how?", "top_k": 5, "explain": True}
    for shown in ("cosine", "head", "answers", "0.750", "0.500", "2.500", "-1.000"):
        assert shown in output
    words = " ".join(output.split())
    assert "the view cosine puts the first furthest ahead of the second" in words


def test_abstaining_is_shown(server: StandIn) -> None:
    server.will_answer(200, answer_of(abstained=True))
    assert "abstained" in run("acme", "how?", "--address", server.address)


def test_confidence_is_shown_where_there_is_one(server: StandIn) -> None:
    for confidence, shown in ((None, False), (0.875, True)):
        answer = answer_of()
        answer["results"][0]["confidence"] = confidence
        server.will_answer(200, answer)
        output = run("acme", "how?", "--address", server.address)
        assert ("probability 0.88" in " ".join(output.split())) == shown


def test_json_is_the_server_s_answer(server: StandIn) -> None:
    server.will_answer(200, answer_of())
    output = run("acme", "how?", "--address", server.address + "/", "--format", "json")
    assert json.loads(output) == answer_of()


@pytest.mark.parametrize(
    ("status", "error_class"),
    [
        (401, UnauthenticatedError),
        (404, UnknownTenantError),
        (422, ConfigError),
        (503, OverloadedError),
        (500, ServingError),
    ],
)
def test_the_server_s_refusals_are_our_errors(
    server: StandIn, status: int, error_class: type[AdapterDistillError]
) -> None:
    server.will_answer(status, {"reason": "ANY", "message": "said the server"})
    with pytest.raises(error_class, match="said the server") as raised:
        run("acme", "how?", "--address", server.address)
    assert type(raised.value) is error_class


@pytest.mark.parametrize(
    ("tenant", "address", "error_class"),
    [
        ("acme", "http://127.0.0.1:1", ServingError),
        ("acme", "ftp://nonsense", ConfigError),
        ("../x", "http://127.0.0.1:1", ConfigError),
    ],
)
def test_wrong_addresses_and_names_are_named(
    tenant: str, address: str, error_class: type[AdapterDistillError]
) -> None:
    with pytest.raises(error_class):
        run(tenant, "secret question", "--address", address)


def test_something_else_than_our_server_is_noticed(server: StandIn) -> None:
    server.content = b"<html>"
    with pytest.raises(ServingError, match="not an AdapterDistill server"):
        run("acme", "how?", "--address", server.address)


def test_the_token_in_a_file_is_sent(server: StandIn, tmp_path: Path) -> None:
    server.will_answer(200, answer_of())
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o600)
    run("acme", "how?", "--address", server.address, "--token-file", str(file))
    run("acme", "how?", "--address", server.address)
    assert server.authorizations == [f"Bearer {TOKEN}", None]


@pytest.mark.parametrize("content", ["", "secret", "adt_a adt_b", "adt_\u00fc x", TOKEN + "\nx"])
def test_a_file_without_a_token_is_named_and_not_quoted(tmp_path: Path, content: str) -> None:
    file = tmp_path / "token"
    file.write_text(content)
    file.chmod(0o600)
    with pytest.raises(ConfigError, match="token: not a token") as raised:
        run("acme", "how?", "--address", "http://127.0.0.1:1", "--token-file", str(file))
    assert TOKEN not in str(raised.value)


def test_a_token_that_others_may_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="mode 0644"):
        run("acme", "how?", "--address", "http://127.0.0.1:1", "--token-file", str(file))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
def test_nobody_listens_beyond_loopback_without_tokens(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigError, match="--tokens"):
        run("--store", str(tmp_path), "--host", host, command="serve")


def test_nobody_answers_over_grpc_without_tokens(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--grpc-port is open on every interface"):
        run("--store", str(tmp_path), "--grpc-port", "9000", command="serve")


def test_a_file_of_tokens_is_checked_before_ray_starts(tmp_path: Path) -> None:
    args = ["--store", str(tmp_path), "--host", "0.0.0.0", "--tokens", str(tmp_path / "absent")]
    with pytest.raises(ConfigError, match="absent: No such file"):
        run(*args, command="serve")


@pytest.mark.parametrize(
    ("store", "options", "said"),
    [
        ("bundels", [], "bundels: no such store: correct its name, or begin an empty one with"),
        ("file", [], "store .*file: expected a folder"),
        ("file/bundles", [], "bundles: no such store"),
        ("file/bundles", ["--create"], "bundles cannot be used: Not a directory"),
        ("n" * 300, ["--create"], "cannot be used: File name too long"),
    ],
)
def test_a_store_that_is_absent_or_unusable_is_told_before_ray_starts(
    tmp_path: Path, store: str, options: list[str], said: str
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=said):
        run("--store", str(tmp_path / store), *options, command="serve")
    assert {path.name for path in tmp_path.iterdir()} == {"file"}


def test_a_store_that_others_have_closed_is_told_before_ray_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("adapterdistill.serve.settings.private_folder", closed)
    with pytest.raises(ConfigError, match=f"store {tmp_path} cannot be used: Permission denied"):
        run("--store", str(tmp_path), command="serve")


def test_asking_needs_neither_torch_nor_ray() -> None:
    code = (
        "import sys, adapterdistill.cli.query, httpx;"
        "assert not {'torch', 'ray', 'pyarrow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_local_rays_token_is_in_a_private_file_and_not_in_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environment = {"RAY_AUTH_TOKEN": "another cluster's", "RAY_SERVE_ENABLE_HA_PROXY": "0"}
    monkeypatch.setattr(os, "environ", environment)
    assert local_ray.prepare("127.0.0.1", haproxy=False) == "127.0.0.1"
    file = Path(environment["RAY_AUTH_TOKEN_PATH"])
    token = read_secret(file).decode()
    assert (len(token), environment["RAY_AUTH_MODE"]) == (64, "token")
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert not environment["RAY_AUTH_TOKEN"] and token not in environment.values()

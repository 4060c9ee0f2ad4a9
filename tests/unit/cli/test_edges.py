"""Commands at their edges: odd addresses, proxies, answers and outputs, and what is said."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from adapterdistill import cli

NONE: Mapping[str, str] = MappingProxyType({})
ROOT = Path(__file__).resolve().parents[3]
ANSWER = {
    "tenant": "acme",
    "adapter": {"name": "faq", "version": "ab12" * 16, "form": "adapter"},
    "results": [
        {
            "ranked": [{"faq_id": "f1", "question": "Größe?", "answer": None, "score": 0.5}],
            "abstained": False,
        }
    ],
}
OTHER_JSON = "{address} answered {status} with other JSON than an AdapterDistill server"
GATEWAY = (
    "a proxy in front of {address} answered {status}: nothing serves behind it now. Ask again later"
)
NO_JSON = "{address} is not an AdapterDistill server: it answered {status} without JSON"
REFUSED = "the connection was refused: nothing listens there"


class Handler(BaseHTTPRequestHandler):
    """Answers every POST with the server's `answer`: a status, headers and a body."""

    def do_POST(self) -> None:
        status, headers, body = self.server.answer  # type: ignore[attr-defined]
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


class StandIn(ThreadingHTTPServer):
    answer: tuple[int, Mapping[str, str], bytes] = (200, NONE, b"")


@pytest.fixture(scope="module")
def server() -> Iterator[StandIn]:
    with StandIn(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code not in (0, None)
    return capsys.readouterr().err.strip()


class Answer(NamedTuple):
    what: str
    status: int
    body: bytes
    said: str
    headers: Mapping[str, str] = NONE


def changed(**fields: Any) -> bytes:
    return json.dumps(ANSWER | fields).encode()


ANSWERS = [
    Answer("an empty object", 200, b"{}", OTHER_JSON),
    Answer("a list", 200, b"[]", OTHER_JSON),
    Answer("nothing ranked", 200, changed(results=[{"ranked": [], "abstained": True}]), OTHER_JSON),
    Answer("no results", 200, changed(results=[]), OTHER_JSON),
    Answer("two results", 200, changed(results=ANSWER["results"] * 2), OTHER_JSON),
    Answer("no adapter", 200, changed(adapter=None), OTHER_JSON),
    Answer("text for a score", 200, json.dumps(ANSWER).replace("0.5", '"a"').encode(), OTHER_JSON),
    Answer("JSON of another refusal", 404, b'{"detail": "Not Found"}', OTHER_JSON),
    Answer("a refusal that is a list", 500, b"[1]", OTHER_JSON),
    Answer("no JSON", 200, b"<html>", NO_JSON),
    Answer("nothing", 200, b"", NO_JSON),
    Answer("bytes that are no text", 200, b"\xff\xfe\x00", NO_JSON),
    Answer("a gateway's page", 502, b"<html>", GATEWAY),
    Answer("a proxy with nothing behind it", 503, b"<html>", GATEWAY),
    Answer("a proxy that has waited", 504, b"<html>", GATEWAY),
    Answer("a status of its own", 599, b"", NO_JSON),
    Answer(
        "a redirect",
        307,
        b"",
        "{address} sends to another address (307)",
        {"Location": "http://elsewhere.invalid/"},
    ),
    Answer(
        "bytes that are not compressed as said",
        200,
        b"{}",
        "no answer from {address}: what answers does not speak HTTP",
        {"Content-Encoding": "gzip"},
    ),
]


@pytest.mark.parametrize("answer", ANSWERS, ids=[answer.what for answer in ANSWERS])
def test_whatever_a_server_answers_is_shown_or_named(
    answer: Answer, server: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer = (answer.status, answer.headers, answer.body)
    address = f"http://127.0.0.1:{server.server_port}"
    said = error_of(capsys, "query", "acme", "open?", "--address", address)
    said = said.replace(f"{answer.status} ", "{status} ", 1)
    try:
        phrase = HTTPStatus(answer.status).phrase
    except ValueError:
        phrase = " "
    said = said.replace(f"{{status}} {phrase}", "{status}")
    assert said.replace(address, "{address}") == f"error [SERVING_ERROR]: {answer.said}"


ROUTES = b"Path '/v1' not found. Ping http://.../-/routes for available routes."


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapterdistill.cli.query._PATIENCE_S", 0.0)


@pytest.mark.parametrize("starting", [(503, NONE, b"<html>"), (404, NONE, ROUTES)])
def test_an_endpoint_that_is_starting_is_waited_for(
    starting: tuple[int, Mapping[str, str], bytes],
    server: StandIn,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = ["query", "acme", "open?", "--address", f"127.0.0.1:{server.server_port}"]
    server.answer = starting
    said = error_of(capsys, *arguments)
    assert "it is starting; ask again" in said or "nothing serves behind it now" in said
    monkeypatch.setattr("adapterdistill.cli.query._PATIENCE_S", 20.0)

    def ready(_: float) -> None:
        server.answer = (200, NONE, changed())

    monkeypatch.setattr("adapterdistill.cli.query.time.sleep", ready)
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    said = capsys.readouterr()
    assert not ended.value.code and "Größe?" in said.out
    assert said.err.count("waiting up to 20 s") == 1


class Address(NamedTuple):
    what: str
    address: str
    said: str
    environment: Mapping[str, str] = NONE


ADDRESSES = [
    Address("nobody there", "127.0.0.1:1", f"no answer from 127.0.0.1:1: {REFUSED}"),
    Address("nobody there by name", "localhost:1", f"no answer from localhost:1: {REFUSED}"),
    Address("nobody there on IPv6", "[::1]:1", f"no answer from [::1]:1: {REFUSED}"),
    Address("IPv6 without brackets", "::1", "not an address: ::1"),
    Address("another scheme", "ftp://a", "not an address: ftp://a"),
    Address("no host", "http://", "not an address: http://"),
    Address("a port beyond all", "127.0.0.1:65536", "not an address: 127.0.0.1:65536"),
    Address("a port in words", "127.0.0.1:http", "not an address: 127.0.0.1:http"),
    Address(
        "TLS where none is spoken",
        "https://127.0.0.1:{port}",
        "no answer from https://127.0.0.1:{port}: it does not speak TLS: is its address http://?",
    ),
    Address(
        "a proxy that is not there",
        "http://elsewhere.invalid",
        "no answer from http://elsewhere.invalid, asked through the proxy that HTTP_PROXY names: "
        + REFUSED,
        {"HTTP_PROXY": "http://127.0.0.1:1"},
    ),
    Address(
        "a proxy that answers in the server's stead",
        "http://elsewhere.invalid",
        "a proxy in front of http://elsewhere.invalid answered 503 Service Unavailable, asked "
        "through the proxy that ALL_PROXY names: nothing serves behind it now. Ask again later",
        {"ALL_PROXY": "http://127.0.0.1:{port}"},
    ),
    Address(
        "SOCKS without its package",
        "http://elsewhere.invalid",
        "ALL_PROXY names a SOCKS proxy, which needs the package socksio: install it, or name "
        "elsewhere.invalid in NO_PROXY",
        {"ALL_PROXY": "socks5://127.0.0.1:1"},
    ),
    Address(
        "a proxy of another kind",
        "http://elsewhere.invalid",
        "HTTP_PROXY does not name a proxy: expected http://HOST:PORT",
        {"HTTP_PROXY": "gopher://127.0.0.1:1"},
    ),
    Address(
        "a proxy that is no address",
        "http://elsewhere.invalid",
        "HTTP_PROXY does not name a proxy: expected http://HOST:PORT",
        {"HTTP_PROXY": "http://user:secret@:::"},
    ),
]


@pytest.mark.parametrize("address", ADDRESSES, ids=[address.what for address in ADDRESSES])
def test_an_address_where_no_endpoint_answers_is_told_from_every_other(
    address: Address,
    server: StandIn,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.answer = (503, {}, b"<html>")
    without_proxies(monkeypatch)
    port = str(server.server_port)
    for name, value in address.environment.items():
        monkeypatch.setenv(name, value.replace("{port}", port))
    given = address.address.replace("{port}", port)
    said = error_of(capsys, "query", "acme", "open?", "--address", given)
    assert said.split("]: ", 1)[1] == address.said.replace("{port}", port)


def without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def test_this_machine_is_asked_without_a_proxy_and_without_a_scheme(
    server: StandIn, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answer = (200, {}, changed())
    without_proxies(monkeypatch)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    for host in ("127.0.0.1", "localhost", "http://127.0.0.1", "HTTP://LOCALHOST"):
        with pytest.raises(SystemExit) as ended:
            cli.main(["query", "acme", "x", "--address", f"{host}:{server.server_port}"])
        assert ended.value.code == 0
        assert "Größe?" in capsys.readouterr().out


OUTPUTS = [
    ("a stream of ASCII", "PYTHONIOENCODING=ascii {command}", 0, r'"question": "Gr\u00f6\u00dfe?"'),
    (
        "a table in ASCII",
        "PYTHONIOENCODING=ascii {command}",
        0,
        r"Gr\u00f6\u00dfe?",
    ),
    (
        "a full disk",
        "{command} 2>&1 >/dev/full",
        11,
        "error [FILE_ERROR]: output cannot be written: No space left on device\n",
    ),
    (
        "a closed output",
        "{command} 2>&1 >&-",
        11,
        "error [FILE_ERROR]: standard output is closed: redirect it (> /dev/null) if nobody reads "
        "it\n",
    ),
    ("closed errors", "{command} 2>&-", 0, '"question": "Größe?"'),
    ("a reader that left", "{command} 2>&1 | true", 0, ""),
]


@pytest.mark.parametrize(
    ("what", "shell", "code", "shown"), OUTPUTS, ids=[output[0] for output in OUTPUTS]
)
def test_an_output_that_cannot_take_what_is_printed_is_named(
    what: str, shell: str, code: int, shown: str, server: StandIn
) -> None:
    server.answer = (200, {}, changed())
    output_format = "table" if "table" in what else "json"
    command = (
        f"{sys.executable} -m adapterdistill query acme x --format {output_format} "
        f"--address 127.0.0.1:{server.server_port}"
    )
    done = subprocess.run(
        ["sh", "-c", shell.replace("{command}", command)],
        capture_output=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
        timeout=60,
        check=False,
    )
    assert done.returncode == code
    printed = done.stdout.decode()
    assert printed == shown if code else shown in printed
    assert "Traceback" not in done.stderr.decode()
    if what == "a stream of ASCII":
        assert json.loads(printed) == ANSWER


def test_a_run_s_file_with_a_byte_order_mark_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run.toml"
    run.write_bytes(b'\xef\xbb\xbftenant = "x"\n')
    said = error_of(capsys, "onboard", "--local", "--config", str(run))
    assert "tenant" not in said and "data: " in said

"""`adapterdistill adapter export --to-hub` against a stand-in of the Hugging Face hub."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from adapterdistill.backbone import Encoder
from adapterdistill.cli import adapter as command
from adapterdistill.cli import main
from tests.serving_store import MadeTenant, make_tenant, put_live

TOKEN = "hf_verysecret"


class Hub:
    """Answers as the hub does, and keeps what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None, bytes]] = []
        self.status = 200
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hub.asked.append((self.path, self.headers["Authorization"], body))
                answer: dict[str, Any] = {"url": f"{hub.address}/acme/faq"}
                if "/preupload/" in self.path:
                    files = [one["path"] for one in json.loads(body)["files"]]
                    kept = {"uploadMode": "regular", "shouldIgnore": False}
                    answer = {"files": [{"path": path, **kept} for path in files]}
                if "/commit/" in self.path:
                    answer = {"commitUrl": f"{hub.address}/acme/faq/commit/1", "commitOid": "1"}
                said = json.dumps(answer).encode()
                self.send_response(hub.status)
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}"


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    thread = threading.Thread(target=hub.http.serve_forever, args=(0.01,))
    thread.start()
    yield hub
    hub.http.shutdown()
    thread.join()
    hub.http.server_close()


@pytest.fixture
def acme(tmp_path: Path, tiny_encoder: Encoder) -> MadeTenant:
    made = make_tenant(tiny_encoder, "acme", seed=3)
    put_live(tmp_path / "store", made)
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    (tmp_path / "token").chmod(0o600)
    return made


def export(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, *arguments: object
) -> tuple[int, str]:
    command = ["adapter", "export", tmp_path / "store" / "acme", tmp_path / "out", *arguments]
    with pytest.raises(SystemExit) as ended:
        main([*map(str, command)])
    said = capsys.readouterr()
    assert TOKEN not in said.out + said.err
    return int(ended.value.code or 0), " ".join((said.out + said.err).split())


def test_an_owner_who_agrees_publishes_the_adapter_and_its_card_and_no_faq(
    tmp_path: Path, acme: MadeTenant, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--to-hub", "acme/faq", "--hub", hub.address, "--token-file", tmp_path / "token"]
    code, said = export(capsys, tmp_path, *options, "--yes-publish")
    assert code == 0 and f"at {hub.address}/acme/faq" in said
    assert {token for _, token, _ in hub.asked} == {f"Bearer {TOKEN}"}
    [made] = [json.loads(body) for path, _, body in hub.asked if path == "/api/repos/create"]
    assert made["name"] == "faq" and (made.get("private") or made["visibility"] == "private")
    [commit] = [body for path, _, body in hub.asked if "/commit/" in path]
    rows = [json.loads(line) for line in commit.splitlines()]
    files = {
        row["value"]["path"]: base64.b64decode(row["value"]["content"])
        for row in rows
        if row["key"] == "file"
    }
    out = tmp_path / "out"
    card = files.pop("README.md").decode()
    assert files == {file.name: file.read_bytes() for file in out.iterdir()}
    assert acme.bundle.manifest.version in card and acme.bundle.manifest.privacy in card
    everything = b"".join([*files.values(), card.encode(), *(body for _, _, body in hub.asked)])
    assert all(faq.question.encode() not in everything for faq in acme.bundle.faqs)


def test_nothing_is_sent_without_a_token_and_consent(
    tmp_path: Path,
    acme: MadeTenant,
    hub: Hub,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    to = ["--to-hub", "acme/faq", "--hub", hub.address]
    token = ["--token-file", tmp_path / "token"]
    code, said = export(capsys, tmp_path, *to, "--yes-publish")
    assert code == 2 and "--to-hub needs --token-file FILE" in said
    code, said = export(capsys, tmp_path, *to, *token)
    assert code == 2 and "To agree, give --yes-publish" in said
    assert f"{hub.address}/acme/faq, as a private model if it is new" in said
    monkeypatch.setattr(command.sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(command.typer, "confirm", _refuse)
    assert export(capsys, tmp_path, *to, *token)[0] != 0
    (tmp_path / "token").chmod(0o644)
    code, said = export(capsys, tmp_path, *to, *token, "--yes-publish")
    assert code != 0 and "others may read" in said
    assert not hub.asked and not (tmp_path / "out").exists()


def _refuse(_: str, *, abort: bool) -> None:
    assert abort
    raise command.typer.Abort


@pytest.mark.parametrize(
    ("model", "status", "told"),
    [
        ("acme/faq", 403, "refuses the token for acme/faq (403)"),
        ("acme/faq", 500, "answered 500 when acme/faq was written"),
        ("a/b/c", 200, "not a model of a hub: expected OWNER/NAME"),
    ],
)
def test_a_hub_that_refuses_is_told(
    model: str,
    status: int,
    told: str,
    tmp_path: Path,
    acme: MadeTenant,
    hub: Hub,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub.status = status
    options = ["--to-hub", model, "--hub", hub.address, "--token-file", tmp_path / "token"]
    code, said = export(capsys, tmp_path, *options, "--yes-publish")
    assert code != 0 and told in said


def test_a_hub_that_is_not_there_is_told(
    tmp_path: Path, acme: MadeTenant, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--to-hub", "acme/faq", "--token-file", tmp_path / "token", "--yes-publish"]
    code, said = export(capsys, tmp_path, *options, "--hub", "http://127.0.0.1:1")
    assert code != 0 and "no answer from http://127.0.0.1:1" in said

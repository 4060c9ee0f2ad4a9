"""`adapterdistill console`: where it listens, what it refuses, and what it prints."""

import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient
from starlette.types import ASGIApp
from typer.testing import CliRunner

from adapterdistill.actors.cluster import free_port
from adapterdistill.cli.console import app
from adapterdistill.console.listening import Listening
from adapterdistill.errors import ConfigError
from adapterdistill.registry.trust.authority import create
from tests.unit.test_cli_root import run_python


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a server's certificate and an operator's, of one authority."""
    root = tmp_path_factory.mktemp("authority") / "registry"
    create(root, ["127.0.0.1", "localhost"])
    return root


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(app, [*arguments])
    assert isinstance(result.exception, ConfigError), result.output
    return str(result.exception)


@contextmanager
def running(*arguments: str) -> Iterator[str]:
    """A console in a process of its own; gives the address that it prints. It ends with 0."""
    command = [sys.executable, "-m", "adapterdistill", "console", *arguments]
    command += ["--port", str(free_port())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()
            try:
                ended = process.wait(20)
            finally:
                process.kill()
            assert process.stdout.read() == ""
    assert ended == 0


def opened(client: httpx.Client, address: str) -> httpx.Response:
    """The answer to the address, once the console listens."""
    for _ in range(400):
        try:
            return client.get(address)
        except httpx.ConnectError as error:
            if "refused" not in str(error):
                raise
        time.sleep(0.05)
    raise AssertionError("the console does not listen")


def test_beyond_loopback_it_listens_with_tls_alone(tmp_path: Path, secured: Path) -> None:
    pem, ca = str(secured / "server" / "server.pem"), str(secured / "server" / "ca.pem")
    open_to_all = ["operator", "--root", str(tmp_path), "--host", "0.0.0.0"]
    for host in ("0.0.0.0", "::", "192.0.2.1", "console.example"):
        said = refused("operator", "--root", str(tmp_path), "--host", host)
        assert "open to others" in said and "--certificate FILE and --key FILE" in said
    assert "both --certificate and --key" in refused(*open_to_all, "--certificate", pem)
    assert "both --certificate and --key" in refused(*open_to_all, "--key", pem)
    others = str(secured / "operator" / "tls.key")
    said = refused(*open_to_all, "--certificate", pem, "--key", others)
    assert "not a certificate in PEM that belongs to" in said
    loopback = ["operator", "--root", str(tmp_path)]
    assert "--client-ca needs" in refused(*loopback, "--client-ca", ca)
    readable = tmp_path / "key.pem"
    readable.write_bytes(Path(pem).read_bytes())
    readable.chmod(0o644)
    said = refused(*open_to_all, "--certificate", pem, "--key", str(readable))
    assert "others may read" in said


def test_an_owner_names_a_run_or_two_folders(tmp_path: Path) -> None:
    folder, run = str(tmp_path), str(tmp_path / "run.toml")
    for arguments in (
        [],
        ["--workspace", folder],
        ["--store", folder],
        ["--config", run, "--store", folder],
        ["--config", run, "--workspace", folder, "--store", folder],
    ):
        assert "give --config FILE, or both" in refused("owner", *arguments)
    assert "No such file" in refused("owner", "--config", run)
    said = refused("owner", "--workspace", folder, "--store", f"{folder}/x")
    assert "--store" in said and "no such folder" in said


def test_an_operator_names_a_registry_or_an_endpoint(tmp_path: Path) -> None:
    assert "--registry HOST:PORT, --root FOLDER or --serving URL" in refused("operator")
    assert "no such folder" in refused("operator", "--root", str(tmp_path / "x"))


def test_a_registry_that_cannot_be_reached_is_told_when_the_console_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Listening, "run", lambda listening, app: None)
    began = time.monotonic()
    arguments = ["operator", "--registry", "127.0.0.1:1", "--port", str(free_port())]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0 and time.monotonic() - began < 2
    said, address = done.output.splitlines()
    assert said == (
        "warning: registry 127.0.0.1:1: the connection was refused: nothing listens there; the "
        "pages ask it again"
    )
    assert address.startswith("console: http://127.0.0.1:")


def test_a_port_in_use_and_an_open_token_file_are_refused_at_once(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        said = refused("operator", "--root", str(tmp_path), "--port", port)
        assert "another program listens there" in said
    token = tmp_path / "token"
    token.write_text("adt_x")
    token.chmod(0o644)
    said = refused("operator", "--root", str(tmp_path), "--token-file", str(token))
    assert "others may read" in said and "adt_x" not in said


def test_an_owners_pages_are_of_the_folders_that_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apps: list[ASGIApp] = []
    monkeypatch.setattr(Listening, "run", lambda listening, app: apps.append(app))
    for name in ("work/acme/runs/0123", "work/brook/runs/4567", "serving"):
        (tmp_path / name).mkdir(parents=True)
    run = tmp_path / "run.toml"
    places = {"data": "data", "workspace": "work", "serving_store": "serving"}
    lines = ['tenant = "acme"', *(f'{key} = "{tmp_path / of}"' for key, of in places.items())]
    run.write_text("\n".join(lines))
    folders = ["--workspace", str(tmp_path / "work"), "--store", str(tmp_path / "serving")]
    for arguments, shown in ((["--config", str(run)], 1), (folders, 2)):
        done = CliRunner().invoke(app, ["owner", *arguments, "--port", str(free_port())])
        assert done.exit_code == 0, done.output
        page = TestClient(apps[-1]).get(done.output.split()[1]).text
        assert page.count('aria-labelledby="tenant-') == shown


def test_help_and_the_operators_pages_need_neither_torch_nor_ray() -> None:
    code = (
        "import sys, adapterdistill.cli.console, adapterdistill.console.operator;"
        "import adapterdistill.console.app, adapterdistill.console.listening;"
        "print({'torch', 'ray', 'pyarrow'} & set(sys.modules))"
    )
    assert run_python(code) == "set()\n"


def test_the_printed_address_opens_the_console_and_sigterm_ends_it(tmp_path: Path) -> None:
    with (
        running("operator", "--root", str(tmp_path)) as address,
        httpx.Client(follow_redirects=True, trust_env=False) as client,
    ):
        assert address.startswith("http://127.0.0.1:") and "/login?token=" in address
        assert opened(client, address).status_code == 422  # no registry was named
        assert client.get(address.partition("/login")[0] + "/metrics").status_code == 200
        assert "server" not in client.get(address).headers


def test_with_tls_it_may_ask_for_a_clients_certificate(tmp_path: Path, secured: Path) -> None:
    pem, ca = str(secured / "server" / "server.pem"), str(secured / "server" / "ca.pem")
    arguments = ["operator", "--root", str(tmp_path), "--host", "0.0.0.0"]
    arguments += ["--certificate", pem, "--key", pem, "--client-ca", ca]
    stranger = ssl.create_default_context(cafile=ca)
    holder = ssl.create_default_context(cafile=ca)
    own = secured / "operator"
    holder.load_cert_chain(own / "certificates.pem", own / "tls.key")
    with running(*arguments) as address:
        assert address.startswith("https://")
        with httpx.Client(verify=holder, trust_env=False) as client:
            found = opened(client, address)
            assert found.status_code == 303 and "strict-transport-security" in found.headers
            cookie = found.headers["set-cookie"]
            assert cookie.startswith("__Host-") and "Secure" in cookie
            port = address.split(":")[2].partition("/")[0]
            rebound = client.get(f"https://127.0.0.1:{port}/", headers={"Host": f"evil:{port}"})
            assert rebound.status_code == 421
        with (
            httpx.Client(verify=stranger, trust_env=False) as client,
            pytest.raises(httpx.TransportError),
        ):
            client.get(address)

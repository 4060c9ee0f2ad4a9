"""`adapterdistill serve` as a person runs it: a process that serves until it is told to stop."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from adapterdistill.actors.cluster import free_port
from adapterdistill.backbone import load_encoder
from adapterdistill.cli.query import ask
from tests.serving_store import make_tenant, put_live, save_tiny_encoder

pytestmark = pytest.mark.ray
ROOT = Path(__file__).resolve().parents[2]


def processes_marked(mark: str) -> list[psutil.Process]:
    """All processes that the command started: they carry the mark in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if mark in process.environ().values() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def listeners(mark: str, *, beyond_loopback: bool) -> set[str]:
    """Names of the marked processes that listen, on loopback or on all interfaces."""
    found = set()
    for process in processes_marked(mark):
        try:
            for one in process.net_connections("inet"):
                beyond = "127.0.0.1" not in one.laddr.ip
                if one.status == psutil.CONN_LISTEN and beyond == beyond_loopback:
                    # While a method runs, Ray puts its name behind the actor's.
                    found.add(process.name().removeprefix("ray::").partition(".")[0])
        except psutil.NoSuchProcess:  # HAProxy is started anew whenever replicas change
            continue
    return found


def ray_folders(mark: str) -> set[Path]:
    """Folders in which the marked Ray keeps its sessions."""
    arguments = [argument for one in processes_marked(mark) for argument in one.cmdline()]
    named = [one.partition("=")[2] for one in arguments if one.startswith("--temp-dir=")]
    return {Path(one) for one in named}


def test_serve_answers_until_sigterm_and_leaves_no_process(tmp_path: Path) -> None:
    folder = save_tiny_encoder(tmp_path / "encoder")
    encoder = load_encoder(str(folder), dtype="float32")
    made = make_tenant(encoder, "acme", seed=1)
    put_live(tmp_path / "bundles", made)
    port = str(free_port())
    mark = f"serve-test-{os.getpid()}-{time.monotonic_ns()}"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment |= {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "ADAPTERDISTILL_TEST": mark}
    command = [sys.executable, "-m", "adapterdistill", "serve", "--store", tmp_path / "bundles"]
    command += ["--encoder", folder, "--dtype", "float32", "--port", port, "--replicas", "1"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, env=environment, text=True, cwd=tmp_path
    ) as server:
        try:
            assert server.stdout is not None
            assert f"http://127.0.0.1:{port}" in server.stdout.readline()
            answer = ask(f"http://127.0.0.1:{port}", "acme", "opening hours", top_k=1)
            [best] = answer["results"][0]["ranked"]
            assert best["faq_id"] == made.expected(encoder, "opening hours")[0][0]
            # Serve's own port for other replicas, which asks for Ray's token.
            assert listeners(mark, beyond_loopback=True) == {"ServeReplica:adapterdistill:search"}
            assert "haproxy" in listeners(mark, beyond_loopback=False)
            assert ray_folders(mark) and all(
                folder.parent.stat().st_mode & 0o777 == 0o700 for folder in ray_folders(mark)
            )
            assert (tmp_path / "bundles").stat().st_mode & 0o777 == 0o700
            assert not (tmp_path / ".ray").exists(), "a token file would change other clusters"
            server.send_signal(signal.SIGTERM)
            assert server.wait(60) == 0
        finally:
            server.kill()
    deadline = time.monotonic() + 60
    while left := processes_marked(mark):
        assert time.monotonic() < deadline, f"left running: {[p.name() for p in left]}"
        time.sleep(0.2)

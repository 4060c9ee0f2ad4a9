"""A Ray of one command: what is checked before it starts, and how it ends."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from adapterdistill.errors import ConfigError
from adapterdistill.serve import local_ray

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", 2), ("::1", 10), ("localhost", 2)])
def test_a_port_in_use_is_told_at_once(host: str, family: int) -> None:
    with socket.socket(family) as other:
        other.bind((host, 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=rf":{port}: another program listens there"):
            local_ray.check_port(host, port)
    local_ray.check_port(host, port)


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("203.0.113.1", "this machine does not have that address"),
        ("nowhere.invalid", "it is not an address of this machine"),
    ],
)
def test_an_address_of_another_machine_is_told_at_once(host: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot listen on {host}:18000: {said}"):
        local_ray.check_port(host, 18000)


@pytest.mark.parametrize(
    ("host", "for_serve"), [("::1", "127.0.0.1"), ("127.0.0.1", "127.0.0.1"), ("::", "127.0.0.1")]
)
def test_serve_listens_where_haproxy_finds_the_replicas(
    host: str, for_serve: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {"RAY_AUTH_MODE": "token", "RAY_SERVE_HAPROXY_BINARY_PATH": "true"}
    environment["PATH"] = os.environ["PATH"]
    monkeypatch.setattr(os, "environ", environment)
    assert local_ray.prepare(host, haproxy=True) == for_serve
    assert environment["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    for name in [name for name in environment if name.startswith("RAY_SERVE")]:
        del environment[name]
    assert local_ray.prepare(host, haproxy=False) == host


ENDS = """
import os, signal, subprocess, sys
import psutil, ray
from ray import serve as ray_serve
from adapterdistill.serve import local_ray

def init(**_):
    global left
    left = subprocess.Popen(["sleep", "600"])  # as HAProxy, if its actor is killed
    if when == "before Ray is up":
        os.kill(os.getpid(), signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda *_: os.abort())  # as Ray does

def later(number):
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), number))
    signal.setitimer(signal.ITIMER_REAL, 0.1)

def ends(who):
    print("(raylet) Task ServeController.graceful_shutdown failed.")  # Ray says so; nobody sees it
    print(who, "ends", file=sys.__stdout__)

ray.init, ray_serve.shutdown = init, lambda: ends("Serve")
ray.shutdown = lambda: ends("Ray")
def deploy():
    if when == "while Serve starts":
        os.kill(os.getpid(), signal.SIGTERM)
    print("serving")
    if when == "with Ray's own processes":
        left.kill()
    later(signal.SIGINT if when == "by a person" else signal.SIGTERM)

for when in sys.argv[1:]:
    print(when)
    local_ray.run(deploy)
    assert not psutil.pid_exists(left.pid)
"""


def test_a_signal_at_any_time_ends_serve_then_ray_then_what_they_left() -> None:
    ends = {
        "before Ray is up": ["Serve ends", "Ray ends"],
        "while Serve starts": ["Serve ends", "Ray ends"],
        "while it serves": ["serving", "Serve ends", "Ray ends"],
        "by a person": ["serving", "Serve ends", "Ray ends"],
        "with Ray's own processes": ["serving"],  # there is nobody to wait for
    }
    done = subprocess.run(
        [sys.executable, "-c", ENDS, *ends],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [line for when in ends for line in (when, *ends[when])]


@pytest.mark.parametrize(
    ("cores", "free_gib", "threads", "bank_mib", "replicas"),
    [
        (2, 16, 1, 1024, 2),
        (8, 64, 1, 1024, 8),
        (8, 64, 3, 1024, 2),
        (1, 64, 4, 1024, 1),
        (64, 64, 1, 1024, 16),  # as many as half of the memory holds
        (64, 64, 1, 3072, 8),
        (4, 1, 1, 1024, 1),
    ],
)
def test_there_are_as_many_replicas_as_cores_and_memory_allow(
    cores: int,
    free_gib: int,
    threads: int,
    bank_mib: float,
    replicas: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr(
        psutil, "virtual_memory", lambda: SimpleNamespace(available=free_gib * 2**30)
    )
    assert local_ray.fitting_replicas(threads=threads, bank_mib=bank_mib) == replicas

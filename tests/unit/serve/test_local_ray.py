"""What is checked before a Ray is started for one command."""

import os
import socket

import pytest

from adapterdistill.errors import ConfigError
from serve import local_ray


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

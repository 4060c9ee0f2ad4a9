"""The teacher registry as a Ray actor: named, detached, its state on disk.

For one trust domain. Owners who do not trust each other run `adapterdistill registry serve` as its
own process instead; both are the same server, and owners reach both over gRPC alone: over mutual
TLS where `adapterdistill registry init` made certificates in its folder, otherwise in plain text.
"""

import asyncio
import threading
from pathlib import Path
from typing import Any

import ray

from adapterdistill.files import keep_private, write_atomically
from adapterdistill.registry.server.server import RegistryServer

ACTOR_NAME = "teacher-registry"
NAMESPACE = "adapterdistill"


class TeacherRegistry:
    """Owns a gRPC server on `root`. Restarted after a crash, it serves what was published."""

    def __init__(
        self, root: str, *, host: str = "127.0.0.1", port: int = 0, address_file: str | None = None
    ) -> None:
        keep_private()
        self._server = RegistryServer(Path(root), host=host, port=port)
        # gRPC's server lives on one event loop, which actor calls must not block.
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="registry", daemon=True).start()
        self._address: str = self._run(self._server.start())
        if address_file is not None:
            write_atomically(Path(address_file), f"{self._address}\n".encode())

    def address(self) -> str:
        """host:port of the gRPC server."""
        return self._address

    def stop(self) -> None:
        """Refuse new calls, let those in progress end, free the folder."""
        self._run(self._server.stop())

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


def start_teacher_registry(
    root: Path, *, port: int = 0, address_file: Path | None = None, num_cpus: float = 0.1
) -> Any:
    """The registry's actor, started if it is not running. It outlives the job that starts it.

    Give `port` so that clients find it again after a restart; with 0 they need `address_file`.
    """
    actor_class: Any = ray.remote(TeacherRegistry)
    return actor_class.options(
        name=ACTOR_NAME,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=num_cpus,
        max_restarts=-1,
        max_task_retries=-1,
    ).remote(str(root), port=port, address_file=None if address_file is None else str(address_file))

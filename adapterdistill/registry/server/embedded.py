"""A registry inside the process that asks it, for a company that shares adapters with nobody."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from adapterdistill.files import alone_in, private_folder
from adapterdistill.registry.server.server import RegistryServer

_GRACE_S = 0.5
_SOCKETS = "/tmp"


@contextmanager
def embedded_registry(root: Path) -> Iterator[str]:
    """Serve the registry in `root` on a Unix socket until the block is left; gives its address.

    The socket is in a folder that only this user may enter, so no other user of the machine can
    call it. The folder `root` is made if it is absent. Processes that use it take turns.

    Raises:
        RegistryError: the folder is unusable, or a registry serves it already.
    """
    private_folder(root)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    # Not below `root`: the path of a socket has at most 107 bytes.
    with alone_in(root), TemporaryDirectory(prefix="adapterdistill-", dir=_SOCKETS) as private:
        thread.start()
        server = RegistryServer(root, socket=Path(private) / "socket", announce=False)
        try:
            yield asyncio.run_coroutine_threadsafe(server.start(), loop).result()
            asyncio.run_coroutine_threadsafe(server.stop(_GRACE_S), loop).result()
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

"""A TCP proxy on loopback that keeps every byte which passes it, in either direction."""

import contextlib
import socket
import threading


class RecordingProxy:
    """Stands before the server at `target` (HOST:PORT); clients connect to `address`."""

    def __init__(self, target: str) -> None:
        host, port = target.rsplit(":", 1)
        self._target = (host, int(port))
        self._lock = threading.Lock()
        self._parts: list[bytearray] = []
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def recorded(self) -> list[bytes]:
        """Return the bytes that passed so far, for each direction of each connection."""
        with self._lock:
            return [bytes(part) for part in self._parts]

    def close(self) -> None:
        # Closing alone does not wake a thread that waits in accept or recv.
        for one in [self._listener, *self._sockets]:
            with contextlib.suppress(OSError):  # its peer closed it before
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join(timeout=10)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            self._sockets += [client, server]
            for source, sink in ((client, server), (server, client)):
                part = bytearray()
                with self._lock:
                    self._parts.append(part)
                thread = threading.Thread(
                    target=self._pass_on, args=(source, sink, part), daemon=True
                )
                self._threads.append(thread)
                thread.start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, part: bytearray) -> None:
        try:
            while data := source.recv(1 << 16):
                with self._lock:
                    part += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return  # one of the two ended

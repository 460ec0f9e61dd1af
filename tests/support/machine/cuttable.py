"""A TCP connection that a test can cut, reset, hold and slow down in its middle."""

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_RESET = struct.pack("ii", 1, 0)  # no lingering: the other side reads a reset


class Wire:
    """Passes bytes on between whoever connects and a port.

    Args:
        port: Where connections lead, on this machine.
        is_recording: Whether bytes are kept.
        source: The address from which the port sees them come.

    Attributes:
        recorded: All bytes that passed, where `is_recording`.
        delay_seconds: That each piece waits before it is passed on.
        flows: Cleared, the wire is half open: it takes bytes and passes none on.
    """

    def __init__(
        self, port: int, *, is_recording: bool = False, source: str = "127.0.0.1"
    ) -> None:
        self.port = port
        self._source = source
        self.recorded = bytearray()
        self.delay_seconds = 0.0
        self.flows = threading.Event()
        self.flows.set()
        self._is_recording = is_recording
        self._open: list[socket.socket] = []
        self._entrance = socket.create_server(("127.0.0.1", 0))
        self.entrance: int = self._entrance.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Ends every connection that is open."""
        while self._open:
            with suppress(OSError):
                self._open.pop().shutdown(socket.SHUT_RDWR)

    def reset(self) -> None:
        """Ends every connection as a firewall does that has forgotten them."""
        for end in self._open:
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        while self._open:
            with suppress(OSError):
                self._open.pop().close()

    def close(self) -> None:
        self.flows.set()
        with suppress(OSError):
            self._entrance.shutdown(socket.SHUT_RDWR)
        self._entrance.close()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):  # the entrance is closed
            while True:
                near, _ = self._entrance.accept()
                try:
                    far = socket.create_connection(
                        ("127.0.0.1", self.port), source_address=(self._source, 0)
                    )
                except OSError:  # nobody is there at the moment
                    near.close()
                    continue
                self._open += [near, far]
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._pour, args=ends, daemon=True).start()

    def _pour(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError), source:
            while content := source.recv(1 << 16):
                time.sleep(self.delay_seconds)
                self.flows.wait()
                if self._is_recording:
                    self.recorded += content
                sink.sendall(content)
            sink.shutdown(socket.SHUT_WR)


@contextmanager
def cuttable(
    port: int, *, is_recording: bool = False, source: str = "127.0.0.1"
) -> Iterator[Wire]:
    """Yields a way to `port` that can be cut."""
    wire = Wire(port, is_recording=is_recording, source=source)
    try:
        yield wire
    finally:
        wire.close()

"""Ports of this machine for programs that tests start."""

import os
import socket

LOOPBACK = "127.0.0.1"

# below what systems give to connections and to port 0, so that nothing else takes a
# port between its choice and its use; each process begins somewhere else
_FIRST, _LAST = 12_000, 32_000
_next = _FIRST + os.getpid() * 151 % (_LAST - _FIRST)


def free_port() -> int:
    """Returns a port at which nobody listens, another one at each call."""
    global _next
    while True:
        port = _next
        _next = _FIRST + (_next + 1 - _FIRST) % (_LAST - _FIRST)
        with socket.socket() as one:
            try:
                one.bind((LOOPBACK, port))
            except OSError:
                continue
        return port

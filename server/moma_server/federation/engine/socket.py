"""Where SuperLink listens: a Unix socket in a folder that is its owner's alone.

A port on loopback is open to every user of the machine, and SuperLink authenticates
nobody on it. What guards the socket is the folder, mode 0700: nobody else gets to it.
"""

import socket
import ssl
import sys
from pathlib import Path
from typing import NamedTuple

import httpx

SUPEREXEC_ENDED = 77
"""The status with which SuperLink ends when its SuperExec has ended."""

ENGINE_URL = "https://127.0.0.1"
"""What calls to the socket are addressed to; its certificate names this host."""


class EngineAddress(NamedTuple):
    """How the programs of this machine reach SuperLink, and know that it is ours.

    Args:
        socket: Path of the Unix socket.
        ca_certificate: Certificate file of SuperLink, its own CA.
    """

    socket: Path
    ca_certificate: Path

    def trust(self) -> ssl.SSLContext:
        """Returns a context that takes SuperLink's certificate and no other."""
        return ssl.create_default_context(cafile=str(self.ca_certificate))


class EngineTransport(httpx.HTTPTransport):
    """Carries an httpx client's calls to SuperLink.

    httpx leaves a Unix socket open that it could not connect, one for every call to a
    SuperLink that is away; so it is looked at first.
    """

    def __init__(self, address: EngineAddress) -> None:
        super().__init__(verify=address.trust(), uds=str(address.socket))
        self._path = str(address.socket)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Sends a request; see httpx."""
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(self._path)
            except OSError as error:
                raise httpx.ConnectError("SuperLink does not listen") from error
        return super().handle_request(request)


def launcher(socket: Path) -> list[str]:
    """Returns the command to which a program of Flower's and its arguments belong."""
    module = "moma_server.federation.engine.launcher"
    return [sys.executable, "-P", "-m", module, str(socket)]

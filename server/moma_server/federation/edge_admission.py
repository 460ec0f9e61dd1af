"""Whom the edge lets through to SuperLink, asked at every request and every second.

SuperLink knows a node by its key and checks its signature. It knows nothing of the
site's certificate, and keeps talking over a connection that is open. So the edge looks
at the key that a request names: it must be a registered site's, and the site must have
a certificate that is neither expired nor revoked. Whoever claims another's key still
fails at SuperLink, for the signature.
"""

import base64
import binascii
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from moma_core.errors import MomaError
from moma_server.federation.control import key_bytes
from moma_server.federation.registry import read_sites

_logger = logging.getLogger(__name__)

NODE_KEY_HEADER = "flwr-public-key"

_TRUSTED_SECONDS = 1.0  # so long an unchanged stamp is believed
_LONGEST_HEADER = 1024

_Stamp = tuple[tuple[int, int] | None, ...]


class EdgeAdmission:
    """The node keys that are let through; follows the files as they change.

    Args:
        registry: Folder of the sites' node keys.
        in_force: Returns the sites with a certificate that was not revoked, and when
            the last of each ends.
        follows: Files and folders on which that depends.
        clock: The present, with a time zone.
    """

    def __init__(
        self,
        registry: Path,
        in_force: Callable[[], Mapping[str, datetime]],
        *,
        follows: Iterable[Path],
        clock: Callable[[], datetime],
    ) -> None:
        self._registry, self._in_force = registry, in_force
        self._follows = (registry, *follows)
        self._clock = clock
        self._known: dict[bytes, tuple[str, datetime]] = {}
        self._stamp: _Stamp | None = None
        self._read_at = 0.0

    def site(self, header: str | None) -> str | None:
        """Returns whose node a request is of; None: it is not let through.

        Args:
            header: Of the request, the node's public key in base64.
        """
        self._refresh()
        site, end = self._known.get(_key(header), (None, None))
        if end is None or self._clock() >= end:
            return None
        return site

    def sweep(self, connections: Iterable[Any]) -> None:
        """Breaks off the connections of nodes that are let through no more.

        Args:
            connections: uvicorn's; each knows the last request that it carried.
        """
        for connection in list(connections):
            scope = getattr(connection, "scope", None)
            if not scope or connection.transport is None:
                continue
            header = dict(scope["headers"]).get(NODE_KEY_HEADER.encode())
            if header is not None and self.site(header.decode("latin-1")) is None:
                _logger.info("a node that is admitted no more was hung up on")
                connection.transport.abort()

    def _refresh(self) -> None:
        stamp, now = tuple(map(_stamp, self._follows)), time.monotonic()
        if stamp == self._stamp and now < self._read_at + _TRUSTED_SECONDS:
            return
        self._stamp, self._read_at = stamp, now
        try:
            self._known = self._read()
        except (MomaError, OSError) as error:
            _logger.error("no site is let through the edge: %s", error)
            self._known = {}

    def _read(self) -> dict[bytes, tuple[str, datetime]]:
        ends = self._in_force()
        return {
            key_bytes(openssh): (site, ends[site])
            for site, openssh in read_sites(self._registry).items()
            if site in ends
        }


def is_admitted(admission: EdgeAdmission | None, headers: Mapping[str, str]) -> bool:
    """Whether a request is let through; without an admission all are."""
    return admission is None or admission.site(headers.get(NODE_KEY_HEADER)) is not None


def _key(header: str | None) -> bytes:
    if header is None or len(header) > _LONGEST_HEADER:
        return b""
    try:
        return base64.b64decode(header, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns

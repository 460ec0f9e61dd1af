"""Which sites the edge may serve now: members whose certificate is in force.

The edge knows who calls by the node's own signature, and SuperLink who is registered.
Neither knows of the site's certificate. A site that is revoked, or whose certificate is
over, has no place in the rounds either: that is checked before a call is read, and for
every open connection again.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from moma_core.errors import CertificateError
from moma_server.federation.edge.authentication import KnownNode
from moma_server.federation.engine.control import key_bytes
from moma_server.membership.members import read_sites

_TRUSTED_SECONDS = 1.0  # so long unchanged files are not read again

_Fingerprint = tuple[tuple[int, int] | None, ...]


class EdgeAuthorization:
    """Reads the registry and the members' certificates again when their files change.

    Args:
        registry: Folder of the sites' node keys.
        in_force: Returns the sites with a certificate that was not revoked, and when
            the last of each ends.
        sources: Files and folders that `in_force` reads, watched for a change.
        clock: Returns the present, with a time zone.
    """

    def __init__(
        self,
        registry: Path,
        in_force: Callable[[], Mapping[str, datetime]],
        *,
        sources: Iterable[Path],
        clock: Callable[[], datetime],
    ) -> None:
        self._registry, self._in_force = registry, in_force
        self._sources = (registry, *sources)
        self._clock = clock
        self._known: dict[str, tuple[bytes, datetime]] = {}
        self._fingerprint: _Fingerprint | None = None
        self._read_at = 0.0

    def authorizes(self, node: KnownNode) -> bool:
        """Whether a node may be served now: its site has this key and a certificate.

        Raises:
            CertificateError: The revocations are missing or damaged: nobody may.
        """
        self._refresh()
        key, end = self._known.get(node.site, (None, None))
        return end is not None and key == node.public_key and self._clock() < end

    def _refresh(self) -> None:
        fingerprint, now = tuple(map(_fingerprint, self._sources)), time.monotonic()
        if fingerprint == self._fingerprint and now < self._read_at + _TRUSTED_SECONDS:
            return
        self._fingerprint = None  # where reading fails, the next call reads again
        self._known = self._read()
        self._fingerprint, self._read_at = fingerprint, now

    def _read(self) -> dict[str, tuple[bytes, datetime]]:
        ends, known = self._in_force(), {}
        for site, openssh in read_sites(self._registry).items():
            # the log names a damaged key where the nodes are made to fit the registry
            with suppress(CertificateError):
                if site in ends:
                    known[site] = (key_bytes(openssh), ends[site])
        return known


def _fingerprint(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns

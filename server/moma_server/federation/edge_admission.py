"""Which sites the edge lets through, asked at every call and every two seconds.

SuperLink knows a node by its key and checks its signature. It knows nothing of the
site's certificate: that must be one that is neither expired nor revoked.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path

from moma_core.errors import MomaError
from moma_server.federation.edge_callers import KnownNode

_logger = logging.getLogger(__name__)

_TRUSTED_SECONDS = 1.0  # so long an unchanged stamp is believed

_Stamp = tuple[tuple[int, int] | None, ...]


class EdgeAdmission:
    """The sites that are let through; follows the files as they change.

    Args:
        in_force: Returns the sites with a certificate that was not revoked, and when
            the last of each ends.
        follows: Files and folders on which that depends.
        clock: The present, with a time zone.
    """

    def __init__(
        self,
        in_force: Callable[[], Mapping[str, datetime]],
        *,
        follows: Iterable[Path],
        clock: Callable[[], datetime],
    ) -> None:
        self._in_force, self._follows = in_force, tuple(follows)
        self._clock = clock
        self._ends: Mapping[str, datetime] = {}
        self._stamp: _Stamp | None = None
        self._read_at = 0.0

    def admits(self, node: KnownNode) -> bool:
        """Whether a site's node is let through now."""
        self._refresh()
        end = self._ends.get(node.site)
        return end is not None and self._clock() < end

    def _refresh(self) -> None:
        stamp, now = tuple(map(_stamp, self._follows)), time.monotonic()
        if stamp == self._stamp and now < self._read_at + _TRUSTED_SECONDS:
            return
        self._stamp, self._read_at = stamp, now
        try:
            self._ends = self._in_force()
        except (MomaError, OSError) as error:
            _logger.error("no site is let through the edge: %s", error)
            self._ends = {}


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns

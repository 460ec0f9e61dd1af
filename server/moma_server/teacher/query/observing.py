"""Watches a query: counts how it ended, and logs it where it was denied."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from moma_core.teacher.query import PatchQuery
from moma_server.metrics.metrics import TeacherMetrics
from moma_server.rpc.errors import verdict_on
from moma_server.teacher.query.billing import Charging
from moma_server.teacher.query.denial import Denial


@dataclass(slots=True)
class Observed:
    """What is known of a query so far.

    Args:
        query: None until it could be read.
        logged: The log has it, or will; it is counted there.
    """

    query: PatchQuery | None = None
    logged: bool = False


class Observer:
    """Sees to it that every query is counted once, whatever happens to it.

    Args:
        charging: Logs what is denied.
        metrics: Gets what the log does not have, and how long answers took.
        teacher: The metrics' label.
    """

    def __init__(
        self, charging: Charging, metrics: TeacherMetrics, teacher: str
    ) -> None:
        self._charging = charging
        self._metrics = metrics
        self._teacher = teacher

    @asynccontextmanager
    async def query(self, site: str, request_id: bytes) -> AsyncIterator[Observed]:
        """Watches one query of a site, from before it is read."""
        begin = time.monotonic()
        observed = Observed()
        outcome = "failed"
        try:
            with self._metrics.inflight.track_inprogress():
                yield observed
            self._metrics.request_seconds.observe(time.monotonic() - begin)
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        except Exception as error:
            reason = verdict_on(error).reason
            if reason is not None:
                observed.logged = True
                denial = Denial(site, reason, request_id, observed.query)
                await asyncio.shield(self._charging.deny(denial))
            raise
        finally:
            if not observed.logged:
                self._metrics.dropped.labels(site, self._teacher, outcome).inc()

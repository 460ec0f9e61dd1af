"""Writes to the ledger together what waits to be written, and shows what it counts."""

import asyncio
import logging
import threading
from collections import Counter, deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from moma_core.audit.checkpoint import Checkpoint
from moma_core.audit.ledger import Committed, Ledger, Operation, Refusal
from moma_core.audit.tables import Total, TotalKey
from moma_core.errors import MomaError, TeacherUnavailableError
from moma_server.metrics.metrics import AuditMetrics, TeacherMetrics

T = TypeVar("T")

_logger = logging.getLogger(__name__)

_NOTHING = Total(0, 0)
_FAILED = "the teacher cannot write its ledger"
_MOST_TOGETHER = 256  # so that the first of them does not wait for ever


class GroupCommit:
    """Writes to the ledger without blocking the loop.

    While one commit is on its way to the disk, others gather for the next. What was
    handed in is done, whether anybody still waits for it or not.

    Args:
        ledger: Written to from one thread.
        metrics: Show each commit, before whoever waits for it goes on.
    """

    def __init__(self, ledger: Ledger, metrics: "LogMetrics") -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._lock = threading.Lock()
        self._writing = self._stopped = False
        self._waiting: deque[tuple[Operation[Any], Future[Any]]] = deque()

    def submit(self, operation: Operation[T]) -> "asyncio.Future[T]":
        """Hands an operation in.

        Returns:
            What becomes of it, once that is on the disk: its result, the RefusedError
            that it raised, or TeacherUnavailableError where the ledger fails or is
            closed.
        """
        outcome: Future[T] = Future()
        outcome.set_running_or_notify_cancel()  # from here on nobody cancels it
        with self._lock:
            if self._stopped:
                closing = TeacherUnavailableError("the teacher is shutting down")
                outcome.set_exception(closing)
                return asyncio.wrap_future(outcome)
            self._waiting.append((operation, outcome))
            if not self._writing:
                self._thread.submit(self._write)
                self._writing = True
        return asyncio.wrap_future(outcome)

    async def sign_anew(self) -> None:
        """Has the log signed as it stands.

        Raises:
            MomaError: The ledger fails.
        """
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._sign_anew)

    async def stop(self) -> None:
        """Finishes what was handed in."""
        with self._lock:
            self._stopped = True
        await asyncio.to_thread(self._thread.shutdown)

    def _write(self) -> None:
        while group := self._take():
            try:
                committed = self._ledger.write_all([each for each, _ in group])
                self._metrics.show(committed)
                done = committed.done
            except Exception as error:
                trace = None if isinstance(error, MomaError) else error
                _logger.error("the ledger cannot be written: %s", error, exc_info=trace)
                failure = TeacherUnavailableError(_FAILED)
                done = [failure] * len(group)
            for (_, outcome), result in zip(group, done, strict=True):
                if isinstance(result, Refusal | TeacherUnavailableError):
                    # its traceback holds frames that hold it, and what was asked
                    outcome.set_exception(result.with_traceback(None))
                else:
                    outcome.set_result(result)

    def _sign_anew(self) -> None:
        try:
            committed = self._ledger.sign_anew()
        except SQLAlchemyError as error:
            _logger.error("the ledger cannot be written: %s", error, exc_info=error)
            raise TeacherUnavailableError(_FAILED) from None
        self._metrics.show(committed)

    def _take(self) -> list[tuple[Operation[Any], Future[Any]]]:
        """Returns what waits; nothing: the next one to come starts the thread again."""
        with self._lock:
            count = min(len(self._waiting), _MOST_TOGETHER)
            self._writing = count > 0
            return [self._waiting.popleft() for _ in range(count)]


class LogMetrics:
    """The log's numbers as Prometheus sees them; for one thread.

    A counter is raised to what the log says and never counts by itself. So it is the
    same after a restart, and each of several gateways on one database shows the numbers
    of all.

    Args:
        metrics: Counters of queries.
        audit: Gauges of the log.
        teacher: Name of the teacher, a label of the counters.
    """

    def __init__(
        self, metrics: TeacherMetrics, audit: AuditMetrics, teacher: str
    ) -> None:
        self._metrics = metrics
        self._audit = audit
        self._teacher = teacher
        self._shown: dict[TotalKey, Total] = {}
        self._mismatches = 0

    def show(self, committed: Committed[Any]) -> None:
        """Shows what a transaction has changed."""
        self._raise(committed.totals)
        self._show_checkpoint(committed.checkpoint)
        self._audit.mismatches.inc(committed.mismatches - self._mismatches)
        self._mismatches = committed.mismatches

    def _raise(self, totals: Mapping[TotalKey, Total]) -> None:
        """Raises each counter in one step: half of a sum looks like a reset."""
        requests = Counter[tuple[str, str]]()
        denied = Counter[tuple[str, str]]()
        patches = Counter[str]()
        for key, total in totals.items():
            shown = self._shown.get(key, _NOTHING)
            self._shown[key] = total
            queries = total.queries - shown.queries
            requests[key.site, key.outcome] += queries
            patches[key.site] += total.charged - shown.charged
            if key.reason:
                denied[key.site, key.reason] += queries
        for (site, outcome), count in requests.items():
            self._metrics.requests.labels(site, self._teacher, outcome).inc(count)
        for (site, reason), count in denied.items():
            self._metrics.denied.labels(site, self._teacher, reason).inc(count)
        for site, count in patches.items():
            self._metrics.patches.labels(site, self._teacher).inc(count)

    def _show_checkpoint(self, checkpoint: Checkpoint) -> None:
        self._audit.size.set(checkpoint.size)
        self._audit.checkpoint_time.set(checkpoint.time_ms / 1000)

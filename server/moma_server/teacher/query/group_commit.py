"""Writes to the ledger together what waits to be written, in its own thread."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from moma_core.audit.ledger import Committed, Ledger, Operation, Refusal
from moma_core.errors import MomaError, TeacherUnavailableError

T = TypeVar("T")

_logger = logging.getLogger(__name__)

_MOST_TOGETHER = 256  # so that the first of them does not wait for ever


class GroupCommit:
    """Writes to the ledger without blocking the loop.

    While one commit is on its way to the disk, others gather for the next. What was
    handed in is done, whether anybody still waits for it or not.

    Args:
        ledger: Written to from one thread.
        after: Called in that thread after each commit, before whoever waits for it.
    """

    def __init__(self, ledger: Ledger, after: Callable[[Committed[Any]], None]) -> None:
        self._ledger = ledger
        self._after = after
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
        """Has the log signed as it stands."""
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
                self._after(committed)
                done = committed.done
            except Exception as error:
                trace = None if isinstance(error, MomaError) else error
                _logger.error("the ledger cannot be written: %s", error, exc_info=trace)
                failure = TeacherUnavailableError("the teacher cannot write its ledger")
                done = [failure] * len(group)
            for (_, outcome), result in zip(group, done, strict=True):
                if isinstance(result, Refusal | TeacherUnavailableError):
                    outcome.set_exception(result)
                else:
                    outcome.set_result(result)

    def _sign_anew(self) -> None:
        self._after(self._ledger.sign_anew())

    def _take(self) -> list[tuple[Operation[Any], Future[Any]]]:
        """Returns what waits; nothing: the next one to come starts the thread again."""
        with self._lock:
            count = min(len(self._waiting), _MOST_TOGETHER)
            self._writing = count > 0
            return [self._waiting.popleft() for _ in range(count)]

"""The site's end of the federation, as the session sees it: tasks in, reports out.

The connection lives in a child process (`federation.process`); both share the
`TaskStore`. The child holds one end of a pipe: when the session's process is gone,
even by SIGKILL, the pipe closes and the child says good-bye and ends.
"""

import logging
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pydantic import TypeAdapter

from moma_client.federation.inbox import TaskStore
from moma_core.errors import FederationError
from moma_core.federation.run_state import RunState
from moma_core.federation.task import RoundReport, RoundTask
from moma_core.network.proxy import DIRECT, ProxyRule
from moma_core.runtime.files import Stamp, stat_fingerprint
from moma_core.runtime.supervise import SupervisedChild, how_it_ended, wait_or_kill

_logger = logging.getLogger(__name__)

IN_USE_STATUS: Final = 75
"""With which the node's process ends where another one is connected with its key."""

_LOOK_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 10.0
_FLUSH_SECONDS = 2.0
_FETCH_SECONDS = 30.0
_SAY_AGAIN_SECONDS = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """What a site's node needs to know.

    Args:
        address: host:port of the coordinator's edge.
        ca_certificate: PEM; proves that the other end is the coordinator.
        node_key: Private node key of this site.
        folder: Where the task in hand and its report lie.
        passphrase_file: Passphrase that encrypts the node key; None: it is not.
        revoked: List of revoked certificates; None: none is kept.
        poll_seconds: Pause between two requests for a message.
        max_weights_bytes: Limit of weights that are taken.
        stop_seconds: Time for the child to end before it is killed.
        close_session_seconds: How long the last answer may take on its way.
        proxy: Whether the way to the coordinator leads through a proxy.
        give_up_seconds: Without a word of the coordinator for so long, the site ends.
    """

    address: str
    ca_certificate: Path
    node_key: Path
    folder: Path
    passphrase_file: Path | None = None
    revoked: Path | None = None
    poll_seconds: float = 1.0
    max_weights_bytes: int = 1 << 30
    stop_seconds: float = 5.0
    close_session_seconds: float = 60.0
    proxy: ProxyRule = DIRECT
    give_up_seconds: float = 72 * 3600.0

    @property
    def state_file(self) -> Path:
        """Where the node's process says how the run stands."""
        return self.folder / "run.json"

    def to_json(self) -> str:
        """Returns the settings as one argument of a command; there is no secret."""
        return _SETTINGS.dump_json(self).decode()

    @classmethod
    def from_json(cls, text: str) -> "NodeSettings":
        """Reads what `to_json` wrote."""
        return _SETTINGS.validate_json(text)


_SETTINGS = TypeAdapter(NodeSettings)


class FederationNode:
    """Keeps a site connected to its coordinator; use it as a context manager.

    Args:
        settings: Settings of this site's node.
        task_run: Run that is under way, as its tasks bear it; None: nobody knows.

    Attributes:
        state: How the run stands, as the coordinator last said to the node's process;
            None: it said nothing.
    """

    def __init__(self, settings: NodeSettings, task_run: str | None = None) -> None:
        self._settings = settings
        self._task_run = task_run
        self.state: RunState | None = None
        self._logged: tuple[RunState, float] | None = None
        self._heard: Stamp | None = None
        self._heard_at = time.monotonic()
        self._silence_warned_at = -math.inf  # on the monotonic clock
        self._store = TaskStore(settings.folder)
        self._answered_at = -math.inf  # on the monotonic clock
        self._child = SupervisedChild(
            "node",
            self._start,
            end=self._end,
            on_exit=self._log_exit,
            longest_pause_seconds=_LONGEST_PAUSE_SECONDS,
        )

    def __enter__(self) -> Self:
        """Starts to connect; work for a run that is under way no more is dropped.

        Raises:
            CheckpointError: The stored task is damaged.
        """
        self._settings.state_file.unlink(missing_ok=True)  # of another run, perhaps
        self._drop_of_other_runs()
        self._heard_at = time.monotonic()
        self._child.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Disconnects; what could not be sent is sent after the next start."""
        stored = self._store.task()
        if stored is not None and self._store.is_reported(stored.task):
            self._wait_until_sent(stored.task, _FLUSH_SECONDS)
        self._child.stop()

    def _drop_of_other_runs(self) -> None:
        if self._task_run is None:
            return
        dropped = self._store.drop_of_other_runs(self._task_run)
        if dropped is not None:
            _logger.info(
                "what was begun for %s is left: the coordinator runs %s",
                dropped,
                self._task_run,
            )

    def tasks(self, stop: threading.Event) -> Iterator[RoundTask]:
        """Yields the tasks as they come, first the one that a kill interrupted.

        Each must be answered by `report` or `fail` before the next is asked for. Ends
        after the closing task's answer has left, when the coordinator says that the
        run is over for this site, or when `stop` is set.

        Raises:
            CheckpointError: The stored task is damaged.
            FederationError: The coordinator has been away for too long.
        """
        while not stop.is_set():
            task = self._store.unfinished()
            if task is None:
                self._listen()
                if self.state is not None and self.state.phase == "over":
                    return
                stop.wait(_LOOK_SECONDS)
                continue
            yield task
            if task.kind == "close" and self._store.is_reported(task):
                self._wait_until_sent(task, self._settings.close_session_seconds, stop)
                return

    def _listen(self) -> None:
        """Reads what the coordinator says of its run, and tells what is new.

        Raises:
            FederationError: It has said nothing for too long.
        """
        now = time.monotonic()
        with suppress(OSError):
            stamp = stat_fingerprint(self._settings.state_file)
            if stamp != self._heard:
                content = self._settings.state_file.read_bytes()
                self.state = RunState.from_json(content) if content else None
                self._heard, self._heard_at = stamp, now
        self._warn_of_silence(now)
        if now - self._heard_at > self._settings.give_up_seconds:
            raise FederationError(
                f"the coordinator at {self._settings.address} has been away for "
                f"{self._settings.give_up_seconds / 3600:g} h; the same command goes on"
            )
        if self.state is None or self.state.phase == "over":
            return
        if self._logged is not None:
            last, at = self._logged
            if self.state.is_like(last) and now - at < _SAY_AGAIN_SECONDS:
                return
        self._logged = (self.state, now)
        _logger.info("waiting: %s", self.state.sentence(datetime.now().astimezone()))

    def _warn_of_silence(self, now: float) -> None:
        """Says now and then that nothing is heard, also where a connection is open."""
        last = max(self._heard_at, self._silence_warned_at)
        if now - last < _SAY_AGAIN_SECONDS:
            return
        self._silence_warned_at = now
        _logger.warning(
            "nothing was heard of the coordinator at %s for %.0f min; this site waits "
            "for %g h in all",
            self._settings.address,
            (now - self._heard_at) / 60,
            self._settings.give_up_seconds / 3600,
        )

    def report(self, task: RoundTask, report: RoundReport) -> None:
        """Answers `task`; the answer leaves as soon as there is a connection.

        Raises:
            FederationError: The report breaks the contract.
        """
        self._store.put_report(task, report)
        self._answered_at = self._heard_at = time.monotonic()

    def fail(self, task: RoundTask) -> None:
        """Answers that the site could not do `task`; it may be asked again."""
        self._store.put_failure(task)
        self._answered_at = self._heard_at = time.monotonic()

    def _wait_until_sent(
        self, task: RoundTask, seconds: float, stop: threading.Event | None = None
    ) -> None:
        stop = stop or threading.Event()
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self._store.is_answered(task):
            if stop.wait(_LOOK_SECONDS):
                return

    def _start(self) -> subprocess.Popen[bytes]:
        module = ["-P", "-m", "moma_client.federation.process"]
        return subprocess.Popen(  # noqa: S603 - our own module, no shell
            [sys.executable, *module, self._settings.to_json()],
            env={
                **os.environ,
                "FLWR_HOME": str(self._settings.folder.resolve() / "flwr"),
                "FLWR_DISABLE_UPDATE_CHECK": "1",
            },
            stdin=subprocess.PIPE,
            process_group=0,  # Ctrl-C is for the session alone
        )

    def _end(self, child: subprocess.Popen[bytes]) -> None:
        if time.monotonic() - self._answered_at < _FETCH_SECONDS:
            # SuperLink gives out no answer of a node that has said good-bye, and the
            # last one may not have been fetched yet; all else lies on disk
            child.kill()
        if child.stdin is not None:
            child.stdin.close()
        wait_or_kill(child, self._settings.stop_seconds + 1)

    def _log_exit(self, status: int, pause: float) -> None:
        if status == IN_USE_STATUS:
            _logger.warning(
                "another program is connected with this site's node key (a second "
                "machine, or one that was killed less than a minute ago); trying again "
                "in %.0f s",
                pause,
            )
            return
        if status < 0:
            _logger.warning(
                "the process that is connected for this site %s; starting it again in "
                "%.0f s",
                how_it_ended(status),
                pause,
            )
            return
        _logger.warning(
            "not connected, waiting for the coordinator at %s; trying again in %.0f s",
            self._settings.address,
            pause,
        )

"""A child process that is started again when it ends, later each time."""

import signal
import subprocess
import threading
import time
from collections.abc import Callable

_LOOK_SECONDS = 0.1
_STABLE_SECONDS = 60.0

Child = subprocess.Popen[bytes]


class Backoff:
    """The pauses between tries: each is twice the last, up to the longest.

    Args:
        longest_seconds: No pause is longer.
    """

    def __init__(self, longest_seconds: float) -> None:
        self._longest = longest_seconds
        self.reset()

    def reset(self) -> None:
        """Begins again with a pause of a second."""
        self._next = 1.0

    def pause(self) -> float:
        """Returns the seconds to wait before the next try."""
        pause, self._next = self._next, min(2 * self._next, self._longest)
        return pause


class SupervisedChild:
    """Keeps a child running, from a thread that lives as long as the child.

    A child that asks for a signal at its parent's death gets it when the thread that
    started it ends; so the same thread starts it and waits for it.

    Args:
        name: The thread's name.
        start: Starts the child.
        end: Ends the child and what it left behind, also when it ended by itself.
        on_exit: Takes the status of a child that ended by itself, and the seconds
            until the next is started.
        longest_pause_seconds: Between two starts; after a minute in which a child ran,
            the pauses begin anew.
    """

    def __init__(
        self,
        name: str,
        start: Callable[[], Child],
        *,
        end: Callable[[Child], None],
        on_exit: Callable[[int, float], None],
        longest_pause_seconds: float,
    ) -> None:
        self._start, self._end, self._on_exit = start, end, on_exit
        self._backoff = Backoff(longest_pause_seconds)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.starts = 0

    def start(self) -> None:
        """Begins to supervise; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the child, and returns when it has ended."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def is_supervised(self) -> bool:
        """Whether a child runs or is about to be started."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping.is_set():
            started_at = time.monotonic()
            child = self._start()
            self.starts += 1
            while child.poll() is None and not self._stopping.wait(_LOOK_SECONDS):
                pass
            self._end(child)
            if self._stopping.is_set():
                return
            if time.monotonic() - started_at > _STABLE_SECONDS:
                self._backoff.reset()
            pause = self._backoff.pause()
            self._on_exit(child.returncode, pause)
            self._stopping.wait(pause)


def how_it_ended(status: int) -> str:
    """Returns in words how a child ended, for its parent's log.

    A child that the kernel kills for its memory says nothing itself.
    """
    if status == -signal.SIGKILL:
        return "was killed (SIGKILL), as the kernel does where memory is short"
    if status < 0:
        return f"was ended by signal {-status}"
    return f"ended with status {status}"


def wait_or_kill(child: Child, seconds: float) -> None:
    """Waits for the end of a child that was asked to end, and kills it after a time."""
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()

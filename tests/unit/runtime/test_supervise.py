"""A child that is kept running, and the pauses between its starts."""

import subprocess
import sys
import threading

import pytest

from moma_core.runtime.supervise import (
    Backoff,
    Child,
    SupervisedChild,
    how_it_ended,
    wait_or_kill,
)

_SECONDS = 30.0


def _python(program: str) -> Child:
    return subprocess.Popen([sys.executable, "-c", program])


def _killed(child: Child) -> None:
    child.kill()
    child.wait()


def test_each_pause_is_twice_the_last_up_to_the_longest() -> None:
    backoff = Backoff(5)

    first = [backoff.pause() for _ in range(5)]
    backoff.reset()

    assert first == [1, 2, 4, 5, 5]
    assert backoff.pause() == 1


def test_a_child_that_ends_is_started_again() -> None:
    statuses: list[int] = []
    again = threading.Event()

    def start() -> Child:
        if statuses:
            again.set()
        return _python("raise SystemExit(7)")

    supervised = SupervisedChild(
        "child",
        start,
        end=_killed,
        on_exit=lambda status, _pause: statuses.append(status),
        longest_pause_seconds=0.1,
    )
    supervised.start()
    came_back = again.wait(_SECONDS)
    supervised.stop()

    assert came_back
    assert statuses[0] == 7
    assert supervised.starts >= 2


def test_a_child_that_is_stopped_is_ended_and_not_reported() -> None:
    started = threading.Event()
    children: list[Child] = []

    def start() -> Child:
        children.append(_python("import time; time.sleep(600)"))
        started.set()
        return children[-1]

    supervised = SupervisedChild(
        "child",
        start,
        end=_killed,
        on_exit=lambda _status, _pause: children.clear(),
        longest_pause_seconds=1,
    )
    supervised.start()
    assert started.wait(_SECONDS)
    supervised.stop()

    (child,) = children
    assert child.returncode is not None
    assert not supervised.is_supervised()


def test_a_child_that_does_not_end_in_time_is_killed() -> None:
    with _python("import time; time.sleep(600)") as child:
        wait_or_kill(child, 0.1)

    assert child.returncode == -9


@pytest.mark.parametrize(
    ("end", "says"),
    [
        ("raise SystemExit(3)", "ended with status 3"),
        ("import os; os.kill(os.getpid(), 9)", "killed (SIGKILL), as the kernel does"),
        ("import os; os.kill(os.getpid(), 11)", "ended by signal 11"),
    ],
)
def test_what_ended_a_child_is_said_in_its_place(end: str, says: str) -> None:
    with _python(end) as child:
        child.wait(_SECONDS)

    assert says in how_it_ended(child.returncode)

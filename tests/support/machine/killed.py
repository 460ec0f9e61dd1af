"""A program that forks a child for each line on its input, and how to kill these."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PROJECT = Path(__file__).resolve().parents[3]


class Children:
    """Starts children, one after another."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def run(self, *, until: Callable[[], object] | None = None) -> int:
        """Returns a child's exit status; negative: the signal that ended it.

        Args:
            until: Returns when the child is to be killed; None lets it live.
        """
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        child = int(self._process.stdout.readline())
        if until is not None:
            until()
            with suppress(ProcessLookupError):  # it is done
                os.kill(child, signal.SIGKILL)
        return int(self._process.stdout.readline())


@contextmanager
def forking(module: str, *arguments: str | Path) -> Iterator[Children]:
    """Runs a module of the tests that starts children."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=_PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "0\n"  # it is ready
        yield Children(process)
        process.stdin.close()


def serve_children(work: Callable[[], None]) -> None:
    """Forks a child for each line on the input, which does the work: the other end."""
    _say(0)  # ready
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            work()
            os._exit(0)
        _say(child)
        _say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def _say(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()

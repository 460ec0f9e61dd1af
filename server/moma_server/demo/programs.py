"""The real programs as child processes: run to their end, or started and stopped."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from moma_core.errors import MomaError

_STOP_SECONDS = 12.0
_LOOK_SECONDS = 0.2

SERVER, CLIENT = "moma_server.cli.main", "moma_client.cli.main"


class DemoError(MomaError):
    """One of the demo's programs did not do what it should."""


def run_program(
    module: str, arguments: Sequence[str | Path], log: Path, given: str = ""
) -> str:
    """Runs a program to its end and returns what it printed.

    Args:
        module: SERVER or CLIENT.
        arguments: Arguments of the command line.
        log: Where the program's messages go.
        given: What it reads from its input: a secret is no argument, which everybody
            on the machine could read.

    Raises:
        DemoError: It ended with another status than 0.
    """
    with log.open("ab") as messages:
        done = subprocess.run(  # noqa: S603 - our own program, no shell
            _command(module, arguments),
            input=given.encode(),
            stdout=subprocess.PIPE,
            stderr=messages,
            check=False,
        )
    if done.returncode != 0:
        raise DemoError(
            f"{module} {arguments[0]} ended with status {done.returncode}; see {log}"
        )
    return done.stdout.decode()


class Program:
    """A program that runs until it is stopped, or until it is done.

    Args:
        name: Name of the program in messages.
        module: SERVER or CLIENT.
        arguments: Arguments of the command line.
        log: Where the program's messages go.
    """

    def __init__(
        self, name: str, module: str, arguments: Sequence[str | Path], log: Path
    ) -> None:
        self.name, self._log = name, log
        with log.open("ab") as messages:
            self._process = subprocess.Popen(  # noqa: S603 - our own program, no shell
                _command(module, arguments),
                stdout=messages,
                stderr=messages,
                start_new_session=True,  # Ctrl-C is for the demo: it stops them
            )

    def wait_until(self, is_ready: Callable[[], bool], *, seconds: float) -> None:
        """Waits while the program runs.

        Raises:
            DemoError: It ended, or was not ready in time.
        """
        deadline = time.monotonic() + seconds
        while not is_ready():
            if self._process.poll() is not None:
                raise DemoError(f"{self.name} ended early; see {self._log}")
            if time.monotonic() > deadline:
                raise DemoError(f"{self.name} is not ready; see {self._log}")
            time.sleep(_LOOK_SECONDS)

    def is_done(self) -> bool:
        """Whether it ended well.

        Raises:
            DemoError: It ended with another status than 0.
        """
        status = self._process.poll()
        if status not in (None, 0):
            raise DemoError(f"{self.name} ended with {status}; see {self._log}")
        return status == 0

    def stop(self) -> None:
        """Requests its end, and kills it after a time."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _command(module: str, arguments: Sequence[str | Path]) -> list[str]:
    return [sys.executable, "-P", "-m", module, *map(str, arguments)]

"""The installed programs as processes, as an operator runs and stops them."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from moma_server.metrics.metrics import SampleKey, read_samples, sample_key
from tests.support.machine.waiting import promised

LOOPBACK = "127.0.0.1"
STOP_SECONDS = 10.0  # what a stopped program may take

# SuperLink has a minute to answer, and a coordinator that gives it up says why
_READY_SECONDS = 240.0

_BIN = Path(sys.executable).parent
_LOOK_SECONDS = 0.1


def command(program: str, *arguments: str | Path) -> list[str]:
    """Returns the command line of `moma-server` or `moma-client`."""
    return [str(_BIN / program), *map(str, arguments)]


def ended(
    program: str, *arguments: str | Path, seconds: float = 240
) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end."""
    return subprocess.run(
        command(program, *arguments),
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def until(condition: Callable[[], object], *, seconds: float, what: str) -> None:
    """Waits until a condition holds, and fails when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in {seconds} s: {what}"
        time.sleep(_LOOK_SECONDS)


class Program:
    """One running program, its log, and its page of metrics.

    Args:
        name: For messages.
        log: What it says; a second start appends.
        metrics_port: Of its Prometheus page.
        line: Its command line.
        environment: What it gets beside this process's own.
    """

    def __init__(
        self,
        name: str,
        log: Path,
        metrics_port: int,
        line: Sequence[str],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.log, self.metrics_port = name, log, metrics_port
        with log.open("ab") as messages:
            self._begin = messages.tell()
            self.process = subprocess.Popen(
                list(line),
                stdout=messages,
                stderr=messages,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )

    def said(self) -> str:
        """What this process has written so far."""
        return self.log.read_bytes()[self._begin :].decode()

    def status(self, *, seconds: float) -> int:
        """Waits for its end and returns the exit status."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"{self.name} still runs after {seconds} s:\n{self.said()[-2000:]}"
            ) from None

    def stopped(self, number: int = signal.SIGTERM) -> int:
        """Asks it to stop, gives it ten seconds, and returns the exit status."""
        self.process.send_signal(number)
        return self.status(seconds=promised(STOP_SECONDS))

    def killed(self) -> None:
        """Takes the program away without a word."""
        self.process.kill()
        self.process.wait()

    def page(self) -> str:
        """Returns its metrics; empty while there are none."""
        url = f"http://{LOOPBACK}:{self.metrics_port}/metrics"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                text: bytes = answer.read()
        except (urllib.error.URLError, http.client.HTTPException, OSError):
            return ""  # not there yet, or it ends at this moment
        return text.decode()

    def samples(self) -> dict[SampleKey, float]:
        """Returns its metrics by name and labels."""
        return read_samples(self.page())

    def metric(self, name: str, **labels: str) -> float:
        """Returns one figure, 0 where it is not shown."""
        return self.samples().get(sample_key(name, **labels), 0.0)

    def shows(self, sign: str, *, seconds: float = _READY_SECONDS) -> None:
        """Waits until its metrics name something."""

        def there() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"{self.name} ended early:\n{self.said()[-2000:]}")
            return sign in self.page()

        until(there, seconds=seconds, what=f"{self.name} shows {sign}")

    def listens(self, port: int, *, seconds: float = _READY_SECONDS) -> None:
        """Waits until it takes connections at a port of its own."""

        def there() -> bool:
            with contextlib.suppress(OSError):
                socket.create_connection((LOOPBACK, port), timeout=30).close()
                return True
            return False

        until(there, seconds=seconds, what=f"{self.name} listens at {port}")

    def cleared(self) -> None:
        """Ends it, whatever it does."""
        if self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(promised(STOP_SECONDS))
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def processes_of(folder: Path) -> list[str]:
    """Returns the command lines of all processes that were started for a folder."""
    return sorted(line for line, about in _processes() if str(folder).encode() in about)


def _processes() -> Iterator[tuple[str, bytes]]:
    """Yields command line, and command line with environment, of our processes."""
    for path in Path("/proc").glob("[0-9]*"):
        if path.name == str(os.getpid()):
            continue
        try:
            line = (path / "cmdline").read_bytes()
            about = line + (path / "environ").read_bytes()
        except OSError:
            continue
        yield line.replace(b"\0", b" ").decode(errors="replace"), about

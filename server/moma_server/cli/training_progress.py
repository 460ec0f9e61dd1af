"""What an operator sees while a teacher is made, and how a stop is heard."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress

from moma_core.distillation.step import StepLosses


class ProgressCallback:
    """Shows each step on a terminal.

    Args:
        progress: A bar; None in a log.
    """

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._bar = progress.add_task("teacher", total=None) if progress else None
        self._is_stopped = False

    def listen(self) -> None:
        """Takes over Ctrl-C and SIGTERM."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._heard)

    def _heard(self, _number: int, _frame: object) -> None:
        self._is_stopped = True

    def stopped(self) -> bool:
        """Whether the operator asked to stop."""
        return self._is_stopped

    def after_step(self, step: int, steps: int, losses: StepLosses) -> None:
        """Moves the bar."""
        if self._progress is not None and self._bar is not None:
            self._progress.update(self._bar, completed=step, total=steps)


@contextmanager
def progress_callback() -> Iterator[ProgressCallback]:
    """Yields a watch that listens to the operator."""
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        watch = ProgressCallback(None)
        watch.listen()
        yield watch
        return
    with Progress(console=console) as progress:
        watch = ProgressCallback(progress)
        watch.listen()
        yield watch

"""The progress of a teacher's training on a terminal, and how a stop is requested.

Apart from `commands`, which must not load rich.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.progress import Progress

from moma_core.distillation.step import StepLosses


class ProgressCallback:
    """Shows each step on a terminal.

    Args:
        progress: The terminal's progress bar; None in a log.
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

    @property
    def shows_bar(self) -> bool:
        """Whether a terminal shows how far it is."""
        return self._progress is not None

    def stopped(self) -> bool:
        """Whether the operator has requested a stop."""
        return self._is_stopped

    def after_step(self, step: int, steps: int, losses: StepLosses) -> None:
        """Moves the bar."""
        if self._progress is not None and self._bar is not None:
            self._progress.update(self._bar, completed=step, total=steps)


@contextmanager
def progress_callback() -> Iterator[ProgressCallback]:
    """Yields a callback that stops the training when the operator does."""
    console = Console(file=sys.stderr)
    progress = Progress(console=console) if console.is_terminal else None
    with progress or nullcontext():
        callback = ProgressCallback(progress)
        callback.listen()
        yield callback

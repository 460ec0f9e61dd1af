"""What an operator sees of a run while it trains, and how the run hears a stop."""

import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from moma_client.metrics import ClientMetrics
from moma_core.distillation.step import StepLosses

_logger = logging.getLogger(__name__)

_LOSS_EVERY_STEPS = 10  # reading a loss waits for the device


class StopSignal:
    """Set by Ctrl-C or SIGTERM; a second one changes nothing.

    Attributes:
        event: Every wait of the program looks at it.
    """

    def __init__(self) -> None:
        self.event = threading.Event()

    def listen(self) -> None:
        """Takes over both signals; call it in the main thread."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._heard)

    def _heard(self, _number: int, _frame: object) -> None:
        # The main thread may hold the event's own lock right now: another sets it.
        threading.Thread(target=self.event.set, daemon=True).start()


class SiteCallback:
    """Sees every step: a bar on a terminal, the losses in Prometheus.

    Args:
        event: Set to stop; looked at between two steps.
        metrics: The site's.
        progress: A bar, or None in a log.
        method: Shown before the bar.
    """

    def __init__(
        self,
        event: threading.Event,
        metrics: ClientMetrics,
        progress: Progress | None,
        method: str,
    ) -> None:
        self.event = event
        self._metrics, self._progress = metrics, progress
        self._bar = progress.add_task(method, total=None) if progress else None
        self._last: float | None = None

    def stopped(self) -> bool:
        """Whether the operator asked to stop."""
        return self.event.is_set()

    def after_step(self, step: int, steps: int, losses: StepLosses) -> None:
        """Counts the step, and reads its losses now and then."""
        now = time.monotonic()
        if self._last is not None:  # the first step's begin is nobody's to know
            self._metrics.step_seconds.labels(phase="step").observe(now - self._last)
        self._last = now
        if step % _LOSS_EVERY_STEPS == 0:
            for term, value in losses._asdict().items():
                self._metrics.loss.labels(term=term).set(float(value))
        if self._progress is not None and self._bar is not None:
            self._progress.update(self._bar, completed=step, total=steps)


@contextmanager
def progress_bar() -> Iterator[Progress | None]:
    """Yields a bar where a person looks on, None in a log."""
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console) as progress:
        yield progress

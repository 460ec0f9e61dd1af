"""How a run goes, for who looks at it: the log, metrics.csv, TensorBoard's file.

Nothing of it leaves the machine, and a disk that takes no more of it stops no run.
"""

import csv
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from moma_core.distillation.step import StepLosses
from moma_core.training.settings import TrainingSettings

_logger = logging.getLogger(__name__)

CSV_NAME, TENSORBOARD_FOLDER = "metrics.csv", "tensorboard"

_FIGURES = ("validation_macro_f1", "validation_accuracy")
COLUMNS = (
    "time",
    "step",
    "epoch",
    "learning_rate",
    *StepLosses._fields,
    "patches_a_second",
    "wait_share",
    *_FIGURES,
)


class StepFacts(NamedTuple):
    """One step, as a record needs it.

    Args:
        step: Steps of the run so far, this one included.
        epoch: Of the run, from 0, with the part that is done.
        until: The step at which this round ends.
        losses: Detached.
        learning_rate: Of this step, of the first group.
        patches: Rows of the batch, over all ranks.
        waited_seconds: For the batch and its teacher's output.
    """

    step: int
    epoch: float
    until: int
    losses: StepLosses
    learning_rate: float
    patches: int
    waited_seconds: float


class TrainingRecord:
    """Tells and keeps how one student's training goes.

    Args:
        folder: Where metrics.csv and TensorBoard's folder lie.
        name: Of what is trained, for the log.
        settings: How often.
        logs_progress: Whether lines are logged; not where a terminal shows a bar.
        clock: Monotonic, in seconds.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        settings: TrainingSettings,
        *,
        logs_progress: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name, self._clock = name, clock
        self._log_every = settings.log_every_seconds if logs_progress else 0.0
        self._record_every = settings.record_every_steps
        self._files = _Files(folder) if self._record_every else None
        self._begin()

    def start(self, step: int) -> None:
        """Begins or resumes after a step: what was kept of later ones is dropped."""
        self._begin()
        if self._files is not None:
            self._files.start(step)

    def _begin(self) -> None:
        now = self._clock()
        self._whole, self._line, self._row = _Window(now), _Window(now), _Window(now)

    def add(self, facts: StepFacts) -> None:
        """Takes a step; now and then tells and keeps it."""
        for window in (self._whole, self._line, self._row):
            window.add(facts)
        now = self._clock()
        if self._log_every and now - self._line.since >= self._log_every:
            self._log(facts, now)
        if self._files is not None and facts.step % self._record_every == 0:
            pace = self._row.pace(now)
            self._files.add(
                facts.step,
                {
                    "epoch": round(facts.epoch, 4),
                    "learning_rate": facts.learning_rate,
                    **{k: float(v) for k, v in facts.losses._asdict().items()},
                    "patches_a_second": pace.patches_a_second,
                    "wait_share": pace.wait_share,
                },
            )
            self._row = _Window(now)

    def add_figures(self, step: int, figures: Mapping[str, float]) -> None:
        """Keeps what was measured of the student after a step."""
        if self._files is not None:
            self._files.add(step, figures)

    def close(self) -> None:
        """Ends the files."""
        if self._files is not None:
            self._files.close()

    def _log(self, facts: StepFacts, now: float) -> None:
        pace = self._line.pace(now)
        # of the whole training: on a machine that others use a line's own pace jumps
        left = (facts.until - facts.step) * self._whole.pace(now).seconds_a_step
        terms = self._line.mean_losses()._asdict()
        total = float(terms.pop("total"))
        parts = ", ".join(
            f"{term} {float(value):.4g}" for term, value in terms.items() if value != 0
        )
        _logger.info(
            "%s: step %d of %d, loss %.4g (%s), %.0f patches a second, "
            "%.0f %% of the time waiting for them, %s left",
            self._name,
            facts.step,
            facts.until,
            total,
            parts,
            pace.patches_a_second,
            100 * pace.wait_share,
            timedelta(seconds=round(left)),
        )
        self._line = _Window(now)


class _Pace(NamedTuple):
    patches_a_second: float
    wait_share: float
    seconds_a_step: float


class _Window:
    """The steps since a moment."""

    def __init__(self, since: float) -> None:
        self.since = since
        self._steps, self._patches, self._waited = 0, 0, 0.0
        self._losses: StepLosses | None = None

    def add(self, facts: StepFacts) -> None:
        self._steps += 1
        self._patches += facts.patches
        self._waited += facts.waited_seconds
        if self._losses is None:
            self._losses = facts.losses
        else:
            pairs = zip(self._losses, facts.losses, strict=True)
            self._losses = StepLosses(*(before + own for before, own in pairs))

    def mean_losses(self) -> StepLosses:
        """Returns each term's mean; there was a step at least."""
        if self._losses is None:
            raise ValueError("there was no step")
        return StepLosses(*(term / self._steps for term in self._losses))

    def pace(self, now: float) -> _Pace:
        seconds = max(now - self.since, 1e-9)
        return _Pace(
            round(self._patches / seconds, 1),
            round(min(1.0, self._waited / seconds), 3),
            seconds / max(1, self._steps),
        )


class _Files:
    """metrics.csv, and TensorBoard's file of the same values."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._csv = folder / CSV_NAME
        self._events: EventsWriter | None = None
        self._is_open = False

    def start(self, step: int) -> None:
        try:
            self._open(step)
        except OSError as error:
            self._give_up(error)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        if not self._is_open or self._events is None:
            return
        row = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "step": step}
        try:
            with self._csv.open("a", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
                writer.writerow(row | dict(values))
            for name, value in values.items():
                self._write(Event(step=step, summary=summary.scalar(name, value)))
            self._events.flush()
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        events, self._events, self._is_open = self._events, None, False
        if events is None:
            return
        try:
            events.close()
        except OSError as error:
            self._give_up(error)
            with suppress(OSError):  # it flushes first, and stays open where that fails
                events._py_recordio_writer.close()

    def _open(self, step: int) -> None:
        self.close()
        folder = self._folder / TENSORBOARD_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        if self._csv.exists():
            with self._csv.open(encoding="utf-8", newline="") as file:
                rows = [row for row in csv.DictReader(file) if _is_kept(row, step)]
        partial = self._csv.with_suffix(".partial")
        with partial.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        partial.replace(self._csv)
        suffix = f".{len(list(folder.iterdir()))}"  # two may begin in one second
        self._events = EventsWriter(str(folder / "events"), suffix)
        # TensorBoard drops what an earlier file says of this step and later ones.
        begin = SessionLog(status=SessionLog.START)
        self._write(Event(step=step + 1, session_log=begin))
        self._is_open = True

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        if self._events is not None:
            self._events.write_event(event)

    def _give_up(self, error: OSError) -> None:
        self._is_open = False
        _logger.warning("%s gets no more lines: %s", self._csv, error.strerror)


def _is_kept(row: Mapping[str, str | None], step: int) -> bool:
    """Whether a row is whole, and of a step that a resumed run does not do again."""
    number = row.get("step") or ""
    return number.isdigit() and int(number) <= step and None not in row.values()

"""Does trials, several at a time, and adds each to the results when it is done."""

import multiprocessing
import time
import warnings
from collections.abc import Iterable
from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    Future,
    ProcessPoolExecutor,
    wait,
)
from dataclasses import dataclass
from pathlib import Path

from benchmarks.quality.results import Results
from benchmarks.quality.students import fingerprint
from benchmarks.quality.trial import run_trial
from benchmarks.quality.trials import Trial
from moma_core.errors import MomaError

Line = dict[str, object]


@dataclass(frozen=True, slots=True)
class Pace:
    """How trials are done.

    Args:
        data: The colon set.
        work: Where teachers are kept.
        workers: Trials at a time, one thread each.
        minutes: Then no new trial is begun.
    """

    data: Path
    work: Path
    workers: int
    minutes: float


def run(planned: Iterable[Trial], results: Results, pace: Pace) -> None:
    """Does what is not done yet, several at a time, until the time is up."""
    done = results.done()
    left = [
        trial
        for trial in dict.fromkeys(planned)
        if (trial.key, fingerprint(trial)) not in done
    ]
    print(f"{len(done)} trials are there, {len(left)} to do")
    pace.work.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + 60 * pace.minutes
    pool = ProcessPoolExecutor(
        pace.workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_quiet,
    )
    running: set[Future[Line]] = set()
    with pool:
        for trial in left:
            if time.monotonic() > until:
                break
            running.add(pool.submit(run_trial, trial, pace.data, pace.work))
            if len(running) == pace.workers:
                running = _keep_finished(running, results, FIRST_COMPLETED)
        _keep_finished(running, results, ALL_COMPLETED)


def _keep_finished(
    running: set[Future[Line]], results: Results, until: str
) -> set[Future[Line]]:
    """Waits, writes down what is done, and returns what is not."""
    done, left = wait(running, return_when=until)
    for job in done:
        try:
            line = job.result()
        except MomaError as error:  # it stays to do; the others go on
            print(f"a trial failed: {error}", flush=True)
            continue
        results.add(line)
        print(
            *(line[name] for name in ("stage", "scenario", "row", "seed")),
            f"validation {line['validation_macro_f1']} in {line['seconds']} s",
            flush=True,
        )
    return left


def _quiet() -> None:
    warnings.filterwarnings("ignore", module="lightning_fabric")

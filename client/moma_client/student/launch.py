"""A student's job on the config's devices: in this process, or in one a device."""

import multiprocessing
import threading
from functools import partial
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event

from lightning_fabric import Fabric
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from moma_client.egress.outcome import StudentOutcome
from moma_client.metrics import ClientMetrics, Counts, silent_metrics
from moma_client.student.files import load_student
from moma_client.student.job import StudentJob
from moma_client.student.progress import SiteCallback
from moma_client.student.round import train_student, weights_of
from moma_core.errors import (
    MomaError,
    TeacherBusyError,
    TeacherUnavailableError,
    TrainingError,
)
from moma_core.federation.disclosure import Cohort
from moma_core.training.trainer import leave_ranks, make_fabric

_Settable = threading.Event | Event
_Told = SimpleQueue[MomaError | Counts]
_Found = tuple[dict[str, float], int, dict[str, Cohort]]


def run_student(
    job: StudentJob, watch: SiteCallback, metrics: ClientMetrics
) -> StudentOutcome:
    """Does the job and returns what it gave.

    Raises:
        MomaError: Data, teacher, checkpoint or training do not allow it.
    """
    fabric = make_fabric(job.config.training)
    if job.config.training.devices == 1:
        fabric.launch()
        return train_student(fabric, job, watch, metrics)
    context = multiprocessing.get_context("spawn")
    stop, told = context.Event(), context.SimpleQueue()
    _pass_on(watch.event, stop)
    try:
        # Fabric takes arguments and results apart, but not a frozen dataclass.
        found = fabric.launch(partial(_on_rank, job=job, stop=stop, told=told))
    except (ProcessRaisedException, ProcessExitedException) as error:
        raise _trouble(told, metrics) or TrainingError(
            f"one of the devices failed: {str(error).strip().splitlines()[-1]}"
        ) from error
    _trouble(told, metrics)
    figures, patches, cohorts = found
    # The ranks' way back is a pipe, and short.
    student, card = load_student(job.folder)
    weights = weights_of(student)
    return StudentOutcome(figures, patches, weights, card.model, cohorts)


def _on_rank(fabric: Fabric, *, job: StudentJob, stop: Event, told: _Told) -> _Found:
    """Is one of several processes; when it fails, the others are ended with it."""
    metrics = silent_metrics()
    own = threading.Event()
    _pass_on(stop, own)
    watch = SiteCallback(own, metrics, None, job.method)
    try:
        outcome = train_student(fabric, job, watch, metrics)
    except TeacherBusyError as error:
        told.put(TeacherUnavailableError(str(error)))
        raise
    except MomaError as error:
        told.put(error)
        raise
    finally:
        told.put(metrics.counts())
    leave_ranks()
    return outcome.figures, outcome.patches, dict(outcome.cohorts)


def _trouble(told: _Told, metrics: ClientMetrics) -> MomaError | None:
    """Adds up what the processes counted, and returns what the first one met."""
    trouble = None
    while not told.empty():
        message = told.get()
        if isinstance(message, MomaError):
            trouble = trouble or message
        else:
            metrics.add(message)
    return trouble


def _pass_on(from_: _Settable, to: _Settable) -> None:
    """Sets one event when the other is set; for as long as the process lives."""

    def wait() -> None:
        from_.wait()
        to.set()

    threading.Thread(target=wait, daemon=True).start()

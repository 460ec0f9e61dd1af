"""A student's job on the config's devices: in this process, or in one a device."""

import multiprocessing
import threading
from functools import partial
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event

from lightning_fabric import Fabric
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from moma_client.context import RunContext
from moma_client.egress.outcome import StudentOutcome
from moma_client.metrics import ClientMetrics, Counts, silent_metrics
from moma_client.student.factory import StudentJob
from moma_client.student.files import load_student
from moma_client.student.round import SiteCallback, train_student, weights_of
from moma_core.errors import (
    MomaError,
    TeacherBusyError,
    TeacherUnavailableError,
    TrainingError,
)
from moma_core.evaluation.figures import Evaluation
from moma_core.federation.disclosure import Cohort
from moma_core.training.devices import leave_ranks, make_fabric

_Settable = threading.Event | Event
_Messages = SimpleQueue[MomaError | Counts]
_Found = tuple[dict[str, float], int, dict[str, Cohort], dict[str, Evaluation]]


def run_student(job: StudentJob, callback: SiteCallback) -> StudentOutcome:
    """Does the job and returns what it gave.

    Raises:
        MomaError: Data, teacher, checkpoint or training do not allow it.
    """
    fabric = make_fabric(job.config.training)
    if job.config.training.devices == 1:
        fabric.launch()
        return train_student(fabric, job, callback)
    context = multiprocessing.get_context("spawn")
    stop, messages = context.Event(), context.SimpleQueue()
    _pass_on(callback.context.stop, stop)
    try:
        # Fabric takes arguments and results apart, but not a frozen dataclass.
        found = fabric.launch(partial(_on_rank, job=job, stop=stop, messages=messages))
    except (ProcessRaisedException, ProcessExitedException) as error:
        raise _first_error(messages, callback.context.metrics) or TrainingError(
            f"one of the devices failed: {str(error).strip().splitlines()[-1]}"
        ) from error
    _first_error(messages, callback.context.metrics)
    figures, patches, cohorts, evaluations = found
    # The ranks' way back is a pipe, and short.
    student, card = load_student(job.folder)
    weights = weights_of(student)
    return StudentOutcome(figures, patches, weights, card.model, cohorts, evaluations)


def _on_rank(
    fabric: Fabric, *, job: StudentJob, stop: Event, messages: _Messages
) -> _Found:
    """Runs in one of several processes; when one fails, all are ended."""
    metrics = silent_metrics()
    own = threading.Event()
    _pass_on(stop, own)
    callback = SiteCallback(RunContext(job.config, own, metrics), None, job.method)
    try:
        outcome = train_student(fabric, job, callback)
    except TeacherBusyError as error:
        messages.put(TeacherUnavailableError(str(error)))
        raise
    except MomaError as error:
        messages.put(error)
        raise
    finally:
        messages.put(metrics.counts())
    leave_ranks()
    cohorts, evaluations = dict(outcome.cohorts), dict(outcome.evaluations)
    return outcome.figures, outcome.patches, cohorts, evaluations


def _first_error(messages: _Messages, metrics: ClientMetrics) -> MomaError | None:
    """Adds up what the processes counted, and returns the first error."""
    first = None
    while not messages.empty():
        message = messages.get()
        if isinstance(message, MomaError):
            first = first or message
        else:
            metrics.add(message)
    return first


def _pass_on(from_: _Settable, to: _Settable) -> None:
    """Sets one event when the other is set; for as long as the process lives."""

    def wait() -> None:
        from_.wait()
        to.set()

    threading.Thread(target=wait, daemon=True).start()

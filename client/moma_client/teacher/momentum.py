"""A momentum session as the site sees it: opened, updated, queried, closed."""

import hashlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from moma_client.teacher.pipeline import BatchPipeline, SessionRef
from moma_client.teacher.remote_teacher import RemoteTeacher
from moma_core.data.batch import Batch
from moma_core.errors import SessionLostError, TeacherUnavailableError
from moma_core.models.ema import DeferredMomentum, MomentumState, MomentumTerms
from moma_core.models.encoder import Encoder
from moma_core.models.settings import Schedule
from moma_core.teacher.ema_update import (
    SessionRequest,
    SyncHead,
    weights_to_bytes,
)
from moma_core.teacher.protocol import TeacherOutput
from moma_proto.convert import momentum as convert
from moma_proto.v1 import teacher_pb2 as pb

_logger = logging.getLogger(__name__)

_MOST_SESSIONS = 5  # opened in vain for one batch

_STEPS_BYTES = 8


class RemoteSession:
    """A session with a model of its own, opened at need, and again after it was lost.

    Args:
        remote: The teacher.
        request: The student's architecture, and how the model is updated.
        sync_deadline_seconds: Deadline of one update.
    """

    def __init__(
        self,
        remote: RemoteTeacher,
        request: SessionRequest,
        sync_deadline_seconds: float,
    ) -> None:
        self._remote = remote
        self._request = request
        self._sync_deadline_seconds = sync_deadline_seconds
        self._pipeline: BatchPipeline | None = None
        self._session = b""
        self._steps = 0
        self._weights = b""  # names them, so that other weights have other request ids

    def output(self, batch: Batch, state: MomentumState) -> TeacherOutput:
        """Returns the model's output once it has been brought to `state`.

        Raises:
            TeacherError: The teacher refused, or cannot be reached any more.
            StoppedError: The operator stops the program.
        """
        with self._remote.waiting():
            for _ in range(_MOST_SESSIONS):
                try:
                    self._bring_to(state)
                    return self._output(batch)
                except SessionLostError as error:
                    _logger.warning("opening a new momentum session: %s", error)
                    self._forget()
        raise TeacherUnavailableError(
            f"the teacher lost {_MOST_SESSIONS} momentum sessions in a row"
        )

    def close(self) -> None:
        """Closes the session, if the teacher can be reached."""
        session = self._session
        self._forget()
        if session:
            self._remote.close_session(session)

    def _bring_to(self, state: MomentumState) -> None:
        if state.steps < self._steps:
            self.close()  # a session goes on and not back
        if not self._session:
            self._open()
        if state.steps > self._steps:
            self._sync(state)

    def _output(self, batch: Batch) -> TeacherOutput:
        if self._pipeline is None:
            self._pipeline = self._remote.open_pipeline()
        whole = self._request.terms.batch_norm == "adapt"
        self._pipeline.send(batch, SessionRef(self._session, self._weights, whole))
        return self._pipeline.next_output()

    def _open(self) -> None:
        request = convert.session_request_to_wire(self._request)
        response = self._remote.call("OpenSession", request, pb.OpenSessionResponse)
        self._session = convert.session_id_from_wire(response)
        self._note(0, b"")

    def _sync(self, state: MomentumState) -> None:
        content = weights_to_bytes(state.mean)
        digest = hashlib.sha256(content).digest()
        head = SyncHead(self._session, state.steps, len(content), digest)
        self._remote.sync_momentum(head, content, self._sync_deadline_seconds)
        self._note(state.steps, digest)

    def _note(self, steps: int, digest: bytes) -> None:
        self._steps = steps
        self._weights = steps.to_bytes(_STEPS_BYTES, "big") + digest

    def _forget(self) -> None:
        if self._pipeline is not None:
            self._pipeline.close()
        self._pipeline, self._session, self._steps = None, b"", 0


@dataclass(frozen=True, slots=True)
class MomentumPlan:
    """How a remote teacher is updated.

    Args:
        terms: How its weights change in one step.
        schedule: When they change within a step.
        sync_every_steps: S, steps that one message makes up for; 1 is the published
            method.
        sync_deadline_seconds: Deadline of one message.
    """

    terms: MomentumTerms
    schedule: Schedule
    sync_every_steps: int
    sync_deadline_seconds: float


class RemoteMomentumTeacher:
    """Sends a batch when the loop needs it, never ahead; used by one thread.

    A step that updates the teacher sends its batch twice where the schedule is
    `published`: for logits before the update, for embeddings after it. Any other step
    sends it once.

    Args:
        remote: The teacher; the caller closes it.
        student: The student whose weights the teacher takes up; only read.
        plan: How the teacher is updated.

    Attributes:
        momentum: The teacher's state; belongs to the run's checkpoint.
    """

    def __init__(
        self, remote: RemoteTeacher, student: Encoder, plan: MomentumPlan
    ) -> None:
        self.momentum = DeferredMomentum(student, plan.terms)
        self._plan = plan
        self._session = RemoteSession(
            remote,
            SessionRequest(student.architecture, plan.terms),
            plan.sync_deadline_seconds,
        )

    def answer_batches(
        self, batches: Iterable[Batch]
    ) -> Iterator[tuple[Batch, TeacherOutput]]:
        """Updates the teacher, and yields each batch with its output.

        Raises:
            TeacherError: The teacher refused, or cannot be reached any more.
            CertificateError: The site's own certificate or key is not acceptable.
            StoppedError: The operator stops the program.
        """
        try:
            for batch in batches:
                yield batch, self._output(batch)
        finally:
            self._session.close()

    def _output(self, batch: Batch) -> TeacherOutput:
        momentum, every = self.momentum, self._plan.sync_every_steps
        is_first_try = int(momentum.steps) == batch.step
        if is_first_try and batch.step % every == 0:
            momentum.settle()  # the step before is over, and with it its update
        is_update = (batch.step + 1) % every == 0
        if not is_update:
            momentum.add(batch.step)
            return self._session.output(batch, momentum.settled())
        logits = None
        if self._plan.schedule == "published":
            logits = self._session.output(batch, momentum.settled()).logits
        momentum.add(batch.step)
        after = self._session.output(batch, momentum.newest())
        return TeacherOutput(
            after.embedding, after.logits if logits is None else logits
        )

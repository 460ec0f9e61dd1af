"""A teacher at another institution that follows this site's student.

Its weights stay where they are, and a copy of them moves there; what travels is the
mean of the student's weights, once in S steps. A number of steps and that mean say
where the copy stands: after a kill, a lost session or a restarted teacher, a new copy
is brought to the same place.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from moma_client.teacher.momentum import RemoteCopy
from moma_client.teacher.remote_teacher import RemoteTeacher
from moma_core.data.batch import Batch
from moma_core.models.deferred_momentum import DeferredMomentum
from moma_core.models.ema import MomentumTerms
from moma_core.models.encoder import Encoder
from moma_core.models.moving import Schedule
from moma_core.teacher.ema_update import SessionRequest
from moma_core.teacher.protocol import TeacherAnswer


@dataclass(frozen=True, slots=True)
class MomentumPlan:
    """How a remote teacher follows.

    Args:
        terms: How its copy moves in one step.
        schedule: When it moves within a step.
        sync_every_steps: S, steps that one message makes up for; 1 is the published
            method.
        sync_deadline_seconds: For one message.
    """

    terms: MomentumTerms
    schedule: Schedule
    sync_every_steps: int
    sync_deadline_seconds: float

    def __post_init__(self) -> None:
        if self.sync_every_steps < 1:
            raise ValueError(f"steps must be > 0, got {self.sync_every_steps}")


class RemoteMomentumTeacher:
    """Answers a batch when the loop asks for it, never ahead; used by one thread.

    A step that moves the copy asks twice where the schedule is `published`: for logits
    before the move, for embeddings after it. Any other step asks once.

    Args:
        remote: The teacher; stays the caller's to close.
        student: Leads; only read.
        plan: How it is followed.

    Attributes:
        momentum: Where the teacher stands; belongs to the run's checkpoint.
    """

    def __init__(
        self, remote: RemoteTeacher, student: Encoder, plan: MomentumPlan
    ) -> None:
        self.momentum = DeferredMomentum(student, plan.terms)
        self._plan = plan
        self._copy = RemoteCopy(
            remote,
            SessionRequest(student.architecture, plan.terms),
            plan.sync_deadline_seconds,
        )

    def follow(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, TeacherAnswer]]:
        """Moves and answers once a batch.

        Raises:
            TeacherError: The teacher refused, or cannot be reached any more.
            CertificateError: The site's own certificate or key is not acceptable.
            StoppedError: The operator stops the program.
        """
        try:
            for batch in batches:
                yield batch, self._answer(batch)
        finally:
            self._copy.close()

    def _answer(self, batch: Batch) -> TeacherAnswer:
        momentum, every = self.momentum, self._plan.sync_every_steps
        is_first_try = int(momentum.steps) == batch.step
        if is_first_try and batch.step % every == 0:
            momentum.settle()  # the step before is over, and with it its move
        moves = (batch.step + 1) % every == 0
        if not moves:
            momentum.add(batch.step)
            return self._copy.ask(batch, momentum.settled())
        logits = None
        if self._plan.schedule == "published":
            logits = self._copy.ask(batch, momentum.settled()).logits
        momentum.add(batch.step)
        after = self._copy.ask(batch, momentum.now())
        return TeacherAnswer(
            after.embedding, after.logits if logits is None else logits
        )

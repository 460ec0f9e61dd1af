"""A teacher at another institution: asked over gRPC, ahead of the training loop."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from random import Random
from typing import NamedTuple, TypeVar

from google.protobuf.message import Message

from moma_client.audit.log_monitor import LogMonitor
from moma_client.audit.receipts import ReceiptBook
from moma_client.egress.to_teacher import SendingPolicy, TeacherEgress
from moma_client.identity.peers import PinnedTeacher, TeacherAddress
from moma_client.metrics import ClientMetrics
from moma_client.teacher.batches import BatchStream, most_patches
from moma_client.teacher.channel import TeacherLink
from moma_client.teacher.retry import Retries, RetryLimits, StoppableWait
from moma_client.teacher.sealed_client import SealedCalls
from moma_client.teacher.sealer import RequestSealer
from moma_client.teacher.stream import EmbedResponses, ResponseStream
from moma_core.audit.checkpoint import Checkpoint
from moma_core.data.batch import Batch
from moma_core.errors import TeacherUnavailableError
from moma_core.teacher.card.bounds import Description
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.pixel_encoding import PixelEncoding
from moma_core.teacher.protocol import TeacherOutput
from moma_proto.v1 import teacher_pb2 as pb
from moma_proto.v1.sealed_pb2 import SealedRequest

MessageT = TypeVar("MessageT", bound=Message)

_LARGEST_INPUT_PX = 1024


@dataclass(frozen=True, slots=True)
class RemoteTeacherSettings:
    """How a site asks its teacher.

    Args:
        teacher: Where and who it is.
        end_to_end: What it is told and says, whoever is between.
        in_flight: Batches asked at most before the loop has used the oldest; 1 asks
            and waits, with nothing read ahead.
        patches_per_request: At most; the teacher's own bound may be lower.
        answer_deadline_seconds: The longest wait for one answer.
        retries: When to give up.
        ids_by_content: Makes request ids from the pixels, not from the step: what is
            asked again in another step or run, in a request of the same patches, is
            a repetition.
        egress: What may leave for it.
    """

    teacher: TeacherAddress
    end_to_end: PinnedTeacher
    in_flight: int = 8
    patches_per_request: int = 64
    answer_deadline_seconds: float = 60.0
    retries: RetryLimits = field(default_factory=RetryLimits)
    ids_by_content: bool = False
    egress: SendingPolicy = field(default_factory=SendingPolicy)

    def __post_init__(self) -> None:
        if min(self.in_flight, self.patches_per_request) < 1:
            raise ValueError(f"at least one must be in flight, got {self}")
        if self.answer_deadline_seconds <= 0:
            raise ValueError(f"a deadline must be > 0 s, got {self}")


class Budget(NamedTuple):
    """What a teacher granted this site over its life, and what it has charged."""

    granted_patches: int
    charged_patches: int


class RemoteTeacher:
    """Implements `moma_core.teacher.protocol.Teacher`; used by one thread.

    Args:
        settings: How to ask.
        run_key: Secret or not, but the same for a run and its resumption, and for
            no other: request ids are made from it, so that a resumed run repeats
            them and is not charged twice.
        stop: Set by the operator; any wait ends within a second.
        metrics: Counts patches, bytes and the loop's waiting.
        random: Spreads the pauses between attempts.
        now: The present, with a time zone.

    Attributes:
        gate: Through which everything leaves for it.
        waited_seconds: What the loop has waited for answers so far.
    """

    def __init__(
        self,
        settings: RemoteTeacherSettings,
        *,
        run_key: bytes,
        stop: threading.Event,
        metrics: ClientMetrics,
        random: Random,
        now: Callable[[], datetime],
    ) -> None:
        self._settings, self._run_key = settings, run_key
        self._metrics = metrics
        self.egress = TeacherEgress(settings.egress, metrics)
        self._wait = StoppableWait(stop)
        self._link = TeacherLink(settings.teacher, self._wait, now)
        ends = settings.end_to_end
        self._monitor = LogMonitor(ends, metrics.count_mismatch)
        self._calls = SealedCalls(
            self._link,
            RequestSealer(ends, now),
            self.egress,
            ReceiptBook(ends.teacher_key, ends.receipts),
            self._monitor,
        )
        self._retries = Retries(
            settings.retries, self._wait, random, on_lost=self._lose
        )
        self._terms: Description | None = None
        self.waited_seconds = 0.0

    def describe(self) -> TeacherCard:
        """Returns the teacher's card.

        Raises:
            TeacherError: It cannot be reached, refuses, or is not who it should be.
            CertificateError: The site's own certificate or key is not acceptable.
            StoppedError: The operator stops the program.
        """
        return self._agreed_terms().card

    def budget(self) -> Budget:
        """Returns granted and charged patches; raises as `describe` does."""
        response = self.call("Budget", lambda: [pb.BudgetRequest()], pb.BudgetResponse)
        return Budget(response.granted_patches, response.charged_patches)

    def answer_batches(
        self, batches: Iterable[Batch]
    ) -> Iterator[tuple[Batch, TeacherOutput]]:
        """Yields every batch once, in order, with its answer.

        While the loop works on one batch, the next ones are with the teacher.

        Raises:
            TeacherError: The teacher refused, or cannot be reached any more.
            CertificateError: The site's own certificate or key is not acceptable.
            StoppedError: The operator stops the program.
        """
        stream = self.open_stream()
        asked: deque[Batch] = deque()
        try:
            for batch in batches:
                stream.ask(batch)
                asked.append(batch)
                if len(asked) == self._settings.in_flight:
                    yield asked.popleft(), self._next_answer(stream)
            while asked:
                yield asked.popleft(), self._next_answer(stream)
        finally:
            stream.close()

    def open_stream(self) -> BatchStream:
        """Returns a new stream of questions; the link may be lost and found again."""
        description = self._agreed_terms()
        answers = ResponseStream(
            self._embed,
            self._calls,
            description.card,
            retries=self._retries,
            wait=self._wait,
            answer_deadline_seconds=self._settings.answer_deadline_seconds,
        )
        return BatchStream(
            answers,
            description,
            run_key=self._run_key + _seen_as(self._settings.egress.encoding),
            ids_by_content=self._settings.ids_by_content,
            patches_per_request=self._settings.patches_per_request,
            on_asked=self._metrics.patches.labels(source="teacher").inc,
        )

    def call(
        self,
        method: str,
        messages: Callable[[], Iterable[Message]],
        kind: type[MessageT],
        seconds: float | None = None,
    ) -> MessageT:
        """Returns the answer to a call that asks for no embedding.

        Args:
            method: Its name.
            messages: What is sent; asked for again after a loss.
            kind: Of the answer.
            seconds: In which it must be answered; by default the link's own deadline.

        Raises:
            TeacherError: As `describe` does.
        """
        return self._retries.retry(
            lambda: self._calls.call(method, messages(), kind, seconds)
        )

    def fetch_receipts(self) -> int:
        """Keeps the receipts that are missing, and returns how many they were.

        Raises:
            AuditError: One is not true.
            TeacherError: As `describe` does.
        """
        self._agreed_terms()
        return self._retries.retry(self._calls.fetch_receipts)

    def compare_log(self, shown: Iterable[Checkpoint]) -> None:
        """Holds the teacher's log against what others say they were shown of it.

        What cannot be proved now is proved before anything more is asked.

        Raises:
            LogForkError: It shows two faces.
            AuditError: What the teacher shows is no proof.
            TeacherError: As `describe` does.
        """
        self._monitor.hear(shown)
        if self._monitor.others:
            self._agreed_terms()
            self._retries.retry(self._calls.log.compare)

    def close_session(self, method: str, message: Message) -> None:
        """Makes a last call, without waiting for a lost link."""
        self._calls.close_session(method, message)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time that the loop waits for the teacher."""
        since = time.monotonic()
        try:
            yield
        finally:
            waited = time.monotonic() - since
            self.waited_seconds += waited
            self._metrics.teacher_wait_seconds.inc(waited)

    def close(self) -> None:
        """Closes the link."""
        self._link.close()

    def patches_per_request(self) -> int:
        """Returns how many it takes and can answer at once; raises as `describe`."""
        return min(
            self._settings.patches_per_request, most_patches(self._agreed_terms())
        )

    def _next_answer(self, stream: BatchStream) -> TeacherOutput:
        with self.waiting():
            return stream.answer()

    def _embed(self, requests: Iterator[SealedRequest]) -> EmbedResponses:
        """Starts a stream with the teacher that was described, and with no other."""
        known, found = self._agreed_terms().card, self._read_terms().card
        if not found.is_same_model(known):
            raise TeacherUnavailableError(
                f"the teacher's card changed during the run: its weights were "
                f"{known.digest[:12]}, now they are {found.digest[:12]}"
            )
        self._calls.log.compare()
        return self._calls.embed(requests)

    def _lose(self) -> None:
        self._link.close()
        self._calls.forget()

    def _agreed_terms(self) -> Description:
        if self._terms is None:
            self._terms = self._retries.retry(self._read_terms)
        return self._terms

    def _read_terms(self) -> Description:
        description = self._calls.describe().description
        side = description.card.input_size_px
        if side > _LARGEST_INPUT_PX:
            raise TeacherUnavailableError(
                f"the teacher wants patches of {side} px, "
                f"at most {_LARGEST_INPUT_PX} are sent"
            )
        return description


def _seen_as(encoding: PixelEncoding) -> bytes:
    """Part of a request's name: what a teacher sees of the same patches."""
    return str(encoding).encode() if encoding.is_lossy else b""

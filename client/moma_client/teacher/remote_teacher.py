"""A teacher at another institution: requests go out ahead of the training loop."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from random import Random
from typing import NamedTuple, TypeVar

from google.protobuf.message import Message

from moma_client.audit.log_monitor import LogMonitor, LogProofs
from moma_client.audit.receipts import ReceiptStore
from moma_client.egress.to_teacher import SendingPolicy, TeacherEgress
from moma_client.identity.pinned_teacher import PinnedTeacher
from moma_client.metrics import ClientMetrics
from moma_client.teacher.channel import (
    EmbedResponses,
    TeacherAddress,
    TeacherChannel,
    TeacherMethod,
)
from moma_client.teacher.pipeline import BatchPipeline, RequestPipeline, most_patches
from moma_client.teacher.retry import Retries, RetryLimits, StoppableWait
from moma_client.teacher.sealed_client import RequestSealer, SealedTeacherClient
from moma_core.audit.checkpoint import Checkpoint
from moma_core.audit.receipt import Receipt
from moma_core.data.batch import Batch
from moma_core.errors import TeacherUnavailableError
from moma_core.teacher.card.bounds import Description
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.ema_update import SyncHead
from moma_core.teacher.protocol import TeacherOutput
from moma_core.teacher.query import PatchQuery
from moma_proto.v1 import teacher_pb2 as pb
from moma_proto.v1.sealed_pb2 import SealedRequest

MessageT = TypeVar("MessageT", bound=Message)

PATCHES_PER_REQUEST = 64
"""Of this site's requests, at most."""

_LARGEST_INPUT_PX = 1024


@dataclass(frozen=True, slots=True)
class RemoteTeacherSettings:
    """How a site reaches its teacher, and how it sends requests.

    Args:
        teacher: Address, name and certificates.
        end_to_end: The keys of site and teacher, whoever is between them.
        in_flight: Batches that are sent at most before the loop has used the oldest;
            1 sends and waits, with nothing read ahead.
        patches_per_request: At most; the teacher's own bound may be lower.
        answer_deadline_seconds: The longest wait for one response.
        retries: When to give up.
        ids_by_content: Makes request ids from the pixels, not from the step: the same
            patches in a request of another step or run are a repetition.
        egress: What may leave for the teacher.
    """

    teacher: TeacherAddress
    end_to_end: PinnedTeacher
    in_flight: int = 8
    patches_per_request: int = PATCHES_PER_REQUEST
    answer_deadline_seconds: float = 60.0
    retries: RetryLimits = field(default_factory=RetryLimits)
    ids_by_content: bool = False
    egress: SendingPolicy = field(default_factory=SendingPolicy)


class BudgetState(NamedTuple):
    """What a teacher granted this site over its life, and what it has charged."""

    granted_patches: int
    charged_patches: int


class RemoteTeacher:
    """Implements `moma_core.teacher.protocol.Teacher`; used by one thread.

    Args:
        settings: How to reach the teacher, and how to send requests.
        run_key: Secret or not, but the same for a run and its resumption, and for
            no other: request ids are made from it, so that a resumed run repeats
            them and is not charged twice.
        stop: Set by the operator; any wait ends within a second.
        metrics: Counts patches, bytes and the loop's waiting.
        random: Spreads the pauses between attempts.
        now: The present, with a time zone.

    Attributes:
        waited_seconds: What the loop has waited for outputs so far.
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
        self._wait = StoppableWait(stop)
        self._channel = TeacherChannel(settings.teacher, self._wait, now)
        pinned, encoding = settings.end_to_end, settings.egress.encoding
        self._monitor = LogMonitor(pinned, metrics.count_mismatch)
        self._client = SealedTeacherClient(
            self._channel,
            RequestSealer(pinned, now),
            TeacherEgress(settings.egress, metrics),
            self._monitor.check_trusted,
        )
        self._proofs = LogProofs(self._client, self._monitor)
        self._receipts = ReceiptStore(
            pinned, self._proofs.see, is_lossy=encoding.is_lossy
        )
        if encoding.is_lossy:  # the teacher sees other pixels of the same patches
            self._run_key += str(encoding).encode()
        self._retries = Retries(
            settings.retries, self._wait, random, on_lost=self._lose
        )
        self._description: Description | None = None
        self.waited_seconds = 0.0

    def describe(self) -> TeacherCard:
        """Returns the teacher's card.

        Raises:
            TeacherError: It cannot be reached, refuses, or is not who it should be.
            CertificateError: The site's own certificate or key is not acceptable.
            StoppedError: The operator stops the program.
        """
        return self._described().card

    def budget(self) -> BudgetState:
        """Returns granted and charged patches; raises as `describe` does."""
        response = self.call("Budget", pb.BudgetRequest(), pb.BudgetResponse)
        state = BudgetState(response.granted_patches, response.charged_patches)
        self._metrics.show_budget(
            self._settings.teacher.name,
            granted=state.granted_patches,
            charged=state.charged_patches,
        )
        return state

    def answer_batches(
        self, batches: Iterable[Batch]
    ) -> Iterator[tuple[Batch, TeacherOutput]]:
        """Yields every batch once, in order, with the teacher's output.

        While the loop works on one batch, the next ones are with the teacher.

        Raises:
            TeacherError: The teacher refused, or cannot be reached any more.
            CertificateError: The site's own certificate or key is not acceptable.
            StoppedError: The operator stops the program.
        """
        pipeline = self.open_pipeline()
        sent: deque[Batch] = deque()
        try:
            for batch in batches:
                pipeline.send(batch)
                sent.append(batch)
                if len(sent) == self._settings.in_flight:
                    yield sent.popleft(), self._next_output(pipeline)
            while sent:
                yield sent.popleft(), self._next_output(pipeline)
        finally:
            pipeline.close()

    def open_pipeline(self) -> BatchPipeline:
        """Returns a new pipeline; its connection may be lost and found again."""
        description, seconds = self._described(), self._settings.answer_deadline_seconds
        requests = RequestPipeline(
            self._embed,
            self._client,
            description.card,
            on_response=self._keep_receipt,
            retries=self._retries,
            take=lambda inbox: self._wait.take(inbox, seconds),
        )
        return BatchPipeline(
            requests,
            description,
            run_key=self._run_key,
            ids_by_content=self._settings.ids_by_content,
            patches_per_request=self._settings.patches_per_request,
            on_sent=partial(self._metrics.count_sent, self._settings.teacher.name),
        )

    def call(
        self, method: TeacherMethod, message: Message, kind: type[MessageT]
    ) -> MessageT:
        """Returns the response to a call that requests no embedding.

        Args:
            method: Name of the method.
            message: The request.
            kind: Type of the response.

        Raises:
            TeacherError: As `describe` does.
        """
        return self._retries.retry(lambda: self._client.call(method, [message], kind))

    def sync_momentum(self, head: SyncHead, content: bytes, seconds: float) -> None:
        """Sends the student's weights to a momentum session.

        Raises:
            PolicyError: The site does not let weights leave.
            TeacherError: As `describe` does.
        """
        self._retries.retry(lambda: self._client.sync_momentum(head, content, seconds))

    def fetch_receipts(self) -> int:
        """Keeps the receipts that are missing, and returns how many they were.

        Raises:
            AuditError: One is not true.
            TeacherError: As `describe` does.
        """
        self._described()
        return self._retries.retry(self._fetch_receipts)

    def compare_log(self, shown: Iterable[Checkpoint]) -> None:
        """Compares the teacher's log with the states of it that others say they saw.

        What cannot be proved now is proved before any further request.

        Raises:
            LogForkError: The log forked.
            AuditError: What the teacher shows is no proof.
            TeacherError: As `describe` does.
        """
        self._monitor.add_others(shown)
        if self._monitor.others:
            self._described()
            self._retries.retry(self._proofs.compare)

    def close_session(self, session: bytes) -> None:
        """Closes a momentum session, without waiting for a lost connection."""
        self._client.close_session(session)

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
        """Closes the connection."""
        self._channel.close()

    def patches_per_request(self) -> int:
        """Returns how many patches fit one request; raises as `describe` does."""
        return min(self._settings.patches_per_request, most_patches(self._described()))

    def _next_output(self, pipeline: BatchPipeline) -> TeacherOutput:
        with self.waiting():
            return pipeline.next_output()

    def _keep_receipt(self, receipt: Receipt | None, query: PatchQuery) -> None:
        self._receipts.keep(receipt, query, self._client.card)

    def _fetch_receipts(self) -> int:
        self._proofs.compare()
        return self._receipts.fetch(self._client)

    def _embed(self, requests: Iterator[SealedRequest]) -> EmbedResponses:
        """Starts a stream with the teacher that was described, and with no other."""
        known, found = self._described().card, self._describe_again().card
        if not found.is_same_model(known):
            raise TeacherUnavailableError(
                f"the teacher's card changed during the run: its weights were "
                f"{known.digest[:12]}, now they are {found.digest[:12]}"
            )
        self._proofs.compare()
        return self._client.embed(requests)

    def _lose(self) -> None:
        self._channel.close()
        self._client.forget()
        self._proofs.forget()

    def _described(self) -> Description:
        if self._description is None:
            self._description = self._retries.retry(self._describe_again)
        return self._description

    def _describe_again(self) -> Description:
        description = self._client.describe().description
        side = description.card.input_size_px
        if side > _LARGEST_INPUT_PX:
            raise TeacherUnavailableError(
                f"the teacher wants patches of {side} px, "
                f"at most {_LARGEST_INPUT_PX} are sent"
            )
        return description

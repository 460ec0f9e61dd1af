"""Questions and answers over one stream that survives the loss of its link.

What is unanswered is kept, and sent again in the same order with the same ids when a
stream is opened anew: the teacher charges an id once.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Protocol

import grpc

from moma_client.teacher.retry import LinkLostError, Retries, StoppableWait, failure_of
from moma_core.end_to_end.sealed_messages import PendingResponse
from moma_core.errors import TeacherBusyError, TeacherError, TeacherUnavailableError
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.query import EmbedResult, PatchQuery
from moma_proto.convert.teacher import result_from_wire
from moma_proto.v1 import teacher_pb2 as pb
from moma_proto.v1.sealed_pb2 import SealedRequest, SealedResponse

_CLOSE_SECONDS = 5.0
_CLOSE_SESSION_SECONDS = 1.0


class EmbedResponses(Protocol):
    """A running `Embed` call."""

    def __next__(self) -> SealedResponse:
        """Waits for the next answer."""
        ...

    def cancel(self) -> bool:
        """Ends the call."""
        ...


OpenEmbed = Callable[[Iterator[SealedRequest]], EmbedResponses]


class Sealing(Protocol):
    """Seals queries and opens their answers."""

    def seal_query(self, query: PatchQuery) -> tuple[SealedRequest, PendingResponse]:
        """Returns a query as it travels, and what opens its answer."""
        ...

    def open_answer(
        self, response: SealedResponse, pending: PendingResponse
    ) -> pb.EmbedResponse:
        """Returns an answer, or raises a TeacherError."""
        ...

    def keep_receipt(self, response: pb.EmbedResponse, query: PatchQuery) -> None:
        """Keeps what proves an answer, or raises an AuditError."""
        ...


@dataclass(slots=True, eq=False)
class _InFlight:
    """A question, and how it was answered.

    Args:
        query: What is asked.
        outcome: The answer, or what the teacher itself says instead; None: nothing yet.
    """

    query: PatchQuery
    outcome: EmbedResult | TeacherError | None = None


class ResponseStream:
    """Asks ahead, and hands the answers out in the order of the questions.

    A question that the teacher refuses is answered by its refusal, in its turn: answers
    before and after it are not lost.

    Args:
        open_embed: Starts the `Embed` call.
        sealing: Seals and opens.
        card: What the answers must fit.
        retries: Opens the stream again when it was lost.
        wait: Does the waiting.
        answer_deadline_seconds: The longest wait for one answer.
    """

    def __init__(
        self,
        open_embed: OpenEmbed,
        sealing: Sealing,
        card: TeacherCard,
        *,
        retries: Retries,
        wait: StoppableWait,
        answer_deadline_seconds: float,
    ) -> None:
        self._open_embed = open_embed
        self._sealing = sealing
        self._card = card
        self._retries = retries
        self._wait = wait
        self._answer_deadline_seconds = answer_deadline_seconds
        self._unanswered: deque[_InFlight] = deque()
        self._put_off: list[_InFlight] = []
        self._call: _EmbedCall | None = None

    def ask(self, query: PatchQuery) -> None:
        """Takes a question; it is on its way as soon as there is a link."""
        asked = _InFlight(query)
        self._unanswered.append(asked)
        if self._call is not None:
            self._call.send(asked)

    def answer(self) -> EmbedResult:
        """Returns the answer to the oldest question.

        Raises:
            TeacherError: The teacher refused, cannot be reached any more, or its
                answer does not fit the question.
            AuditError: What should prove the answer does not.
            StoppedError: The operator stops the program.
        """
        outcome = self._retries.retry(self._next_outcome)
        self._unanswered.popleft()
        if isinstance(outcome, TeacherError):
            raise outcome
        return outcome

    def close(self) -> None:
        """Ends the stream, and cancels what is under way; nothing is left behind."""
        if self._call is not None:
            if not self._unanswered:
                self._call.finish()
            self._call.close()
            self._call = None

    def _next_outcome(self) -> EmbedResult | TeacherError:
        try:
            call = self._call or self._reopened()
            while self._put_off:
                call.send(self._put_off.pop(0))
            while (outcome := self._unanswered[0].outcome) is None:
                self._take(call)
        except TeacherBusyError:
            raise
        except TeacherError:
            self.close()
            raise
        return outcome

    def _take(self, call: "_EmbedCall") -> None:
        """Waits for what comes next; what the teacher puts off is asked again."""
        response = self._wait.take(call.inbox, self._answer_deadline_seconds)
        if isinstance(response, TeacherError):
            self.close()
            raise response
        asked, pending = call.next_pending()
        try:
            opened = self._sealing.open_answer(response, pending)
            answer = result_from_wire(opened, asked.query, self._card)
        except TeacherBusyError:
            self._put_off.append(asked)
            raise
        except LinkLostError:
            raise
        except TeacherError as error:
            asked.outcome = error
            return
        self._sealing.keep_receipt(opened, asked.query)
        asked.outcome = answer

    def _reopened(self) -> "_EmbedCall":
        self._put_off.clear()
        call = self._call = _EmbedCall(self._open_embed, self._sealing)
        for asked in self._unanswered:
            if asked.outcome is None:
                call.send(asked)
        return call


class _EmbedCall:
    """One `Embed` call, with the thread that reads its answers.

    What is sent is sealed in gRPC's own thread, as it is taken. What comes is only
    opened by who takes it, so that the reader is quick.

    Attributes:
        inbox: The answers in order, at most one for each request; then, if the call
            failed, why.
    """

    def __init__(self, open_embed: OpenEmbed, sealing: Sealing) -> None:
        self.inbox: SimpleQueue[SealedResponse | TeacherError] = SimpleQueue()
        self._outbox: SimpleQueue[_InFlight | None] = SimpleQueue()
        self._pending: SimpleQueue[tuple[_InFlight, PendingResponse]] = SimpleQueue()
        self._sealing = sealing
        self._due = threading.Semaphore(0)
        self._closed = False
        self._call = open_embed(self._requests())
        self._reader = threading.Thread(
            target=self._read, name="link-answers", daemon=True
        )
        self._reader.start()

    def send(self, asked: _InFlight) -> None:
        self._outbox.put(asked)
        self._due.release()

    def finish(self) -> None:
        """Says that nothing follows: to the teacher, a cancelled call looks broken."""
        self._outbox.put(None)
        self._due.release()
        self._reader.join(_CLOSE_SESSION_SECONDS)

    def close(self) -> None:
        self._closed = True
        self._call.cancel()
        self._outbox.put(None)
        self._due.release()
        self._reader.join(_CLOSE_SECONDS)

    def _requests(self) -> Iterator[SealedRequest]:
        for asked in iter(self._outbox.get, None):
            request, pending = self._sealing.seal_query(asked.query)
            self._pending.put((asked, pending))
            yield request

    def next_pending(self) -> tuple[_InFlight, PendingResponse]:
        """Returns the question to which the next answer belongs, and what opens it."""
        try:
            return self._pending.get_nowait()
        except Empty:
            message = "the teacher answered before it was asked"
            raise TeacherUnavailableError(message) from None

    def _read(self) -> None:
        """Reads an answer for each request: a teacher that says more is not heard."""
        while not self._closed:
            self._due.acquire()
            try:
                self.inbox.put(next(self._call))
            except StopIteration:
                self.inbox.put(LinkLostError("the teacher ended the stream early"))
                return
            except grpc.RpcError as error:
                self.inbox.put(failure_of(error))
                return

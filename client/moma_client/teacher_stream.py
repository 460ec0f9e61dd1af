"""Questions and answers over one stream that survives the loss of its link.

What is unanswered is kept, and sent again in the same order with the same ids when a
stream is opened anew: the teacher charges an id once.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Protocol

import grpc

from moma_client.teacher_failures import LinkLostError, Patience, Retries, failure_of
from moma_core.errors import RefusedError, TeacherError, TeacherUnavailableError
from moma_core.teacher.card import TeacherCard
from moma_core.teacher.query import PatchAnswer, PatchQuery
from moma_core.trust.sealed_exchange import PendingAnswer
from moma_proto.v1 import teacher_pb2 as pb
from moma_proto.v1.convert import answer_from_wire
from moma_proto.v1.sealed_pb2 import SealedRequest, SealedResponse

_CLOSE_SECONDS = 5.0
_FAREWELL_SECONDS = 1.0


class EmbedAnswers(Protocol):
    """A running `Embed` call."""

    def __next__(self) -> SealedResponse:
        """Waits for the next answer."""
        ...

    def cancel(self) -> bool:
        """Ends the call."""
        ...


OpenEmbed = Callable[[Iterator[SealedRequest]], EmbedAnswers]


class Sealing(Protocol):
    """Seals queries and opens their answers."""

    def seal_query(self, query: PatchQuery) -> tuple[SealedRequest, PendingAnswer]:
        """Returns a query as it travels, and what opens its answer."""
        ...

    def open_answer(
        self, response: SealedResponse, pending: PendingAnswer
    ) -> pb.EmbedResponse:
        """Returns an answer, or raises a TeacherError."""
        ...

    def keep_receipt(self, response: pb.EmbedResponse, query: PatchQuery) -> None:
        """Keeps what proves an answer, or raises an AuditError."""
        ...


class AnswerStream:
    """Asks ahead, and hands the answers out in the order of the questions.

    Args:
        open_embed: Starts the `Embed` call.
        sealing: Seals and opens.
        card: What the answers must fit.
        retries: Opens the stream again when it was lost.
        patience: Does the waiting.
        answer_deadline_seconds: The longest wait for one answer.
    """

    def __init__(
        self,
        open_embed: OpenEmbed,
        sealing: Sealing,
        card: TeacherCard,
        *,
        retries: Retries,
        patience: Patience,
        answer_deadline_seconds: float,
    ) -> None:
        self._open_embed = open_embed
        self._sealing = sealing
        self._card = card
        self._retries = retries
        self._patience = patience
        self._answer_deadline_seconds = answer_deadline_seconds
        self._unanswered: deque[PatchQuery] = deque()
        self._call: _EmbedCall | None = None

    def ask(self, query: PatchQuery) -> None:
        """Takes a question; it is on its way as soon as there is a link."""
        self._unanswered.append(query)
        if self._call is not None:
            self._call.send(query)

    def answer(self) -> PatchAnswer:
        """Returns the answer to the oldest question.

        Raises:
            TeacherError: The teacher refused, cannot be reached any more, or its
                answer does not fit the question.
            StoppedError: The operator stops the program.
        """
        answer = self._retries.persist(self._next_answer)
        self._unanswered.popleft()
        return answer

    def close(self) -> None:
        """Ends the stream, and cancels what is under way; nothing is left behind."""
        if self._call is not None:
            if not self._unanswered:
                self._call.finish()
            self._call.close()
            self._call = None

    def _next_answer(self) -> PatchAnswer:
        try:
            return self._taken(self._call or self._reopened())
        except RefusedError:
            self.close()
            if len(self._unanswered) == 1:
                raise
            return self._asked_alone()
        except TeacherError:
            self.close()
            raise

    def _asked_alone(self) -> PatchAnswer:
        """Asks the oldest question by itself: was it this one that was refused?

        gRPC tells an error at once, and drops answers that came before it.
        """
        call = self._call = _EmbedCall(self._open_embed, self._sealing)
        oldest, *rest = self._unanswered
        call.send(oldest)
        try:
            answer = self._taken(call)
        except TeacherError:
            self.close()
            raise
        for query in rest:
            call.send(query)
        return answer

    def _taken(self, call: "_EmbedCall") -> PatchAnswer:
        response = self._patience.take(call.inbox, self._answer_deadline_seconds)
        if isinstance(response, TeacherError):
            raise response
        opened, query = call.opened(response), self._unanswered[0]
        answer = answer_from_wire(opened, query, self._card)
        self._sealing.keep_receipt(opened, query)
        return answer

    def _reopened(self) -> "_EmbedCall":
        call = self._call = _EmbedCall(self._open_embed, self._sealing)
        for query in self._unanswered:
            call.send(query)
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
        self._outbox: SimpleQueue[PatchQuery | None] = SimpleQueue()
        self._pending: SimpleQueue[PendingAnswer] = SimpleQueue()
        self._sealing = sealing
        self._due = threading.Semaphore(0)
        self._closed = False
        self._call = open_embed(self._requests())
        self._reader = threading.Thread(
            target=self._read, name="link-answers", daemon=True
        )
        self._reader.start()

    def send(self, query: PatchQuery) -> None:
        self._outbox.put(query)
        self._due.release()

    def finish(self) -> None:
        """Says that nothing follows: to the teacher, a cancelled call looks broken."""
        self._outbox.put(None)
        self._due.release()
        self._reader.join(_FAREWELL_SECONDS)

    def close(self) -> None:
        self._closed = True
        self._call.cancel()
        self._outbox.put(None)
        self._due.release()
        self._reader.join(_CLOSE_SECONDS)

    def _requests(self) -> Iterator[SealedRequest]:
        for query in iter(self._outbox.get, None):
            request, pending = self._sealing.seal_query(query)
            self._pending.put(pending)
            yield request

    def opened(self, response: SealedResponse) -> pb.EmbedResponse:
        try:
            pending = self._pending.get_nowait()
        except Empty:
            message = "the teacher answered before it was asked"
            raise TeacherUnavailableError(message) from None
        return self._sealing.open_answer(response, pending)

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

"""Batches out, outputs in, over one stream that survives the loss of its connection.

A batch is cut into requests, and its responses are put together. What has no response
yet is kept, and sent again in the same order with the same ids when a stream is opened
anew: the teacher charges an id once.
"""

import hashlib
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue

import grpc
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from moma_client.egress.to_teacher import order_on_the_wire
from moma_client.teacher.channel import LARGEST_RESPONSE_BYTES, EmbedResponses
from moma_client.teacher.retry import (
    ConnectionLostError,
    Retries,
    failure_of,
)
from moma_client.teacher.sealed_client import SealedTeacherClient
from moma_core.audit.receipt import Receipt
from moma_core.data.batch import Batch
from moma_core.end_to_end.sealed_messages import PendingResponse
from moma_core.errors import (
    ConfigError,
    TeacherBusyError,
    TeacherError,
    TeacherUnavailableError,
)
from moma_core.teacher.card.bounds import Description
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.protocol import TeacherOutput
from moma_core.teacher.query import (
    REQUEST_ID_BYTES,
    EmbedResult,
    PatchQuery,
    Pixels,
    patch_digests,
    query_digest,
)
from moma_proto.convert.audit import receipt_from_wire
from moma_proto.convert.teacher import result_from_wire
from moma_proto.v1.sealed_pb2 import SealedRequest, SealedResponse

_ENVELOPE_BYTES = 1024  # of a response beside its numbers, generously
_CANCEL_SECONDS = 5.0
_FINISH_SECONDS = 1.0


OpenEmbed = Callable[[Iterator[SealedRequest]], EmbedResponses]
OnResponse = Callable[[Receipt | None, PatchQuery], None]
Inbox = SimpleQueue[SealedResponse | TeacherError]


@dataclass(frozen=True, slots=True)
class SessionRef:
    """A momentum session as a query names it.

    Args:
        session: The session's id.
        weights: Names the weights of its model: other weights, other request ids.
        whole_batches: Whether an output depends on what else is in the request.
    """

    session: bytes = b""
    weights: bytes = b""
    whole_batches: bool = False


NO_SESSION = SessionRef()


class BatchPipeline:
    """Sends batches and hands their outputs out, in order.

    Args:
        pipeline: Sends single requests to the teacher.
        description: The teacher's card and bounds.
        run_key: Makes the request ids; the same for a run and its resumption.
        ids_by_content: Whether a request's id is made of its patches, not its step.
        patches_per_request: At most; the teacher's own bound may be lower.
        on_sent: Called with the number of patches of each batch.
    """

    def __init__(
        self,
        pipeline: "RequestPipeline",
        description: Description,
        *,
        run_key: bytes,
        ids_by_content: bool,
        patches_per_request: int,
        on_sent: Callable[[int], None],
    ) -> None:
        self._pipeline = pipeline
        self._card = description.card
        self._run_key, self._ids_by_content = run_key, ids_by_content
        self._most, self._bound = most_patches(description), patches_per_request
        self._on_sent = on_sent
        self._orders: deque[list[NDArray[np.int64]]] = deque()  # each request's order

    def send(self, batch: Batch, session: SessionRef = NO_SESSION) -> None:
        """Requests the outputs of a batch.

        Raises:
            ConfigError: A batch that must be whole does not fit one request.
        """
        if not len(batch.views):  # every output of the batch is known
            self._orders.append([])
            return
        pixels = _pixels(batch.views, self._card.input_size_px)
        key, orders = self._run_key + session.weights, []
        for rows in self._parts(batch, session):
            part = pixels[rows]
            digests = patch_digests(part)  # once: for order, id and receipt
            order = order_on_the_wire(self._run_key, digests)
            digests = tuple(digests[index] for index in order)
            if self._ids_by_content:
                request_id = content_id(key, digests)
            else:
                request_id = step_id(key, batch.step, rows)
            query = PatchQuery(request_id, part[order], session.session, digests)
            self._pipeline.send(query)
            orders.append(order)
        self._orders.append(orders)
        self._on_sent(len(pixels))

    def next_output(self) -> TeacherOutput:
        """Returns the teacher's output for the oldest batch.

        Raises:
            TeacherError: The teacher refused, or cannot be reached any more.
            StoppedError: The operator stops the program.
        """
        orders = self._orders.popleft()
        parts = [
            _in_batch_order(self._pipeline.next_result(), order) for order in orders
        ]
        return _joined(parts, self._card)

    def close(self) -> None:
        """Ends the stream."""
        self._pipeline.close()

    def _parts(self, batch: Batch, session: SessionRef) -> list[slice]:
        """Cuts a batch into requests that the teacher takes, by its bounds and ours."""
        patches = len(batch.views)
        most = max(1, self._most // batch.views.element_size())  # counted in uint8
        size = most if session.whole_batches else min(most, self._bound)
        if session.whole_batches and patches > most:
            raise ConfigError(
                f"teacher.batch_norm 'adapt' needs a batch of {patches} patches in one "
                f"request, the teacher takes {most}; lower training.batch_size"
            )
        starts = range(0, patches, size)
        return [slice(start, min(start + size, patches)) for start in starts]


def most_patches(description: Description) -> int:
    """Returns how many patches fit one request, by its bounds and by its response."""
    card, bounds = description
    response_bytes = 4 * (card.embedding_length + len(card.class_names))
    fitting = LARGEST_RESPONSE_BYTES // (response_bytes + _ENVELOPE_BYTES)
    return min(bounds.max_patches, fitting)


def _pixels(views: Tensor, side: int) -> Pixels:
    """Returns views as the teacher takes them.

    Args:
        views: (N, 3, H, W), uint8, or float32 in [0, 1].
        side: The teacher's input size in pixels.

    Returns:
        (N, side, side, 3).
    """
    is_known = views.dtype in (torch.uint8, torch.float32)
    if not is_known or views.ndim != 4 or views.shape[1] != 3:
        found = f"{tuple(views.shape)} {views.dtype}"
        raise ValueError(f"views must be (N, 3, H, W) uint8 or float32, got {found}")
    if views.shape[2:] != (side, side):
        views = F.interpolate(views, (side, side), mode="bilinear", antialias=True)
    pixels: Pixels = views.permute(0, 2, 3, 1).contiguous().numpy()
    return pixels


def _in_batch_order(result: EmbedResult, order: NDArray[np.int64]) -> EmbedResult:
    """Returns the result of a request in the order of the batch's patches."""
    back = np.argsort(order)
    return EmbedResult(result.request_id, result.embedding[back], result.logits[back])


def _joined(parts: Sequence[EmbedResult], card: TeacherCard) -> TeacherOutput:
    """Returns the results of the parts of a batch as one, of memory of its own."""
    if not parts:
        length, classes = card.embedding_length, len(card.class_names)
        return TeacherOutput(torch.empty(0, length), torch.empty(0, classes))
    return TeacherOutput(
        torch.from_numpy(np.concatenate([part.embedding for part in parts])),
        torch.from_numpy(np.concatenate([part.logits for part in parts])),
    )


def step_id(run_key: bytes, step: int, rows: slice) -> bytes:
    """Names some rows of a batch; equal for a run and its resumption."""
    position = struct.pack(">QII", step, rows.start, rows.stop)
    return hashlib.sha256(run_key + position).digest()[:REQUEST_ID_BYTES]


def content_id(key: bytes, digests: Sequence[bytes]) -> bytes:
    """Names a request by the digests of its patches: others have another id."""
    return hashlib.sha256(key + query_digest(digests)).digest()[:REQUEST_ID_BYTES]


@dataclass(slots=True, eq=False)
class _InFlight:
    """A request, and what came of it.

    Args:
        query: The patches and the id.
        outcome: The result, or the teacher's refusal; None: nothing yet.
    """

    query: PatchQuery
    outcome: EmbedResult | TeacherError | None = None


class RequestPipeline:
    """Sends requests ahead, and hands the results out in the order of the requests.

    A request that the teacher refuses ends in its refusal, in its turn: results before
    and after it are not lost.

    Args:
        open_embed: Starts the `Embed` call.
        client: Seals queries and opens responses.
        card: The card that the results must fit.
        on_response: Called with a response's receipt and its query before the result
            is used; raises an AuditError where the receipt proves nothing.
        retries: Opens the stream again when it was lost.
        take: Waits for the next item of an inbox; raises a ConnectionLostError after
            the longest wait for one response.
    """

    def __init__(
        self,
        open_embed: OpenEmbed,
        client: SealedTeacherClient,
        card: TeacherCard,
        *,
        on_response: OnResponse,
        retries: Retries,
        take: Callable[[Inbox], SealedResponse | TeacherError],
    ) -> None:
        self._open_embed = open_embed
        self._client, self._card = client, card
        self._on_response = on_response
        self._retries, self._take_next = retries, take
        self._in_flight: deque[_InFlight] = deque()
        self._put_off: list[_InFlight] = []
        self._call: _EmbedCall | None = None

    def send(self, query: PatchQuery) -> None:
        """Takes a request; it is on its way as soon as there is a connection."""
        request = _InFlight(query)
        self._in_flight.append(request)
        if self._call is not None:
            self._call.send(request)

    def next_result(self) -> EmbedResult:
        """Returns the result of the oldest request.

        Raises:
            TeacherError: The teacher refused, cannot be reached any more, or its
                response does not fit the request.
            AuditError: The receipt of the response proves nothing.
            StoppedError: The operator stops the program.
        """
        outcome = self._retries.retry(self._next_outcome)
        self._in_flight.popleft()
        if isinstance(outcome, TeacherError):
            raise outcome
        return outcome

    def close(self) -> None:
        """Ends the stream, and cancels what is under way; nothing is left behind."""
        if self._call is not None:
            if not self._in_flight:
                self._call.finish()
            self._call.close()
            self._call = None

    def _next_outcome(self) -> EmbedResult | TeacherError:
        try:
            call = self._call or self._reopened()
            while self._put_off:
                call.send(self._put_off.pop(0))
            while (outcome := self._in_flight[0].outcome) is None:
                self._take(call)
        except TeacherBusyError:
            raise
        except TeacherError:
            self.close()
            raise
        return outcome

    def _take(self, call: "_EmbedCall") -> None:
        """Waits for what comes next; what the teacher puts off is sent again."""
        response = self._take_next(call.inbox)
        if isinstance(response, TeacherError):
            self.close()
            raise response
        request, pending = call.next_pending()
        query = request.query
        try:
            opened = self._client.open_response(response, pending)
            result = result_from_wire(opened, query, self._card)
        except TeacherBusyError:
            self._put_off.append(request)
            raise
        except ConnectionLostError:
            raise
        except TeacherError as error:
            request.outcome = error
            return
        has_receipt = opened.HasField("receipt")
        receipt = receipt_from_wire(opened.receipt) if has_receipt else None
        self._on_response(receipt, query)
        request.outcome = result

    def _reopened(self) -> "_EmbedCall":
        self._put_off.clear()
        call = self._call = _EmbedCall(self._open_embed, self._client)
        for request in self._in_flight:
            if request.outcome is None:
                call.send(request)
        return call


class _EmbedCall:
    """One `Embed` call, with the thread that reads its responses.

    What is sent is sealed in gRPC's own thread, as it is taken. What comes is only
    opened by who takes it, so that the reader is quick.

    Attributes:
        inbox: The responses in order, at most one for each request; then, if the call
            failed, why.
    """

    def __init__(self, open_embed: OpenEmbed, client: SealedTeacherClient) -> None:
        self.inbox: Inbox = SimpleQueue()
        self._outbox: SimpleQueue[_InFlight | None] = SimpleQueue()
        self._pending: SimpleQueue[tuple[_InFlight, PendingResponse]] = SimpleQueue()
        self._client = client
        self._due = threading.Semaphore(0)
        self._closed = False
        self._call = open_embed(self._requests())
        self._reader = threading.Thread(
            target=self._read, name="teacher-responses", daemon=True
        )
        self._reader.start()

    def send(self, request: _InFlight) -> None:
        self._outbox.put(request)
        self._due.release()

    def finish(self) -> None:
        """Ends the requests: to the teacher, a cancelled call looks broken."""
        self._outbox.put(None)
        self._due.release()
        self._reader.join(_FINISH_SECONDS)

    def close(self) -> None:
        self._closed = True
        self._call.cancel()
        self._outbox.put(None)
        self._due.release()
        self._reader.join(_CANCEL_SECONDS)

    def _requests(self) -> Iterator[SealedRequest]:
        for request in iter(self._outbox.get, None):
            sealed, pending = self._client.seal_query(request.query)
            self._pending.put((request, pending))
            yield sealed

    def next_pending(self) -> tuple[_InFlight, PendingResponse]:
        """Returns the request of the next response, and what opens the response."""
        try:
            return self._pending.get_nowait()
        except Empty:
            message = "the teacher responded before any request"
            raise TeacherUnavailableError(message) from None

    def _read(self) -> None:
        """Reads one response for each request, and no more."""
        while not self._closed:
            self._due.acquire()
            try:
                self.inbox.put(next(self._call))
            except StopIteration:
                self.inbox.put(
                    ConnectionLostError("the teacher ended the stream early")
                )
                return
            except grpc.RpcError as error:
                self.inbox.put(failure_of(error))
                return

"""Batches out, answers in: a batch is cut into requests, its answers put together."""

import hashlib
import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from moma_client.egress.to_teacher import order_on_the_wire
from moma_client.teacher.channel import LARGEST_ANSWER_BYTES
from moma_client.teacher.stream import ResponseStream
from moma_core.data.batch import Batch
from moma_core.errors import ConfigError
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

_ENVELOPE_BYTES = 1024  # of an answer beside its numbers, generously


@dataclass(frozen=True, slots=True)
class SessionRef:
    """A momentum session as a query names it.

    Args:
        session: Its id.
        weights: Names how its copy stands: other weights, other request ids.
        whole_batches: Whether its answers depend on what else is in the request.
    """

    session: bytes = b""
    weights: bytes = b""
    whole_batches: bool = False


TEACHER_ITSELF = SessionRef()


class BatchStream:
    """Asks for batches and hands their answers out, in order.

    Args:
        stream: To the teacher.
        description: Of the teacher.
        run_key: See `RemoteTeacher`.
        ids_by_content: Whether a request is named by what it asks, not by its step.
        patches_per_request: At most; the teacher's own bound may be lower.
        on_asked: Is told the number of patches.
    """

    def __init__(
        self,
        stream: ResponseStream,
        description: Description,
        *,
        run_key: bytes,
        ids_by_content: bool,
        patches_per_request: int,
        on_asked: Callable[[int], None],
    ) -> None:
        self._stream = stream
        self._card = description.card
        self._run_key, self._ids_by_content = run_key, ids_by_content
        self._most, self._bound = most_patches(description), patches_per_request
        self._on_asked = on_asked
        self._asked: deque[list[NDArray[np.int64]]] = deque()  # each request's order

    def ask(self, batch: Batch, copy: SessionRef = TEACHER_ITSELF) -> None:
        """Takes a question.

        Raises:
            ConfigError: A batch that must be whole does not fit one request.
        """
        if not len(batch.views):  # of a batch of which all is known
            self._asked.append([])
            return
        pixels = _pixels(batch.views, self._card.input_size_px)
        key, orders = self._run_key + copy.weights, []
        for rows in self._parts(batch, copy):
            part = pixels[rows]
            digests = patch_digests(part)  # once: for order, id and receipt
            order = order_on_the_wire(self._run_key, digests)
            digests = tuple(digests[place] for place in order)
            if self._ids_by_content:
                request_id = content_id(key, digests)
            else:
                request_id = step_id(key, batch.step, rows)
            query = PatchQuery(request_id, part[order], copy.session, digests)
            self._stream.ask(query)
            orders.append(order)
        self._asked.append(orders)
        self._on_asked(len(pixels))

    def answer(self) -> TeacherOutput:
        """Returns the answer to the oldest question.

        Raises:
            TeacherError: The teacher refused, or cannot be reached any more.
            StoppedError: The operator stops the program.
        """
        orders = self._asked.popleft()
        parts = [_in_batch_order(self._stream.answer(), order) for order in orders]
        return _joined(parts, self._card)

    def close(self) -> None:
        """Ends the stream."""
        self._stream.close()

    def _parts(self, batch: Batch, copy: SessionRef) -> list[slice]:
        """Cuts a batch into requests that the teacher takes and can answer."""
        patches = len(batch.views)
        most = max(1, self._most // batch.views.element_size())  # counted in uint8
        size = most if copy.whole_batches else min(most, self._bound)
        if copy.whole_batches and patches > most:
            raise ConfigError(
                f"teacher.batch_norm 'adapt' needs a batch of {patches} patches in one "
                f"request, the teacher takes {most}; lower training.batch_size"
            )
        starts = range(0, patches, size)
        return [slice(start, min(start + size, patches)) for start in starts]


def most_patches(description: Description) -> int:
    """Returns how many patches the teacher takes, and can answer, in one request."""
    card, bounds = description
    answer_bytes = 4 * (card.embedding_length + len(card.class_names))
    fitting = LARGEST_ANSWER_BYTES // (answer_bytes + _ENVELOPE_BYTES)
    return min(bounds.max_patches, fitting)


def _pixels(views: Tensor, side: int) -> Pixels:
    """Returns views as the teacher takes them.

    Args:
        views: (N, 3, H, W), uint8, or float32 in [0, 1].
        side: The teacher's input size, pixels.

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


def _in_batch_order(answer: EmbedResult, order: NDArray[np.int64]) -> EmbedResult:
    """Returns the answers to a request in the order of the batch's patches."""
    places = np.argsort(order)
    return EmbedResult(
        answer.request_id, answer.embedding[places], answer.logits[places]
    )


def _joined(parts: Sequence[EmbedResult], card: TeacherCard) -> TeacherOutput:
    """Returns the answers to the parts of a batch as one, of memory of its own."""
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
    """Names what is asked by the digests of its patches: others have another id."""
    return hashlib.sha256(key + query_digest(digests)).digest()[:REQUEST_ID_BYTES]

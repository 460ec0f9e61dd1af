"""A teacher at another institution: asked over gRPC, ahead of the training loop."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from random import Random
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from moma_client.metrics import ClientMetrics
from moma_client.request_ids import content_id, step_id
from moma_client.teacher_failures import Patience, Retries, RetryLimits
from moma_client.teacher_link import LARGEST_ANSWER_BYTES, TeacherAddress, TeacherLink
from moma_client.teacher_stream import AnswerStream, EmbedAnswers
from moma_core.data.batch import Batch
from moma_core.errors import NotAdmittedError, TeacherUnavailableError
from moma_core.teacher.card import TeacherCard
from moma_core.teacher.protocol import TeacherAnswer
from moma_core.teacher.query import PatchAnswer, PatchQuery, RequestBounds
from moma_proto.v1 import teacher_pb2 as pb
from moma_proto.v1.convert import description_from_wire

_LARGEST_INPUT_PX = 1024
_ENVELOPE_BYTES = 1024  # of an answer beside its numbers, generously


@dataclass(frozen=True, slots=True)
class RemoteTeacherSettings:
    """How a site asks its teacher.

    Args:
        teacher: Where and who it is.
        in_flight: Batches asked at most before the loop has used the oldest; 1 asks
            and waits, with nothing read ahead.
        patches_per_request: At most; the teacher's own bound may be lower.
        answer_deadline_seconds: The longest wait for one answer.
        retries: When to give up.
        ids_by_content: Makes request ids from the pixels, not from the step: what is
            asked again in another step or run, in a request of the same patches, is
            a repetition.
    """

    teacher: TeacherAddress
    in_flight: int = 8
    patches_per_request: int = 64
    answer_deadline_seconds: float = 60.0
    retries: RetryLimits = field(default_factory=RetryLimits)
    ids_by_content: bool = False

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
        self._settings = settings
        self._run_key = run_key
        self._metrics = metrics
        self._patience = Patience(stop)
        self._link = TeacherLink(settings.teacher, self._patience, now)
        self._retries = Retries(
            settings.retries, self._patience, random, on_lost=self._link.close
        )
        self._terms: tuple[TeacherCard, RequestBounds] | None = None
        self.waited_seconds = 0.0

    def describe(self) -> TeacherCard:
        """Returns the teacher's card.

        Raises:
            TeacherError: It cannot be reached, refuses, or is not who it should be.
            CertificateError: The site's own certificate or key is not acceptable.
            StoppedError: The operator stops the program.
        """
        card, _ = self._agreed_terms()
        return card

    def budget(self) -> Budget:
        """Returns granted and charged patches; raises as `describe` does."""
        response = self._retries.persist(
            lambda: self._link.ask(
                lambda stub, seconds: stub.Budget.future(
                    pb.BudgetRequest(), timeout=seconds
                )
            )
        )
        return Budget(response.granted_patches, response.charged_patches)

    def follow(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, TeacherAnswer]]:
        """Yields every batch once, in order, with its answer.

        While the loop works on one batch, the next ones are with the teacher.

        Raises:
            TeacherError: The teacher refused, or cannot be reached any more.
            CertificateError: The site's own certificate or key is not acceptable.
            StoppedError: The operator stops the program.
        """
        stream = self._new_stream()
        asked: deque[Batch] = deque()
        try:
            for batch in batches:
                self._ask(stream, batch)
                asked.append(batch)
                if len(asked) == self._settings.in_flight:
                    yield self._oldest(stream, asked)
            while asked:
                yield self._oldest(stream, asked)
        finally:
            stream.close()

    def close(self) -> None:
        """Closes the link."""
        self._link.close()

    def _ask(self, stream: AnswerStream, batch: Batch) -> None:
        if not len(batch.views):
            return  # of a batch of which all is known
        card = self.describe()
        pixels = _pixels(batch.views, card.input_size_px)
        for rows in self._parts(len(pixels)):
            if self._settings.ids_by_content:
                request_id = content_id(self._run_key, pixels[rows])
            else:
                request_id = step_id(self._run_key, batch.step, rows)
            stream.ask(PatchQuery(request_id, pixels[rows]))
        self._metrics.patches.labels(source="teacher").inc(len(pixels))

    def _oldest(
        self, stream: AnswerStream, asked: deque[Batch]
    ) -> tuple[Batch, TeacherAnswer]:
        batch = asked.popleft()
        since = time.monotonic()
        try:
            parts = [stream.answer() for _ in self._parts(len(batch.views))]
        finally:
            waited = time.monotonic() - since
            self.waited_seconds += waited
            self._metrics.teacher_wait_seconds.inc(waited)
        return batch, _joined(parts, self.describe())

    def patches_per_request(self) -> int:
        """Returns how many the teacher takes and can answer at once.

        Raises as `describe` does.
        """
        card, bounds = self._agreed_terms()
        answer_bytes = 4 * (card.embedding_length + len(card.class_names))
        return min(
            self._settings.patches_per_request,
            bounds.max_patches,
            LARGEST_ANSWER_BYTES // (answer_bytes + _ENVELOPE_BYTES),
        )

    def _parts(self, patches: int) -> list[slice]:
        """Cuts a batch into requests."""
        size = self.patches_per_request()
        starts = range(0, patches, size)
        return [slice(start, min(start + size, patches)) for start in starts]

    def _new_stream(self) -> AnswerStream:
        return AnswerStream(
            self._embed,
            self.describe(),
            retries=self._retries,
            patience=self._patience,
            answer_deadline_seconds=self._settings.answer_deadline_seconds,
            on_sent=self._metrics.egress_bytes.labels(channel="teacher").inc,
        )

    def _embed(self, requests: Iterator[pb.EmbedRequest]) -> EmbedAnswers:
        """Starts a stream with the teacher that was described, and with no other."""
        known, _ = self._agreed_terms()
        found, _ = self._read_terms()
        if found != known:
            raise TeacherUnavailableError(
                f"the teacher's card changed during the run: its weights were "
                f"{known.digest[:12]}, now they are {found.digest[:12]}"
            )
        return self._link.stub().Embed(requests)

    def _agreed_terms(self) -> tuple[TeacherCard, RequestBounds]:
        if self._terms is None:
            self._terms = self._retries.persist(self._read_terms)
        return self._terms

    def _read_terms(self) -> tuple[TeacherCard, RequestBounds]:
        response = self._link.ask(
            lambda stub, seconds: stub.Describe.future(
                pb.DescribeRequest(), timeout=seconds
            )
        )
        card, bounds = description_from_wire(response)
        if card.name != self._settings.teacher.name:
            raise NotAdmittedError(
                f"the card is of teacher {card.name}, not {self._settings.teacher.name}"
            )
        if card.input_size_px > _LARGEST_INPUT_PX:
            raise TeacherUnavailableError(
                f"the teacher wants patches of {card.input_size_px} px, "
                f"at most {_LARGEST_INPUT_PX} are sent"
            )
        return card, bounds


def _pixels(views: Tensor, side: int) -> NDArray[np.uint8]:
    """Returns views as the teacher takes them.

    Args:
        views: (N, 3, H, W) uint8.
        side: The teacher's input size, pixels.

    Returns:
        (N, side, side, 3).
    """
    if views.dtype != torch.uint8 or views.ndim != 4 or views.shape[1] != 3:
        found = f"{tuple(views.shape)} {views.dtype}"
        raise ValueError(f"views must be (N, 3, H, W) uint8, got {found}")
    if views.shape[2:] != (side, side):
        views = F.interpolate(views, (side, side), mode="bilinear", antialias=True)
    pixels: NDArray[np.uint8] = views.permute(0, 2, 3, 1).contiguous().numpy()
    return pixels


def _joined(parts: Sequence[PatchAnswer], card: TeacherCard) -> TeacherAnswer:
    """Returns the answers to the parts of a batch as one, of memory of its own."""
    if not parts:
        length, classes = card.embedding_length, len(card.class_names)
        return TeacherAnswer(torch.empty(0, length), torch.empty(0, classes))
    return TeacherAnswer(
        torch.from_numpy(np.concatenate([part.embedding for part in parts])),
        torch.from_numpy(np.concatenate([part.logits for part in parts])),
    )

"""How a site asks each of the services: one way to drive them all."""

import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from random import Random
from typing import Protocol

import grpc
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.service.federation import (
    FEDERATION,
    HOST,
    SITE,
    TEACHER,
    Federation,
    now,
)
from benchmarks.service.services import BARE_SERVICE
from moma_client.egress.log import log_path
from moma_client.egress.to_teacher import TeacherGate, TeacherPolicy
from moma_client.log_watch import LogWatch
from moma_client.metrics import silent_metrics
from moma_client.question_sealer import EndToEnd, QuestionSealer
from moma_client.receipts import ReceiptBook
from moma_client.remote_teacher import RemoteTeacher, RemoteTeacherSettings
from moma_client.sealed_calls import SealedCalls
from moma_client.teacher_address import TeacherAddress
from moma_client.teacher_failures import Patience, Retries, RetryLimits
from moma_client.teacher_link import LARGEST_ANSWER_BYTES, TeacherLink
from moma_client.teacher_stream import AnswerStream
from moma_core.data.batch import Batch
from moma_core.teacher.query import PatchAnswer, PatchQuery
from moma_proto.v1 import convert
from moma_proto.v1 import teacher_pb2 as pb
from moma_server.teacher.backend import TeacherBackend

Pixels = NDArray[np.uint8]
Embedding = NDArray[np.float32]

_ANSWER_SECONDS = 120.0


class Asker(Protocol):
    """Asks about patches, and gets the answers in the order of the questions."""

    def ask(self, pixels: Pixels) -> None:
        """Takes patches (N, H, W, 3)."""
        ...

    def answer(self) -> Embedding:
        """Waits for the embedding (N, D) of the oldest patches that were asked."""
        ...


class LocalAsker:
    """The model in the site's own process."""

    def __init__(self, backend: TeacherBackend) -> None:
        self._backend = backend
        self._asked: deque[Pixels] = deque()

    def ask(self, pixels: Pixels) -> None:
        """Takes patches."""
        self._asked.append(pixels)

    def answer(self) -> Embedding:
        """Returns an embedding."""
        return self._backend.answer(self._asked.popleft())[0]


class _Cut:
    """Cuts what is asked into requests that a teacher takes.

    Args:
        most: Patches in one request.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._parts: deque[int] = deque()

    def queries(self, pixels: Pixels) -> Iterator[PatchQuery]:
        parts = -(-len(pixels) // self._most)
        self._parts.append(parts)
        for part in np.array_split(pixels, parts):
            yield PatchQuery(os.urandom(16), part)

    def next_parts(self) -> int:
        return self._parts.popleft()


class BareAsker:
    """One stream to the bare service."""

    def __init__(
        self, channel: grpc.Channel, backend: TeacherBackend, most: int
    ) -> None:
        self._card, self._cut = backend.card, _Cut(most)
        self._outbox: SimpleQueue[PatchQuery | None] = SimpleQueue()
        self._asked: deque[PatchQuery] = deque()
        embed = channel.stream_stream(
            f"/{BARE_SERVICE}/Embed",
            pb.EmbedRequest.SerializeToString,
            pb.EmbedResponse.FromString,
        )
        self._call = embed(
            convert.query_to_wire(query) for query in iter(self._outbox.get, None)
        )

    def ask(self, pixels: Pixels) -> None:
        """Sends patches."""
        for query in self._cut.queries(pixels):
            self._asked.append(query)
            self._outbox.put(query)

    def answer(self) -> Embedding:
        """Returns an embedding."""
        found = []
        for _ in range(self._cut.next_parts()):
            query = self._asked.popleft()
            found.append(convert.answer_from_wire(next(self._call), query, self._card))
        return _joined(found)

    def close(self) -> None:
        """Ends the stream."""
        self._outbox.put(None)
        self._call.cancel()


class SealedAsker:
    """One stream of sealed questions."""

    def __init__(self, stream: AnswerStream, most: int) -> None:
        self._stream, self._cut = stream, _Cut(most)

    def ask(self, pixels: Pixels) -> None:
        """Sends patches."""
        for query in self._cut.queries(pixels):
            self._stream.ask(query)

    def answer(self) -> Embedding:
        """Returns an embedding."""
        parts = range(self._cut.next_parts())
        return _joined([self._stream.answer() for _ in parts])


class SiteAsker:
    """All that a training site does: it also hides the order of the patches."""

    def __init__(self, teacher: RemoteTeacher) -> None:
        self._stream = teacher.open_stream()
        self._step = 0

    def ask(self, pixels: Pixels) -> None:
        """Sends patches, as the batch of a step."""
        views = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        none = torch.zeros(len(pixels), dtype=torch.long)
        self._stream.ask(Batch(views, views, none, self._step, none, none))
        self._step += 1

    def answer(self) -> Embedding:
        """Returns an embedding."""
        return self._stream.answer().embedding.numpy()

    def close(self) -> None:
        """Ends the stream."""
        self._stream.close()


class _ReceiptsUnread(SealedCalls):
    """For a service that has no log."""

    def keep_receipt(self, response: pb.EmbedResponse, query: PatchQuery) -> None:
        """Does nothing."""


@contextmanager
def bare_asker(
    federation: Federation, backend: TeacherBackend, port: int, most: int
) -> Iterator[Asker]:
    """Asks the bare service over mutual TLS."""
    files = federation.files(SITE)
    credentials = grpc.ssl_channel_credentials(
        files.authority.read_bytes(),
        files.key.read_bytes(),
        files.certificate.read_bytes(),
    )
    options = [
        ("grpc.max_receive_message_length", LARGEST_ANSWER_BYTES),
        ("grpc.max_send_message_length", -1),
    ]
    with grpc.secure_channel(f"{HOST}:{port}", credentials, options) as channel:
        asker = BareAsker(channel, backend, most)
        try:
            yield asker
        finally:
            asker.close()


@contextmanager
def sealed_asker(
    federation: Federation, port: int, *, logged: bool, relayed: bool = False
) -> Iterator[Asker]:
    """Asks by the site's own calls.

    Args:
        federation: Its keys.
        port: Of the teacher or the relay.
        logged: Whether answers have receipts, which are checked and kept.
        relayed: Whether the port is a relay's.
    """
    patience = Patience(threading.Event())
    ends = _end_to_end(federation)
    link = TeacherLink(_address(federation, port, relayed=relayed), patience, now)
    kind = SealedCalls if logged else _ReceiptsUnread
    metrics = silent_metrics()
    calls = kind(
        link,
        QuestionSealer(ends, now),
        TeacherGate(_policy(federation), metrics),
        ReceiptBook(ends.teacher_key, ends.receipts),
        LogWatch(ends, metrics.count_mismatch),
    )
    retries = Retries(RetryLimits(), patience, _chance(), on_lost=link.close)
    description = retries.persist(calls.describe).description
    stream = AnswerStream(
        calls.embed,
        calls,
        description.card,
        retries=retries,
        patience=patience,
        answer_deadline_seconds=_ANSWER_SECONDS,
    )
    try:
        yield SealedAsker(stream, description.bounds.max_patches)
    finally:
        stream.close()
        link.close()


@contextmanager
def site_asker(federation: Federation, port: int) -> Iterator[Asker]:
    """Asks as a site that trains."""
    teacher = RemoteTeacher(
        RemoteTeacherSettings(
            _address(federation, port, relayed=False),
            _end_to_end(federation),
            patches_per_request=256,
            answer_deadline_seconds=_ANSWER_SECONDS,
            egress=_policy(federation),
        ),
        run_key=os.urandom(16),
        stop=threading.Event(),
        metrics=silent_metrics(),
        random=_chance(),
        now=now,
    )
    asker = SiteAsker(teacher)
    try:
        yield asker
    finally:
        asker.close()
        teacher.close()


def _address(federation: Federation, port: int, *, relayed: bool) -> TeacherAddress:
    files = federation.files(SITE)
    return TeacherAddress(
        name=TEACHER,
        address=f"{HOST}:{port}",
        authority=files.authority,
        certificate=files.certificate,
        key=files.key,
        is_relayed=relayed,
    )


def _end_to_end(federation: Federation) -> EndToEnd:
    home = federation.home(SITE)
    return EndToEnd(
        federation=FEDERATION,
        site=SITE,
        signing_key=home / "signing.key",
        teacher=TEACHER,
        teacher_key=federation.key(TEACHER).public,
        floor="mlkem768-x25519",
        card_memory=home / "card-seen.json",
        receipts=home / "receipts.jsonl",
    )


def _policy(federation: Federation) -> TeacherPolicy:
    return TeacherPolicy(log=log_path(federation.home(SITE)))


def _chance() -> Random:
    return Random(0)  # noqa: S311 - only spreads pauses


def _joined(answers: list[PatchAnswer]) -> Embedding:
    return np.concatenate([answer.embedding for answer in answers])

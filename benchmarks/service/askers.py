"""One way to drive every service: ask, and take the answers in their order."""

import os
from collections import deque
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Protocol

import grpc
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.service.services import BARE_SERVICE
from moma_client.teacher.pipeline import RequestPipeline
from moma_client.teacher.remote_teacher import RemoteTeacher
from moma_core.data.batch import Batch
from moma_core.teacher.query import EmbedResult, PatchQuery
from moma_proto.convert import teacher as convert
from moma_proto.v1 import teacher_pb2 as pb
from moma_server.teacher.inference.backend import TeacherBackend

Pixels = NDArray[np.uint8]
Embedding = NDArray[np.float32]


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
        return self._backend.predict(self._asked.popleft())[0]


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
            found.append(convert.result_from_wire(next(self._call), query, self._card))
        return _joined(found)

    def close(self) -> None:
        """Ends the stream."""
        self._outbox.put(None)
        self._call.cancel()


class SealedAsker:
    """One stream of sealed questions."""

    def __init__(self, pipeline: RequestPipeline, most: int) -> None:
        self._pipeline, self._cut = pipeline, _Cut(most)

    def ask(self, pixels: Pixels) -> None:
        """Sends patches."""
        for query in self._cut.queries(pixels):
            self._pipeline.send(query)

    def answer(self) -> Embedding:
        """Returns an embedding."""
        parts = range(self._cut.next_parts())
        return _joined([self._pipeline.next_result() for _ in parts])


class SiteAsker:
    """All that a training site does: it also hides the order of the patches."""

    def __init__(self, teacher: RemoteTeacher) -> None:
        self._pipeline = teacher.open_pipeline()
        self._step = 0

    def ask(self, pixels: Pixels) -> None:
        """Sends patches, as the batch of a step."""
        views = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        none = torch.zeros(len(pixels), dtype=torch.long)
        self._pipeline.send(Batch(views, views, none, self._step, none, none))
        self._step += 1

    def answer(self) -> Embedding:
        """Returns an embedding."""
        return self._pipeline.next_output().embedding.numpy()

    def close(self) -> None:
        """Ends the stream."""
        self._pipeline.close()


def _joined(answers: list[EmbedResult]) -> Embedding:
    return np.concatenate([answer.embedding for answer in answers])

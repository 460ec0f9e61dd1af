"""What leaves a site for its teacher: patches, and weights for a momentum session.

A patch leaves as a decoded array, or as a picture made from that array: there is no
file, no name, no profile and no coordinate in it. The patches of a request stand in an
order that a secret of the site and their pixels make, and nothing else does: not their
slide, not their label, not their row in the batch.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moma_client.egress.log import EgressLog
from moma_client.metrics import ClientMetrics
from moma_core.errors import PolicyError
from moma_core.teacher.ema_update import SyncHead
from moma_core.teacher.pixel_encoding import RAW, PixelEncoding
from moma_core.teacher.query import PatchQuery
from moma_proto.convert import momentum as convert_momentum
from moma_proto.convert import teacher as convert
from moma_proto.v1 import teacher_pb2 as pb

_ORDER_BYTES = 16


@dataclass(frozen=True, slots=True)
class SendingPolicy:
    """What may leave for a teacher.

    Args:
        encoding: How patches are encoded.
        weights_may_leave: Whether the student's weights may leave.
        log: File in which the site records what left; None: none, for measurements.
        teacher: Name of the teacher, as the record has it.
    """

    encoding: PixelEncoding = RAW
    weights_may_leave: bool = False
    log: Path | None = None
    teacher: str = ""


class TeacherEgress:
    """The one way out for patches, and for weights of a momentum session.

    Args:
        policy: What may leave for the teacher.
        metrics: Counts what leaves and what is suppressed.
    """

    def __init__(self, policy: SendingPolicy, metrics: ClientMetrics) -> None:
        self._policy = policy
        self._metrics = metrics
        self._log = None if policy.log is None else EgressLog(policy.log)

    def patches(self, query: PatchQuery) -> tuple[bytes | memoryview, ...]:
        """Returns a query as it leaves, in parts and unsealed, and records it."""
        parts, kind = convert.query_to_parts(query, self._policy.encoding)
        if self._log is not None:
            self._log.add(
                "teacher",
                "sent",
                "patches",
                teacher=self._policy.teacher,
                patches=len(query),
                bytes=sum(map(len, parts)),
                encoding=pb.PixelFormat.Name(kind)
                .removeprefix("PIXEL_FORMAT_")
                .lower(),
            )
        return parts

    def weights(
        self, head: SyncHead, content: bytes
    ) -> Iterator[pb.SyncMomentumRequest]:
        """Yields the messages of one sync, to be sealed.

        Raises:
            PolicyError: The site does not let weights leave.
        """
        if not self._policy.weights_may_leave:
            self._metrics.egress_blocked.labels(rule="weights").inc()
            if self._log is not None:
                self._log.add(
                    "teacher",
                    "blocked",
                    "weights",
                    teacher=self._policy.teacher,
                    rule="weights",
                )
            raise PolicyError("weights may not leave this site for a teacher")
        if self._log is not None:
            name, size = self._policy.teacher, len(content)
            self._log.add("teacher", "sent", "weights", teacher=name, bytes=size)
        return weights_to_wire(head, content)

    def count(self, sent_bytes: int) -> None:
        """Counts what leaves, as it travels: sealed."""
        self._metrics.egress_bytes.labels(channel="teacher").inc(sent_bytes)


def patches_to_wire(query: PatchQuery, encoding: PixelEncoding) -> pb.EmbedRequest:
    """Returns a query as it would leave."""
    return convert.query_to_wire(query, encoding)


def weights_to_wire(head: SyncHead, content: bytes) -> Iterator[pb.SyncMomentumRequest]:
    """Yields the messages of one sync as they would leave."""
    yield from convert_momentum.sync_to_wire(head, content)


def order_on_the_wire(key: bytes, digests: Sequence[bytes]) -> NDArray[np.int64]:
    """Returns the order in which the patches of a request are sent.

    The same for the same patches, in whatever order they come, so that a repetition is
    one byte for byte.

    Args:
        key: A secret of the site.
        digests: Digests of the patches, see `patch_digests`.
    """
    secret = hashlib.sha256(b"moma order of patches" + key).digest()
    hidden = [
        hashlib.blake2b(digest, key=secret, digest_size=_ORDER_BYTES).digest()
        for digest in digests
    ]
    return np.array(sorted(range(len(hidden)), key=hidden.__getitem__), np.int64)

"""Momentum sessions, between the wire and the domain.

The weights themselves are checked where they are put together
(`moma_core.teacher.ema_update`).
"""

from collections.abc import Iterator

from moma_core.errors import MalformedRequestError, TeacherUnavailableError
from moma_core.models.ema import MomentumTerms
from moma_core.models.settings import BatchNorm
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.ema_update import CHUNK_BYTES, SessionRequest, SyncHead
from moma_core.teacher.query import SESSION_ID_BYTES
from moma_proto.v1 import teacher_pb2 as pb

_DIGEST_BYTES = 32
_MOST_STEPS = 2**40

_TO_WIRE: "dict[BatchNorm, pb.BatchNorm.ValueType]" = {
    "moving": pb.BATCH_NORM_MOVING,
    "adapt": pb.BATCH_NORM_ADAPT,
}
_FROM_WIRE: dict[int, BatchNorm] = {wire: own for own, wire in _TO_WIRE.items()}


def session_request_to_wire(request: SessionRequest) -> pb.OpenSessionRequest:
    """Writes a request for a session."""
    terms = request.terms
    return pb.OpenSessionRequest(
        architecture=request.architecture,
        decay=terms.decay,
        batch_norm=_TO_WIRE[terms.batch_norm],
        class_order=terms.class_order or (),
    )


def session_request_from_wire(
    request: pb.OpenSessionRequest, card: TeacherCard
) -> SessionRequest:
    """Reads a request for a session.

    Raises:
        MalformedRequestError: It is not of this teacher's architecture, or a value
            is out of range.
    """
    if request.architecture != card.architecture:
        raise MalformedRequestError(
            f"momentum needs one architecture on both sides, the teacher's is "
            f"{card.architecture!r}, the student's {request.architecture[:80]!r}"
        )
    batch_norm = _FROM_WIRE.get(request.batch_norm)
    if batch_norm is None:
        raise MalformedRequestError(f"batch norm {request.batch_norm} is not served")
    if not 0 <= request.decay <= 1:
        raise MalformedRequestError(f"a decay is from 0 to 1, got {request.decay:g}")
    order = _class_order(request, len(card.class_names))
    terms = MomentumTerms(request.decay, batch_norm, order)
    return SessionRequest(request.architecture, terms)


def _class_order(
    request: pb.OpenSessionRequest, classes: int
) -> tuple[int, ...] | None:
    if not request.class_order:
        return None
    found = len(request.class_order)
    if found != classes or set(request.class_order) != set(range(classes)):
        raise MalformedRequestError(
            f"a class order holds 0 to {classes - 1} once each, got {found} entries: "
            f"{list(request.class_order[:8])}"
        )
    return tuple(request.class_order)


def session_id_from_wire(response: pb.OpenSessionResponse) -> bytes:
    """Reads the id of a session that the teacher opened.

    Raises:
        TeacherUnavailableError: It is none.
    """
    if len(response.session_id) != SESSION_ID_BYTES:
        raise TeacherUnavailableError(
            f"the teacher answered a session id of {len(response.session_id)} bytes"
        )
    return response.session_id


def sync_to_wire(head: SyncHead, content: bytes) -> Iterator[pb.SyncMomentumRequest]:
    """Yields the messages of an update."""
    yield pb.SyncMomentumRequest(
        head=pb.SyncMomentumHead(
            session_id=head.session,
            steps=head.steps,
            total_bytes=head.total_bytes,
            digest=head.digest,
        )
    )
    for start in range(0, len(content), CHUNK_BYTES):
        yield pb.SyncMomentumRequest(chunk=content[start : start + CHUNK_BYTES])


def sync_head_from_wire(request: pb.SyncMomentumRequest) -> SyncHead:
    """Reads the first message of an update.

    Raises:
        MalformedRequestError: It is no head, or a value is out of range.
    """
    if request.WhichOneof("part") != "head":
        raise MalformedRequestError("an update begins with its head")
    head = request.head
    if not 1 <= head.steps <= _MOST_STEPS:
        raise MalformedRequestError(
            f"an update is of 1 to {_MOST_STEPS} steps, got {head.steps}"
        )
    if len(head.digest) != _DIGEST_BYTES:
        raise MalformedRequestError(
            f"a SHA-256 has {_DIGEST_BYTES} bytes, got {len(head.digest)}"
        )
    return SyncHead(head.session_id, head.steps, head.total_bytes, head.digest)


def chunk_from_wire(request: pb.SyncMomentumRequest) -> bytes:
    """Reads a further message of an update.

    Raises:
        MalformedRequestError: It is no chunk.
    """
    if request.WhichOneof("part") != "chunk":
        raise MalformedRequestError("after its head, an update has nothing but chunks")
    return request.chunk

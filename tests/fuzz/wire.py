"""What sites and teachers send each other, as far as a hostile party can shape it.

What is signed or sealed is so here too, by a party that means harm: its bytes come
through to the parser behind.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import torch
from google.protobuf.message import DecodeError, Message

from moma_core.audit.merkle import HASH_BYTES
from moma_core.end_to_end.hpke import SealingKey
from moma_core.end_to_end.sealed_messages import (
    MessageContext,
    OpenedRequest,
    Parties,
    PendingResponse,
    Sealed,
    open_request,
    seal_request,
)
from moma_core.errors import MalformedRequestError, TeacherUnavailableError
from moma_core.teacher.card.bounds import Description, RequestBounds
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.card.reference_patch import expect
from moma_core.teacher.card.signed import IssuedCard, SealingOffer, SignedCard
from moma_core.teacher.ema_update import IncomingUpdate, SyncHead, weights_to_bytes
from moma_core.teacher.pixel_encoding import PixelEncoding
from moma_core.teacher.query import EmbedResult, PatchQuery
from moma_core.teacher.refusal import Refusal
from moma_proto.convert import audit as convert_audit
from moma_proto.convert import momentum as convert_momentum
from moma_proto.convert import sealed as convert_sealed
from moma_proto.convert import teacher as convert
from moma_proto.oip import open_inference_pb2 as oip
from moma_proto.v1 import audit_pb2
from moma_proto.v1 import teacher_pb2 as pb
from moma_proto.v1.sealed_pb2 import SealedRequest
from moma_server.rpc.places import Place
from moma_server.teacher.end_to_end.endpoint import UnsealedRequest
from moma_server.teacher.inference.open_inference import arrays_of
from tests.fuzz.target import Target, by_first_byte
from tests.support.teacher.sealed import TEACHER, key_of

SIDE_PX = 8
CARD = TeacherCard(
    name=TEACHER,
    digest="a" * 64,
    architecture="resnet18",
    embedding_length=4,
    organ="colon",
    task="tissue types",
    class_names=("benign", "malignant"),
    input_size_px=SIDE_PX,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    precision="float32",
)
BOUNDS = RequestBounds(SIDE_PX, 4)
REQUEST_ID = bytes(range(16))
QUERY = PatchQuery(
    REQUEST_ID, np.arange(SIDE_PX**2 * 3, dtype=np.uint8).reshape(1, SIDE_PX, -1, 3)
)
RESULT = EmbedResult(
    REQUEST_ID, np.ones((1, 4), np.float32), np.ones((1, 2), np.float32)
)
_MOST_FIELDS = 1028
_SEALING = SealingKey("x25519", bytes(range(32)))
_HYBRID = SealingKey("mlkem768-x25519", bytes(range(96)))
_PARTIES = Parties(
    federation="moma", site="site-a", teacher=TEACHER, card_digest=bytes(32)
)
_CONTEXT = MessageContext(method="Embed", request_id=REQUEST_ID, issued_ms=1)


def _enclosed(kind: type[Message], use: Callable[[Any], object]) -> Any:
    """Returns what reads a message that a site has sealed."""

    def read(content: bytes) -> object:
        opened = OpenedRequest(bytes(32) + content, _SEALING.public, b"", bytes(32))
        sealed = SealedRequest(site="site-a", request_id=REQUEST_ID)
        place = Place(asyncio.Semaphore(), time.monotonic)
        key = key_of(TEACHER)
        request = UnsealedRequest(sealed, kind, opened, key, _MOST_FIELDS, place)
        return use(request.read())

    return read


def _answered(kind: type[Message], use: Callable[[Any], object]) -> Any:
    """Returns what reads a message that a teacher has sealed."""

    def read(content: bytes) -> object:
        found = convert_sealed.content_from_sealed(content)
        if isinstance(found, Refusal):
            return found.error()
        try:
            message = kind.FromString(found)
        except DecodeError:
            raise TeacherUnavailableError("not readable") from None
        return use(message)

    return read


def embed_requests() -> Target:
    """Queries of a site: arrays and pictures."""
    kinds = ("raw", "png", "webp", "jpeg:90")
    encodings = [PixelEncoding.parse(kind) for kind in kinds]
    floats = replace(QUERY, pixels=QUERY.pixels.astype(np.float32) / 255)
    seeds = [convert.query_to_wire(QUERY, encoding) for encoding in encodings]
    seeds.append(convert.query_to_wire(floats))
    return Target(
        _enclosed(pb.EmbedRequest, lambda one: convert.query_from_wire(one, BOUNDS)),
        tuple(seed.SerializeToString() for seed in seeds),
    )


def embed_responses() -> Target:
    """Outputs of a teacher, and its refusals."""
    response = convert.result_to_wire(RESULT).SerializeToString()
    refused = Refusal.of(MalformedRequestError("no"))
    return Target(
        _answered(
            pb.EmbedResponse, lambda one: convert.result_from_wire(one, QUERY, CARD)
        ),
        (
            convert_sealed.response_content(response),
            convert_sealed.refusal_content(refused),
        ),
    )


_TENSORS = {
    "a.weight": torch.ones(2, 3),
    "a.running_var": torch.ones(3),
    "n": torch.zeros((), dtype=torch.int64),
}
_UPDATE = weights_to_bytes(_TENSORS)


def _opened_session(message: pb.OpenSessionRequest) -> object:
    return convert_momentum.session_request_from_wire(message, CARD)


def _synced(content: bytes) -> object:
    head = SyncHead(b"", 1, len(content), hashlib.sha256(content).digest())
    update = IncomingUpdate(head, _TENSORS)
    for start in range(0, len(content), 100):
        update.add(content[start : start + 100])
    return update.weights()


def momentum() -> Target:
    """Sessions of a site, and the updates of its copy."""
    opening = pb.OpenSessionRequest(
        architecture="resnet18",
        decay=0.9,
        batch_norm=pb.BATCH_NORM_MOVING,
        class_order=(1, 0),
    )
    head = SyncHead(REQUEST_ID, 3, len(_UPDATE), hashlib.sha256(_UPDATE).digest())
    messages = list(convert_momentum.sync_to_wire(head, _UPDATE))
    kind = pb.SyncMomentumRequest
    return Target(
        by_first_byte(
            _enclosed(pb.OpenSessionRequest, _opened_session),
            _enclosed(kind, convert_momentum.sync_head_from_wire),
            _enclosed(kind, convert_momentum.chunk_from_wire),
            _synced,
            _answered(pb.OpenSessionResponse, convert_momentum.session_id_from_wire),
        ),
        (
            b"\0" + opening.SerializeToString(),
            b"\1" + messages[0].SerializeToString(),
            b"\2" + messages[1].SerializeToString(),
            b"\3" + _UPDATE,
            b"\4" + convert_sealed.response_content(b"\x0a\x10" + REQUEST_ID),
        ),
    )


def _find(key_id: bytes) -> SealingKey:
    return _HYBRID if key_id == _HYBRID.public.key_id else _SEALING


def _open_request(content: bytes) -> object:
    """Opens what a pinned site has signed, whatever it sealed, and responds."""
    key = _HYBRID if content[:1] == b"\1" else _SEALING
    content, key_id = content[1:], key.public.key_id
    bound = _CONTEXT.to_bytes(_PARTIES, key_id) + hashlib.sha256(content).digest()
    signature = key_of("site-a").sign("sealed question", bound)
    opened = open_request(
        _CONTEXT,
        _PARTIES,
        Sealed(content, signature),
        key_of("site-a").public,
        (key_id, _find),
    )
    return opened.respond(b"response", key_of(TEACHER))


def _with_reply_key(content: bytes) -> object:
    """Opens what a pinned site has sealed well, with a reply key that is none."""
    bound = _CONTEXT.to_bytes(_PARTIES, _SEALING.public.key_id)
    sealed = _SEALING.public.seal(content, bound)
    return _open_request(b"\0" + sealed)


def sealed_requests() -> Target:
    """Sealed bytes that a pinned site has signed, and the reply key in them."""
    seeds = []
    for first, key in ((b"\0\0", _SEALING), (b"\0\1", _HYBRID)):
        sealed, _ = seal_request(
            _CONTEXT, _PARTIES, [b"hello"], key.public, key_of("site-a")
        )
        seeds.append(first + sealed.content)
    reply = SealingKey("x25519", bytes(reversed(range(32)))).public.raw
    low_order = bytes(32)  # of the shared secret's point
    return Target(
        by_first_byte(_open_request, _with_reply_key),
        (*seeds, b"\1" + reply + b"hello", b"\1" + low_order, b"\0\0" + low_order * 2),
    )


def sealed_responses() -> Target:
    """Sealed bytes that the pinned teacher has signed."""
    reply, context = SealingKey("x25519", bytes(range(1, 33))), b"context"
    pending = PendingResponse(reply, context)

    def read(content: bytes) -> object:
        signed = context + hashlib.sha256(content).digest()
        signature = key_of(TEACHER).sign("sealed answer", signed)
        return pending.open(Sealed(content, signature), key_of(TEACHER).public)

    return Target(read, (reply.public.seal(b"hello", context), bytes(64)))


def cards() -> Target:
    """A card that its teacher has signed, whatever it says."""
    key, offers = key_of(TEACHER), []
    for each in (_SEALING, _HYBRID):
        offers.append(SealingOffer(each.public, datetime(2030, 1, 1, tzinfo=UTC)))
    golden = expect(
        np.ones(4, np.float32), np.ones(2, np.float32), precision="float32", png=_png()
    )
    full = replace(CARD, golden=golden, mpp=0.5, membership_advantage=0.1)
    issued = [
        IssuedCard("moma", 7, Description(card, BOUNDS), tuple(offers[:count]))
        for card, count in ((CARD, 1), (full, 2))
    ]

    def read(content: bytes) -> object:
        signed = SignedCard(content, key.sign("teacher card", content))
        return IssuedCard.opened(signed, key.public).card_digest

    return Target(read, tuple(issue.to_json() for issue in issued))


def _png() -> bytes:
    (picture,) = PixelEncoding.parse("png").pictures(QUERY.pixels)  # type: ignore[arg-type]
    return picture


class _Kind(NamedTuple):
    message: type[Message]
    use: Callable[[Any], object]


def audit_messages() -> Target:
    """Receipts, states and proofs of a teacher's log."""
    kinds = (
        _Kind(audit_pb2.Checkpoint, convert_audit.checkpoint_from_wire),
        _Kind(audit_pb2.Receipt, convert_audit.receipt_from_wire),
        _Kind(audit_pb2.ReceiptsResponse, convert_audit.receipts_from_wire),
        _Kind(audit_pb2.ConsistencyProofResponse, convert_audit.proof_from_wire),
    )
    state = audit_pb2.Checkpoint(
        origin="moma/teacher-a/1",
        size=3,
        root=bytes(HASH_BYTES),
        time_ms=1,
        key=str(key_of(TEACHER).public),
        signature=bytes(64),
    )
    receipt = audit_pb2.Receipt(
        leaf=b"{}", salt=bytes(16), place=1, proof=[bytes(HASH_BYTES)], checkpoint=state
    )
    return Target(
        by_first_byte(*(_answered(*kind) for kind in kinds)),
        tuple(
            bytes([place])
            + convert_sealed.response_content(message.SerializeToString())
            for place, message in enumerate(
                (
                    state,
                    receipt,
                    audit_pb2.ReceiptsResponse(receipts=[receipt]),
                    audit_pb2.ConsistencyProofResponse(
                        proof=[bytes(HASH_BYTES)], checkpoint=state
                    ),
                )
            )
        ),
    )


def model_server_responses() -> Target:
    """What a model server of another make answers its teacher."""

    def read(content: bytes) -> object:
        try:
            response = oip.ModelInferResponse.FromString(content)
        except DecodeError:
            return None  # gRPC's to refuse
        return arrays_of(response)

    tensor = oip.ModelInferResponse.InferOutputTensor
    raw = oip.ModelInferResponse(
        outputs=[tensor(name="e", datatype="FP32", shape=[1, 4])],
        raw_output_contents=[bytes(16)],
    )
    plain = oip.ModelInferResponse(
        outputs=[tensor(name="e", datatype="FP64", shape=[1, 2])]
    )
    plain.outputs[0].contents.fp64_contents.extend([1.0, 2.0])
    return Target(read, (raw.SerializeToString(), plain.SerializeToString()))

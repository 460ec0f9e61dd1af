"""What site and teacher send each other: queries, responses, sealed messages."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from moma_core.end_to_end.hpke import SealingKey
from moma_core.end_to_end.sealed_messages import (
    MessageContext,
    Parties,
    Sealed,
    open_request,
    seal_request,
)
from moma_core.teacher.card.bounds import RequestBounds
from moma_core.teacher.ema_update import IncomingUpdate, SyncHead
from moma_core.teacher.pixel_encoding import PixelEncoding
from moma_core.teacher.query import EmbedResult, PatchQuery
from moma_proto.convert import audit as convert_audit
from moma_proto.convert import momentum as convert_momentum
from moma_proto.convert import sealed as convert_sealed
from moma_proto.convert import teacher as convert
from moma_proto.oip import open_inference_pb2 as oip
from moma_proto.v1 import audit_pb2, sealed_pb2
from moma_proto.v1 import teacher_pb2 as pb
from moma_server.teacher.inference.open_inference import arrays_of
from tests.support.site.teacher_caches import CARD as OTHER_CARD
from tests.support.teacher.sealed import TEACHER, key_of
from tests.unit.bad_input.table import BadInput

_SIDE_PX = 8
_CARD = replace(OTHER_CARD, embedding_length=4, architecture="resnet18")
_BOUNDS = RequestBounds(_SIDE_PX, 4)
_ID = bytes(range(16))
_PIXELS = np.zeros((1, _SIDE_PX, _SIDE_PX, 3), np.uint8)
_QUERY = PatchQuery(_ID, _PIXELS)
_SEALING = SealingKey("x25519", bytes(range(32)))
_PARTIES = Parties(
    federation="moma", site="site-a", teacher=TEACHER, card_digest=bytes(32)
)
_CONTEXT = MessageContext(method="Embed", request_id=_ID, issued_ms=1)


def _query(name: str, says: str, encoding: str = "raw", **fields: Any) -> BadInput:
    def read(_: object) -> object:
        request = convert.query_to_wire(_QUERY, PixelEncoding.parse(encoding))
        for field, value in fields.items():
            if isinstance(value, list):
                del request.pictures[:]
                request.pictures.extend(value)
            else:
                setattr(request, field, value)
        return convert.query_from_wire(request, _BOUNDS)

    return BadInput(name, read, says)


def _response(name: str, says: str, **fields: Any) -> BadInput:
    def read(_: object) -> object:
        result = EmbedResult(
            _ID, np.ones((1, 4), np.float32), np.ones((1, 2), np.float32)
        )
        response = convert.result_to_wire(result)
        for field, value in fields.items():
            setattr(response, field, value)
        return convert.result_from_wire(response, _QUERY, _CARD)

    return BadInput(name, read, says)


def _session(name: str, says: str, **fields: Any) -> BadInput:
    known = {"architecture": "resnet18", "decay": 0.9, "batch_norm": 1}
    request = pb.OpenSessionRequest(**{**known, **fields})
    return BadInput(
        name,
        lambda _: convert_momentum.session_request_from_wire(request, _CARD),
        says,
    )


def _updated(head: SyncHead, content: bytes) -> object:
    update = IncomingUpdate(head, {})
    update.add(content)
    return update.weights()


def _opened(change: Callable[[bytes], bytes], *, signer: str = "site-a") -> object:
    key = _SEALING.public
    sealed, _ = seal_request(_CONTEXT, _PARTIES, [b"x"], key, key_of(signer))
    content = change(sealed.content)
    bound = _CONTEXT.to_bytes(_PARTIES, key.key_id) + hashlib.sha256(content).digest()
    signature = key_of(signer).sign("sealed question", bound)
    return open_request(
        _CONTEXT,
        _PARTIES,
        Sealed(content, signature),
        key_of("site-a").public,
        (key.key_id, lambda _: _SEALING),
    )


def _inferred(**output: Any) -> object:
    tensor = oip.ModelInferResponse.InferOutputTensor(name="e", **output)
    return arrays_of(
        oip.ModelInferResponse(outputs=[tensor], raw_output_contents=[bytes(16)])
    )


_STATE = audit_pb2.Checkpoint(origin="moma/teacher-a/1", root=bytes(31))

MESSAGES = (
    _query(
        "a request id that is too short",
        "a request id has 16 bytes, got 1",
        request_id=b"x",
    ),
    _query("a request of no patch", "a request holds 1 to 4 patches, got 0", patches=0),
    _query(
        "a request of too many patches",
        "a request holds 1 to 4 patches, got 5",
        patches=5,
    ),
    _query("patches of another size", "patches are 8 x 8 px, got 9 x 8", height_px=9),
    _query("an unknown pixel format", "pixel format 99 is not served", format=99),
    _query(
        "fewer pixels than were said",
        "1 patches take 192 bytes, got 10",
        pixels=bytes(10),
    ),
    _query(
        "pixels that are no numbers",
        "pixel values are finite and from 0 to 1",
        format=2,
        pixels=b"\xff" * 768,
    ),
    _query(
        "a damaged picture in a request",
        "a PNG picture is damaged",
        "png",
        pictures=[b"x"],
    ),
    _query(
        "more pictures than were said",
        "1 patches are as many pictures and no array, got 2 pictures",
        "png",
        pictures=[b"x", b"y"],
    ),
    _query(
        "a session id that is too short",
        "a session id has 16 bytes, got 1",
        session_id=b"x",
    ),
    _response(
        "a response to another request",
        "the teacher answered another request",
        request_id=bytes(16),
    ),
    _response(
        "half a response",
        "the teacher answered 8 bytes where 16 are due",
        embedding=bytes(8),
    ),
    _response(
        "a response of NaN",
        "the teacher answered NaN or infinity",
        embedding=b"\xff" * 16,
    ),
    _session(
        "a session of another architecture",
        "momentum needs one architecture on both sides, the teacher's is "
        "'resnet18', the student's 'vit'",
        architecture="vit",
    ),
    _session("a decay above one", "a decay is from 0 to 1, got 1.5", decay=1.5),
    _session(
        "a decay that is no number",
        "a decay is from 0 to 1, got nan",
        decay=float("nan"),
    ),
    _session(
        "an order of classes that are not there",
        "a class order holds 0 to 1 once each, got 2 entries: [0, 7]",
        class_order=(0, 7),
    ),
    BadInput(
        "an update without its head",
        lambda _: convert_momentum.sync_head_from_wire(pb.SyncMomentumRequest()),
        "an update begins with its head",
    ),
    BadInput(
        "an update larger than the model",
        lambda _: IncomingUpdate(SyncHead(_ID, 1, 10**9, bytes(32)), {}),
        "the update has 1000000000 bytes, the model at most 512",
    ),
    BadInput(
        "an update that is not what was said",
        lambda _: _updated(SyncHead(_ID, 1, 4, bytes(32)), b"abcd"),
        "the update's digest is 88d4266fd4e6, declared was 000000000000",
    ),
    BadInput(
        "a sealed request that was changed",
        lambda _: _opened(lambda c: c[:-1]),
        "the sealed bytes do not open: changed, or for somebody else",
    ),
    BadInput(
        "a sealed request of nothing",
        lambda _: _opened(lambda _: b""),
        "the sealed bytes do not open: changed, or for somebody else",
    ),
    BadInput(
        "a request that another site signed",
        lambda _: _opened(bytes, signer="site-b"),
        "the request is not signed with the key approved for site site-a, or "
        "not for this teacher, card, method and request id",
    ),
    BadInput(
        "a message of a million fields",
        lambda _: convert_sealed.count_fields(memoryview(b"\x08\x01" * 2000), 1000),
        "a message has at most 1000 fields here",
    ),
    BadInput(
        "an answer that is no message",
        lambda _: convert_sealed.content_from_sealed(b"\xff"),
        "the teacher's answer is not readable",
    ),
    BadInput(
        "a refusal without a reason",
        lambda _: convert_sealed.content_from_sealed(
            sealed_pb2.SealedContent(refusal={}).SerializeToString()
        ),
        "the teacher refuses and does not say why",
    ),
    BadInput(
        "a root of a log of 31 bytes",
        lambda _: convert_audit.checkpoint_from_wire(_STATE),
        "the checkpoint breaks its contract",
    ),
    BadInput(
        "a receipt of a megabyte",
        lambda _: convert_audit.receipt_from_wire(
            audit_pb2.Receipt(leaf=bytes(1 << 20))
        ),
        "a receipt's entry of 1048576 bytes is not read",
    ),
    BadInput(
        "a proof of a thousand hashes",
        lambda _: convert_audit.receipt_from_wire(
            audit_pb2.Receipt(proof=[bytes(32)] * 1000)
        ),
        "a proof of 1000 hashes breaks its contract",
    ),
    BadInput(
        "a model server's tensor of a negative shape",
        lambda _: _inferred(datatype="FP32", shape=[-1, -4]),
        "the model server gives 4 values of 'e' and says that its shape is (-1, -4)",
    ),
    BadInput(
        "a model server's tensor of text",
        lambda _: _inferred(datatype="BYTES", shape=[4]),
        "the model server gives 'e' as 'BYTES'; FP16, FP32, FP64 are read",
    ),
)

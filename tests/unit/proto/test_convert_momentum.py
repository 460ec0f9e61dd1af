import pytest

from moma_core.errors import MalformedRequestError, TeacherUnavailableError
from moma_core.models.ema import MomentumTerms
from moma_core.teacher.ema_update import CHUNK_BYTES, SessionRequest, SyncHead
from moma_proto.convert import momentum as convert
from moma_proto.v1 import teacher_pb2 as pb
from tests.support.teacher.teacher_server import CARD


@pytest.mark.parametrize(
    "terms",
    [
        MomentumTerms(0.999),
        MomentumTerms(0.0, "adapt", (1, 0)),
        MomentumTerms(1.0, "moving", (0, 1)),
    ],
)
def test_what_is_asked_survives_the_wire(terms: MomentumTerms) -> None:
    asked = SessionRequest(CARD.architecture, terms)

    wire = convert.session_request_to_wire(asked).SerializeToString()
    read = pb.OpenSessionRequest.FromString(wire)

    assert convert.session_request_from_wire(read, CARD) == asked


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"architecture": "x" * 500}, r"'mean colour', the student's 'x{80}'$"),
        ({"batch_norm": 0}, "batch norm 0 is not served"),
        ({"batch_norm": 7}, "batch norm 7 is not served"),
        ({"decay": 1.01}, "a decay is from 0 to 1, got 1.01"),
        ({"decay": float("nan")}, "a decay is from 0 to 1, got nan"),
        ({"class_order": [0]}, "a class order holds 0 to 1 once each"),
        ({"class_order": [0, 0]}, "a class order holds 0 to 1 once each"),
        ({"class_order": [1, 2]}, "a class order holds 0 to 1 once each"),
    ],
)
def test_what_cannot_be_is_refused(changed: dict[str, object], sentence: str) -> None:
    values = {
        "architecture": CARD.architecture,
        "decay": 0.9,
        "batch_norm": pb.BATCH_NORM_MOVING,
        **changed,
    }

    with pytest.raises(MalformedRequestError, match=sentence):
        convert.session_request_from_wire(pb.OpenSessionRequest(**values), CARD)


def test_an_update_goes_out_in_chunks_behind_its_head() -> None:
    content = bytes(range(256)) * (CHUNK_BYTES // 128)  # two chunks
    head = SyncHead(bytes(16), 5, len(content), bytes(32))

    first, *rest = convert.sync_to_wire(head, content + b"!")

    assert convert.sync_head_from_wire(first) == head
    chunks = list(map(convert.chunk_from_wire, rest))
    assert b"".join(chunks) == content + b"!"
    assert [len(chunk) for chunk in chunks] == [CHUNK_BYTES, CHUNK_BYTES, 1]


def test_a_session_id_of_another_length_is_none() -> None:
    response = pb.OpenSessionResponse(session_id=b"short")

    with pytest.raises(TeacherUnavailableError, match="a session id of 5 bytes"):
        convert.session_id_from_wire(response)

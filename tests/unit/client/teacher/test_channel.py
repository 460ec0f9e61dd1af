"""What comes back is bounded by what was asked, before it is parsed."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from moma_client.teacher.channel import _OPTIONS, SMALL_BYTES
from moma_proto.v1 import sealed_pb2
from moma_proto.v1.audit_pb2_grpc import AuditServiceStub
from moma_proto.v1.teacher_pb2_grpc import TeacherServiceStub

EMPTY_HASH = b"\x0a\x00"  # two bytes on the wire, many more once parsed
WAIT_SECONDS = 60.0


class Saying(grpc.GenericRpcHandler):
    """Says the same whatever it is asked."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def service(self, _details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(lambda _, __: self._answer)


@contextmanager
def told(answer: bytes) -> Iterator[grpc.Channel]:
    server = grpc.server(
        ThreadPoolExecutor(1), options=[("grpc.max_send_message_length", -1)]
    )
    server.add_generic_rpc_handlers((Saying(answer),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}", _OPTIONS) as channel:
            yield channel
    finally:
        server.stop(None).wait(WAIT_SECONDS)


def test_a_proof_of_very_many_hashes_is_not_taken() -> None:
    request = sealed_pb2.SealedRequest()
    with (
        told(EMPTY_HASH * SMALL_BYTES) as channel,
        pytest.raises(grpc.RpcError, match="RESOURCE_EXHAUSTED"),
    ):
        AuditServiceStub(channel).ConsistencyProof(request, timeout=WAIT_SECONDS)


def test_an_answer_about_the_budget_is_small_and_receipts_may_be_large() -> None:
    request = sealed_pb2.SealedRequest()
    answer = sealed_pb2.SealedResponse(sealed=bytes(2 * SMALL_BYTES))
    with told(answer.SerializeToString()) as channel:
        with pytest.raises(grpc.RpcError, match="RESOURCE_EXHAUSTED"):
            TeacherServiceStub(channel).Budget(request, timeout=WAIT_SECONDS)

        receipts = AuditServiceStub(channel).Receipts(request, timeout=WAIT_SECONDS)

    assert receipts == answer

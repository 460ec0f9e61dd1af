"""Tells the coordinator's relay which teacher a call is for."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import grpc

Metadata = tuple[tuple[str, str], ...]

Foreign = Any  # gRPC's own, which it does not type

Continuation = Callable[[Foreign, Foreign], Foreign]


def relayed_channel(channel: grpc.Channel, teacher: str, thread: str) -> grpc.Channel:
    """Returns a channel whose calls all carry the relay's metadata.

    Args:
        channel: To the relay.
        teacher: Who is meant, by its name in the federation.
        thread: Hexadecimal and the same for all calls of one user of a teacher: of
            several replicas the relay takes them to one, where a momentum session has
            its copy.
    """
    metadata = (("moma-teacher", teacher), ("moma-thread", thread))
    return grpc.intercept_channel(channel, _Labels(metadata))


class _CallDetails(NamedTuple):
    """What gRPC asks of the details of a call."""

    method: str
    timeout: float | None
    metadata: Metadata
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class _Labels(
    grpc.UnaryUnaryClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Adds metadata to every kind of call that the teacher has."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata

    def _labelled(self, details: Foreign) -> _CallDetails:
        return _CallDetails(
            details.method,
            details.timeout,
            (*(details.metadata or ()), *self._metadata),
            details.credentials,
            details.wait_for_ready,
            details.compression,
        )

    def intercept_unary_unary(
        self, continuation: Continuation, client_call_details: Foreign, request: Foreign
    ) -> Foreign:
        return continuation(self._labelled(client_call_details), request)

    def intercept_stream_unary(
        self,
        continuation: Continuation,
        client_call_details: Foreign,
        request_iterator: Foreign,
    ) -> Foreign:
        return continuation(self._labelled(client_call_details), request_iterator)

    def intercept_stream_stream(
        self,
        continuation: Continuation,
        client_call_details: Foreign,
        request_iterator: Foreign,
    ) -> Foreign:
        return continuation(self._labelled(client_call_details), request_iterator)


SMALL_BYTES = 64 * 1024

_DESCRIPTION_BYTES = 2**20

_RECEIPTS_BYTES = 9 * 2**20

_TEACHER, _AUDIT = "moma.v1.TeacherService", "moma.v1.AuditService"

_LARGEST = {
    _TEACHER: {
        "Describe": _DESCRIPTION_BYTES,
        "Budget": SMALL_BYTES,
        "OpenSession": SMALL_BYTES,
        "SyncMomentum": SMALL_BYTES,
        "CloseSession": SMALL_BYTES,
    },
    _AUDIT: {
        "LatestCheckpoint": SMALL_BYTES,
        "InclusionProof": SMALL_BYTES,
        "ConsistencyProof": SMALL_BYTES,
        "Receipts": _RECEIPTS_BYTES,
    },
}


def service_config() -> str:
    """Returns the bounds as gRPC reads them; a method without one has the channel's."""
    bounds = [
        {
            "name": [{"service": service, "method": method}],
            "maxResponseMessageBytes": most,
        }
        for service, methods in _LARGEST.items()
        for method, most in methods.items()
    ]
    return json.dumps({"methodConfig": bounds})

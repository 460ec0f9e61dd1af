"""What a teacher's server allows, and what follows from it for gRPC."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from moma_core.audit.receipt import LARGEST_RECEIPT_BYTES
from moma_core.end_to_end.sealed_messages import SEALING_BYTES
from moma_core.policy.policy import PolicyEnforcer, TeacherPolicy
from moma_core.teacher.card.bounds import (
    Description,
    RequestBounds,
    largest_response_bytes,
)
from moma_core.teacher.ema_update import CHUNK_BYTES
from moma_server.rpc.authorization import CallBounds
from moma_server.rpc.limits import ConnectionBounds
from moma_server.teacher.inference.backend import TeacherBackend
from moma_server.teacher.inference.fair_queue import QueueBounds
from moma_server.teacher.momentum.sessions import MomentumPolicy
from moma_server.teacher.wire.servicer import StreamLimits

_RECEIPTS_BYTES = 256 * LARGEST_RECEIPT_BYTES  # of one answer about receipts


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherServerSettings:
    """What a teacher's server allows.

    Args:
        host: Address to listen at; None: none, sites come through a relay.
        port: Port to listen at; 0 takes a free one.
        max_patches_per_request: Patches of one request at most; fewer where its message
            would be too large, or too large for a site's share of the queue.
        max_batch_patches: Patches of one pass of the model; no request has more.
        queue: How much may wait for the model.
        stream: What one stream may hold.
        rules: Policy that each site is held to, beside its budget.
        momentum: What a momentum session may do; None: there are none.
        calls: How many calls a port serves at once.
        connections: How many connections a port serves, and for how long.
        sweep_seconds: Between two checks of the open calls' certificates, and of the
            sealing keys.
        checkpoint_seconds: After which the log is signed anew.
        abandoned_after_seconds: A query that was charged and not settled for so long
            is logged as abandoned: its gateway died.
        relayed_socket: Path where a relay on this machine brings calls, without a
            certificate; None: nowhere.
    """

    host: str | None = "127.0.0.1"
    port: int = 0
    max_patches_per_request: int = 256
    max_batch_patches: int = 256
    queue: QueueBounds = field(default_factory=QueueBounds)
    stream: StreamLimits = field(default_factory=StreamLimits)
    rules: PolicyEnforcer = field(
        default_factory=lambda: PolicyEnforcer(TeacherPolicy())
    )
    momentum: MomentumPolicy | None = None
    calls: CallBounds = field(default_factory=CallBounds)
    connections: ConnectionBounds = field(default_factory=ConnectionBounds)
    sweep_seconds: float = 1.0
    checkpoint_seconds: float = 60.0
    abandoned_after_seconds: float = 600.0
    relayed_socket: Path | None = None


def description_of(
    settings: TeacherServerSettings, backend: TeacherBackend
) -> Description:
    """Returns card and bounds of the teacher; its owner's policy stands on the card."""
    policy = settings.rules.policy
    card = replace(
        backend.card,
        momentum_sessions=settings.momentum is not None,
        outputs=policy.outputs.card,
        golden=backend.card.golden and backend.card.golden.disclosed(policy.outputs),
    )
    bounds = RequestBounds.within(
        settings.queue.site_bytes,
        side_px=card.input_size_px,
        max_patches=settings.max_patches_per_request,
    )
    return Description(card, bounds)


def grpc_options(
    settings: TeacherServerSettings, description: Description, *, streams: int
) -> list[tuple[str, int]]:
    """Returns the options of a port that serves a teacher.

    Args:
        settings: Settings of the server.
        description: Card and bounds of the teacher.
        streams: Calls open at once on one connection.
    """
    chunk = 0 if settings.momentum is None else CHUNK_BYTES + SEALING_BYTES
    request = max(description.bounds.max_message_bytes, chunk)
    response = (
        largest_response_bytes(*description) + LARGEST_RECEIPT_BYTES + SEALING_BYTES
    )
    return [
        ("grpc.max_receive_message_length", request),
        ("grpc.max_send_message_length", max(response, _RECEIPTS_BYTES)),
        *settings.connections.options(streams=streams),
    ]

"""A small real teacher whose copies move, and bare calls to its sessions."""

import asyncio
import copy
import hashlib
import os
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import torch
from torch import Tensor

from moma_core.errors import MomaError
from moma_core.models.ema import MomentumState, MomentumTerms, updated_weights
from moma_core.models.encoder import Encoder
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.ema_update import (
    SessionRequest,
    SyncHead,
    weights_to_bytes,
)
from moma_proto.convert import momentum as convert
from moma_proto.v1 import teacher_pb2 as pb
from moma_server.teacher.inference.backend import SessionModel, TorchBackend
from moma_server.teacher.momentum.sessions import MomentumPolicy, MomentumSessions
from moma_server.teacher.settings import TeacherServerSettings
from tests.support.machine.waiting import WAIT_SECONDS
from tests.support.site.tiny import ConvEncoder
from tests.support.teacher.teacher_server import SIDE_PX

ARCHITECTURE = "tiny convolution"
TERMS = MomentumTerms(0.9, class_order=(0, 1, 2))
FREELY = MomentumPolicy(lowest_decay=0.0, most_distance=1e6, syncs_per_minute=60_000)


def card_of(encoder: Encoder) -> TeacherCard:
    return TeacherCard(
        name="teacher-a",
        digest="0" * 64,
        architecture=ARCHITECTURE,
        embedding_length=encoder.embedding_length,
        organ="colon",
        task="tissue types",
        class_names=("a", "b", "c"),
        input_size_px=SIDE_PX,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        precision="float32",
    )


class KeptCopies(TorchBackend):
    """The real backend; a test may look at the copies that it made."""

    def __init__(self, encoder: Encoder, card: TeacherCard | None = None) -> None:
        encoder.eval().requires_grad_(False)
        super().__init__(encoder, card or card_of(encoder), torch.device("cpu"))
        self.copies: list[SessionModel] = []

    def copied(self, terms: MomentumTerms) -> SessionModel:
        self.copies.append(super().copied(terms))
        return self.copies[-1]


class HeldMove(SessionModel):
    """A copy whose move waits until the test lets it go on."""

    free: threading.Event

    def move_to(self, state: MomentumState) -> None:
        assert self.free.wait(WAIT_SECONDS)
        super().move_to(state)


class HeldMoves(KeptCopies):
    """The real backend; its copies move once `free` is set."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder)
        self.free = threading.Event()

    def copied(self, terms: MomentumTerms) -> SessionModel:
        made = super().copied(terms)
        held = HeldMove(self.encoder, made.encoder, made.predict, terms)
        held.free = self.free
        return held


def tiny_backend(seed: int = 0) -> KeptCopies:
    torch.manual_seed(seed)
    return KeptCopies(ConvEncoder())


def tiny_student(seed: int = 1) -> ConvEncoder:
    """Returns an encoder with statistics that are not where they start."""
    torch.manual_seed(seed)
    student = ConvEncoder()
    student.norm.running_mean.add_(torch.randn(8))
    student.norm.running_var.add_(torch.rand(8))
    return student


def settings(
    policy: MomentumPolicy | None = FREELY, **others: Any
) -> TeacherServerSettings:
    return TeacherServerSettings(max_patches_per_request=16, momentum=policy, **others)


async def opened(
    stub: Any, terms: MomentumTerms = TERMS, architecture: str = ARCHITECTURE
) -> bytes:
    asked = convert.session_request_to_wire(SessionRequest(architecture, terms))
    response = await stub.OpenSession(asked, timeout=WAIT_SECONDS)
    identity: bytes = response.session_id
    return identity


def update(
    session: bytes, weights: dict[str, Tensor], steps: int = 1, **changed: Any
) -> Iterator[pb.SyncMomentumRequest]:
    """Yields the messages of an update; `changed` overwrites what its head says."""
    content = changed.pop("content", weights_to_bytes(weights))
    head = {"total_bytes": len(content), "digest": hashlib.sha256(content).digest()}
    return convert.sync_to_wire(
        SyncHead(session, steps, **{**head, **changed}), content
    )


async def sync(stub: Any, messages: Iterator[pb.SyncMomentumRequest]) -> None:
    await stub.SyncMomentum(iter(list(messages)), timeout=WAIT_SECONDS)


async def refused(call: Any) -> Any:
    """Awaits a call that must fail, and returns how it did."""
    try:
        await call
    except (grpc.aio.AioRpcError, MomaError) as error:
        return error
    raise AssertionError("no refusal")


async def sync_refused(stub: Any, messages: Iterator[pb.SyncMomentumRequest]) -> Any:
    """As `refused`, over the blocking API: see `refusal`."""

    def blocking() -> Any:
        try:
            stub.blocking.SyncMomentum(messages, timeout=WAIT_SECONDS)
        except (grpc.RpcError, MomaError) as error:
            return error
        raise AssertionError("no refusal")

    return await asyncio.to_thread(blocking)


def weights(student: Encoder, terms: MomentumTerms = TERMS) -> dict[str, Tensor]:
    return updated_weights(student, terms)


def query(
    session: bytes = b"", patches: int = 2, request_id: bytes | None = None
) -> pb.EmbedRequest:
    """Returns a request of patches that are all alike from call to call."""
    pixels = np.random.default_rng(0).integers(
        0, 256, (patches, SIDE_PX, SIDE_PX, 3), np.uint8
    )
    return pb.EmbedRequest(
        request_id=os.urandom(16) if request_id is None else request_id,
        patches=patches,
        height_px=SIDE_PX,
        width_px=SIDE_PX,
        format=pb.PIXEL_FORMAT_RGB_UINT8,
        pixels=pixels.tobytes(),
        session_id=session,
    )


def embedding(answer: pb.EmbedResponse) -> Tensor:
    values = np.frombuffer(answer.embedding, "<f4").copy()
    return torch.from_numpy(values).view(answer.patches, -1)


def moved_by_hand(
    backend: TorchBackend, student: Encoder, share: float
) -> TorchBackend:
    """Returns the teacher after one update, computed without any of our own code."""
    network = copy.deepcopy(backend.encoder)
    with torch.no_grad():
        theirs = student.state_dict()
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                tensor.mul_(1 - share).add_(theirs[name], alpha=share)
    return TorchBackend(network, backend.card, torch.device("cpu"))


def are_updating(sessions: MomentumSessions) -> bool:
    """Returns whether an update is on its way to one of the sessions."""
    held = [*sessions._open.values(), *sessions._ending]
    return any(session.is_updating for session in held)

"""Updates of a momentum session that the real server does not take."""

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from torch import Tensor

from moma_core.errors import (
    MalformedRequestError,
    OversizedError,
    PolicyError,
    TeacherBusyError,
    TeacherUnavailableError,
)
from moma_core.teacher.ema_update import CHUNK_BYTES, weights_to_bytes
from moma_proto.v1 import teacher_pb2 as pb
from tests.support.federation.pki import Pki
from tests.support.teacher.moving_teacher import (
    FREELY,
    are_updating,
    embedding,
    opened,
    query,
    settings,
    sync,
    sync_refused,
    tiny_backend,
    tiny_student,
    update,
    weights,
)
from tests.support.teacher.teacher_server import ask, serving

Messages = Iterator[pb.SyncMomentumRequest]

WEIGHTS = weights(tiny_student())
CONTENT = weights_to_bytes(WEIGHTS)


def _changed(**tensors: Tensor) -> dict[str, Tensor]:
    return {**WEIGHTS, **tensors}


def _first(name: str, value: float) -> dict[str, Tensor]:
    tensor = WEIGHTS[name].detach().clone()
    tensor.view(-1)[0] = value
    return _changed(**{name: tensor})


def _cut(session: bytes) -> Messages:
    return update(session, {}, content=CONTENT[:-9], **_declared())


def _declared() -> dict[str, Any]:
    return {"total_bytes": len(CONTENT), "digest": hashlib.sha256(CONTENT).digest()}


def _chunks(session: bytes, *chunks: bytes) -> Messages:
    yield next(update(session, {}, content=CONTENT))
    yield from (pb.SyncMomentumRequest(chunk=chunk) for chunk in chunks)


def _twice_a_head(session: bytes) -> Messages:
    yield from update(session, {}, content=b"")
    yield from update(session, {}, content=b"")


ERRORS = {
    "malformed": MalformedRequestError,
    "size": OversizedError,
    "policy": PolicyError,
}
# what is sent, how it is counted, and what its refusal says
FAULTS: dict[str, tuple[Callable[[bytes], Messages], str, str]] = {
    "a missing name": (
        lambda s: update(s, {n: t for n, t in WEIGHTS.items() if n != "conv.bias"}),
        "malformed",
        "lacks conv.bias",
    ),
    "an unknown name": (
        lambda s: update(s, _changed(extra=torch.zeros(1))),
        "malformed",
        "holds the unknown extra",
    ),
    "another shape": (
        lambda s: update(s, _changed(**{"fc.bias": torch.zeros(4)})),
        "malformed",
        "fc.bias is float32[4], the model has float32[3]",
    ),
    "another type": (
        lambda s: update(s, _changed(**{"fc.bias": torch.zeros(3).half()})),
        "malformed",
        "fc.bias is float16[3], the model has float32[3]",
    ),
    "a NaN": (
        lambda s: update(s, _first("conv.weight", torch.nan)),
        "malformed",
        "conv.weight holds NaN or infinity",
    ),
    "an infinity": (
        lambda s: update(s, _first("norm.running_var", torch.inf)),
        "malformed",
        "norm.running_var holds NaN or infinity",
    ),
    "weights far away": (
        lambda s: update(s, _first("conv.weight", 1e4)),
        "policy",
        "at most 10 is allowed",
    ),
    "statistics far away": (
        lambda s: update(s, _first("norm.running_var", 1e4)),
        "policy",
        "at most 10 is allowed",
    ),
    "a wrong digest": (
        lambda s: update(s, WEIGHTS, digest=bytes(32)),
        "malformed",
        "the update's digest is",
    ),
    "no digest": (
        lambda s: update(s, WEIGHTS, digest=b""),
        "malformed",
        "a SHA-256 has 32 bytes",
    ),
    "a cut stream": (_cut, "malformed", f"of {len(CONTENT)} bytes"),
    "no head": (
        lambda _: iter([pb.SyncMomentumRequest(chunk=b"abc")]),
        "malformed",
        "begins with its head",
    ),
    "two heads": (_twice_a_head, "malformed", "nothing but chunks"),
    "more than was declared": (
        lambda s: _chunks(s, CONTENT, b"!"),
        "size",
        "more came than the",
    ),
    "more than the model": (
        lambda s: update(s, WEIGHTS, total_bytes=10**12),
        "size",
        "the update has 1000000000000 bytes",
    ),
    "a large chunk": (
        lambda s: _chunks(s, bytes(CHUNK_BYTES + 1)),
        "size",
        "a chunk has at most",
    ),
    "an empty chunk": (lambda s: _chunks(s, b""), "malformed", "empty"),
    "no safetensors": (
        lambda s: update(s, {}, content=b"pickled things"),
        "malformed",
        "no whole safetensors",
    ),
    "no steps": (lambda s: update(s, WEIGHTS, 0), "malformed", "1 to"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_update_that_is_not_as_agreed_is_refused_and_moves_nothing(
    tmp_path: Path, pki: Pki, fault: str
) -> None:
    send, reason, sentence = FAULTS[fault]

    async def scenario() -> None:
        policy = replace(FREELY, most_distance=10)
        async with (
            serving(tmp_path, pki, tiny_backend(), settings=settings(policy)) as served,
            served.stub(pki.site("site-a")) as stub,
        ):
            session = await opened(stub)
            await sync(stub, update(session, WEIGHTS))
            before = await ask(stub, query(session))

            error = await sync_refused(stub, send(session))

            assert type(error) is ERRORS[reason]
            assert sentence in str(error)
            assert served.denied(reason) == 1
            after = await ask(stub, query(session))
            assert torch.equal(*(embedding(a) for a in (*before, *after)))

    asyncio.run(scenario())


def test_an_empty_update_is_nobodys_and_refused_by_a_status(
    tmp_path: Path, pki: Pki
) -> None:
    async def scenario() -> None:
        async with (
            serving(tmp_path, pki, tiny_backend(), settings=settings()) as served,
            served.stub(pki.site("site-a")) as stub,
        ):
            error = await sync_refused(stub, iter(()))

            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "begins with its head" in error.details()
            assert served.denied("malformed", site="") == 1

    asyncio.run(scenario())


def test_what_a_carrier_puts_behind_an_update_gets_no_sealed_answer(
    tmp_path: Path, pki: Pki
) -> None:
    async def scenario() -> None:
        async with (
            serving(tmp_path, pki, tiny_backend(), settings=settings()) as served,
            served.stub(pki.site("site-a")) as stub,
        ):
            session = await opened(stub)
            call = stub.SyncMomentum()
            await call.write(next(update(session, WEIGHTS)))
            forged, _ = stub.side.seal(
                "SyncMomentum", pb.SyncMomentumRequest(chunk=b"abc"), bytes(16)
            )
            await call.bare.write(forged)

            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert served.denied("malformed", site="") == 1
            assert served.denied("malformed") == 0
            await sync(stub, update(session, WEIGHTS))

    asyncio.run(scenario())


def test_what_is_not_readable_behind_an_update_is_counted_once_and_without_a_site(
    tmp_path: Path, pki: Pki
) -> None:
    async def scenario() -> None:
        site = pki.site("site-a")
        async with (
            serving(tmp_path, pki, tiny_backend(), settings=settings()) as served,
            served.stub(site) as stub,
            served.channel(site) as channel,
        ):
            first = next(update(await opened(stub), WEIGHTS))
            head, _ = stub.side.seal("SyncMomentum", first)
            call = channel.stream_unary("/moma.v1.TeacherService/SyncMomentum")()
            await call.write(head.SerializeToString())
            await call.write(b"\x0a\xff")

            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert served.denied("malformed", site="") == 1
            assert served.denied("malformed") == 0

    asyncio.run(scenario())


def test_steps_that_go_back_are_refused(tmp_path: Path, pki: Pki) -> None:
    async def scenario() -> None:
        async with (
            serving(tmp_path, pki, tiny_backend(), settings=settings()) as served,
            served.stub(pki.site("site-a")) as stub,
        ):
            session = await opened(stub)
            await sync(stub, update(session, WEIGHTS, 3))

            error = await sync_refused(stub, update(session, WEIGHTS, 2))

            assert type(error) is MalformedRequestError
            assert "stands at step 3 and does not go back to 2" in str(error)
            assert served.denied("malformed") == 1

    asyncio.run(scenario())


def test_two_updates_of_a_session_at_once_are_one_too_many(
    tmp_path: Path, pki: Pki
) -> None:
    async def scenario() -> None:
        async with (
            serving(tmp_path, pki, tiny_backend(), settings=settings()) as served,
            served.stub(pki.site("site-a")) as stub,
        ):
            session = await opened(stub)
            begun = stub.SyncMomentum()
            await begun.write(next(update(session, WEIGHTS)))
            while not are_updating(served.server.sessions):
                await asyncio.sleep(0.01)

            error = await sync_refused(stub, update(session, WEIGHTS))
            begun.cancel()

            assert type(error) is TeacherBusyError
            assert "on its way already" in str(error)

    asyncio.run(scenario())


def test_an_update_that_never_ends_is_given_up(tmp_path: Path, pki: Pki) -> None:
    async def scenario() -> None:
        patient = settings(stream=replace(settings().stream, sync_seconds=0.2))
        async with (
            serving(tmp_path, pki, tiny_backend(), settings=patient) as served,
            served.stub(pki.site("site-a")) as stub,
        ):
            session = await opened(stub)
            begun = stub.SyncMomentum()
            await begun.write(next(update(session, WEIGHTS)))

            with pytest.raises(TeacherUnavailableError, match="not whole in"):
                await begun
            assert not are_updating(served.server.sessions)
            await sync(stub, update(session, WEIGHTS))

    asyncio.run(scenario())

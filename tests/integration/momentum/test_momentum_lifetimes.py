"""Momentum sessions at the real server: that there are any, and when they end."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from moma_core.errors import SessionLostError, TeacherBusyError, TeacherUnavailableError
from moma_core.pki.certificates import Credential
from moma_proto.v1 import teacher_pb2 as pb
from tests.support.federation.pki import Pki
from tests.support.machine.clock import SecondsClock
from tests.support.machine.waiting import until
from tests.support.teacher.moving_teacher import (
    FREELY,
    HeldMoves,
    KeptCopies,
    are_updating,
    opened,
    query,
    refused,
    settings,
    sync,
    sync_refused,
    tiny_backend,
    tiny_student,
    update,
    weights,
)
from tests.support.teacher.sealed import described
from tests.support.teacher.teacher_server import ask, refusal, serving

WEIGHTS = weights(tiny_student())


@pytest.fixture
def backend() -> KeptCopies:
    return tiny_backend()


@pytest.mark.parametrize("are_on", [True, False])
def test_the_card_says_whether_sessions_are_on(
    tmp_path: Path, pki: Pki, site: Credential, backend: KeptCopies, are_on: bool
) -> None:
    async def scenario() -> None:
        allowed = settings(FREELY if are_on else None)
        async with (
            serving(tmp_path, pki, backend, settings=allowed) as served,
            served.stub(site) as stub,
        ):
            description = await stub.Describe(pb.DescribeRequest())

            card, _ = described(description)
            assert card.momentum_sessions == are_on
            assert card.is_same_model(backend.card)

    asyncio.run(scenario())


@pytest.mark.parametrize("limit", ["idle_seconds", "age_seconds"])
def test_an_expired_session_is_gone(
    tmp_path: Path, pki: Pki, site: Credential, backend: KeptCopies, limit: str
) -> None:
    async def scenario() -> None:
        clock, policy = SecondsClock(), replace(FREELY, **{limit: 0.3})
        async with (
            serving(tmp_path, pki, backend, settings=settings(policy)) as served,
            served.stub(site) as stub,
        ):
            served.server.sessions._clock = clock
            session = await opened(stub)
            await ask(stub, query(session))
            clock.seconds = 0.35
            error = await refusal(stub, query(session))
            late = await sync_refused(stub, update(session, WEIGHTS))

            assert type(error) is type(late) is SessionLostError

    asyncio.run(scenario())


def test_a_closed_session_frees_its_place_and_shutdown_frees_all(
    tmp_path: Path, pki: Pki, site: Credential, backend: KeptCopies
) -> None:
    async def scenario() -> None:
        policy = replace(FREELY, sessions_per_site=1)
        async with (
            serving(tmp_path, pki, backend, settings=settings(policy)) as served,
            served.stub(site) as stub,
        ):
            session = await opened(stub)
            await stub.CloseSession(pb.CloseSessionRequest(session_id=session))
            gone = await refusal(stub, query(session))
            again = await opened(stub)
            sessions = served.server.sessions
            assert type(gone) is SessionLostError
            assert (len(session), len(again), len(sessions)) == (16, 16, 1)
            assert session != again
        assert len(sessions) == 0

    asyncio.run(scenario())


def test_an_idle_session_is_swept_away(
    tmp_path: Path, pki: Pki, site: Credential, backend: KeptCopies
) -> None:
    async def scenario() -> None:
        policy = replace(FREELY, idle_seconds=0.2)
        allowed = settings(policy, sweep_seconds=0.05)
        async with (
            serving(tmp_path, pki, backend, settings=allowed) as served,
            served.stub(site) as stub,
        ):
            await opened(stub)
            assert len(served.server.sessions) == 1
            await until(lambda: len(served.server.sessions) == 0)

    asyncio.run(scenario())


def test_a_session_that_ended_takes_its_room_until_its_update_is_over(
    tmp_path: Path, pki: Pki, site: Credential, backend: KeptCopies
) -> None:
    async def scenario() -> None:
        policy = replace(FREELY, sessions_per_site=1)
        async with (
            serving(tmp_path, pki, backend, settings=settings(policy)) as served,
            served.stub(site) as stub,
        ):
            sessions = served.server.sessions
            session = await opened(stub)
            stalled = stub.SyncMomentum()
            await stalled.write(next(update(session, WEIGHTS)))
            await until(lambda: are_updating(sessions))
            await stub.CloseSession(pb.CloseSessionRequest(session_id=session))
            error = await refused(opened(stub))
            stalled.cancel()
            await until(lambda: not are_updating(sessions))
            await opened(stub)

            assert type(error) is TeacherBusyError
            assert "the site has 1" in str(error)
            assert len(sessions) == 1

    asyncio.run(scenario())


def test_an_update_whose_call_was_given_up_is_on_its_way_until_it_has_moved(
    tmp_path: Path, pki: Pki, site: Credential
) -> None:
    async def scenario() -> None:
        backend = HeldMoves(tiny_student())
        hasty = settings(stream=replace(settings().stream, sync_seconds=0.3))
        async with (
            serving(tmp_path, pki, backend, settings=hasty) as served,
            served.stub(site) as stub,
        ):
            sessions = served.server.sessions
            session = await opened(stub)
            late = await sync_refused(stub, update(session, WEIGHTS))
            again = await sync_refused(stub, update(session, WEIGHTS))
            held = are_updating(sessions)
            backend.free.set()
            await until(lambda: not are_updating(sessions))
            await sync(stub, update(session, WEIGHTS, 2))

            assert type(late) is TeacherUnavailableError
            assert type(again) is TeacherBusyError
            assert "on its way already" in str(again)
            assert held

    asyncio.run(scenario())


def test_a_site_at_its_bound_replaces_what_it_left_unused_but_nothing_in_use(
    tmp_path: Path, pki: Pki, site: Credential, backend: KeptCopies
) -> None:
    async def scenario() -> None:
        clock = SecondsClock()
        policy = replace(FREELY, sessions_per_site=2, replaced_seconds=0.5)
        async with (
            serving(tmp_path, pki, backend, settings=settings(policy)) as served,
            served.stub(site) as stub,
        ):
            sessions = served.server.sessions
            sessions._clock = clock
            busy, left = await opened(stub), await opened(stub)
            stalled = stub.SyncMomentum()
            await stalled.write(next(update(busy, WEIGHTS)))
            await until(lambda: are_updating(sessions))
            clock.seconds = 0.6
            fresh = await opened(stub)
            error = await refused(opened(stub))
            gone = await refusal(stub, query(left))
            answers = [await ask(stub, query(session)) for session in (busy, fresh)]
            stalled.cancel()

            assert type(gone) is SessionLostError
            assert [len(answer) for answer in answers] == [1, 1]
            assert type(error) is TeacherBusyError
            assert error.retry_after_seconds == 1

    asyncio.run(scenario())

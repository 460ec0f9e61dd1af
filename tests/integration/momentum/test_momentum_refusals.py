"""Momentum sessions at the real server: what is refused."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moma_core.errors import (
    ConfigError,
    MalformedRequestError,
    MomaError,
    PolicyError,
    SessionLostError,
    TeacherBusyError,
)
from moma_core.pki.certificates import Credential
from moma_proto.v1 import teacher_pb2 as pb
from moma_server.teacher.momentum.sessions import MomentumPolicy
from tests.support.federation.pki import Pki
from tests.support.teacher.moving_teacher import (
    FREELY,
    TERMS,
    KeptCopies,
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
from tests.support.teacher.teacher_server import MeanColour, ask, refusal, serving

WEIGHTS = weights(tiny_student())


@pytest.fixture
def backend() -> KeptCopies:
    return tiny_backend()


def test_without_the_owners_word_there_are_no_sessions(
    tmp_path: Path, pki: Pki, site: Credential, backend: KeptCopies
) -> None:
    async def scenario() -> None:
        async with (
            serving(tmp_path, pki, backend, settings=settings(None)) as served,
            served.stub(site) as stub,
        ):
            error = await refused(opened(stub))
            unknown = await refusal(stub, query(bytes(16)))

            assert type(error) is PolicyError
            assert "no momentum sessions" in str(error)
            assert type(unknown) is SessionLostError
            assert served.denied("policy") == 2
            assert served.budget.charged("site-a") == 0

    asyncio.run(scenario())


def test_a_teacher_that_cannot_be_copied_has_no_sessions(
    tmp_path: Path, pki: Pki, backend: KeptCopies
) -> None:
    async def scenario(other: Any, policy: MomentumPolicy) -> None:
        async with serving(tmp_path, pki, other, settings=settings(policy)):
            pass

    with pytest.raises(ConfigError, match="runs in this process"):
        asyncio.run(scenario(MeanColour(), FREELY))
    with pytest.raises(ConfigError, match="all of them may take 100"):
        asyncio.run(scenario(backend, replace(FREELY, max_bytes=100)))


OPENINGS: dict[str, tuple[dict[str, Any], type[MomaError], str, str]] = {
    "another architecture": (
        {"architecture": "resnet50"},
        MalformedRequestError,
        "malformed",
        "the teacher's is 'tiny convolution', the student's 'resnet50'",
    ),
    "a decay below the floor": (
        {"terms": replace(TERMS, decay=0.98)},
        PolicyError,
        "policy",
        "the decay 0.98 is below the allowed 0.99",
    ),
    "an order of other classes": (
        {"terms": replace(TERMS, decay=0.99, class_order=(1, 0))},
        MalformedRequestError,
        "malformed",
        "a class order holds 0 to 2 once each",
    ),
}


@pytest.mark.parametrize("fault", OPENINGS)
def test_a_session_on_other_terms_is_refused(
    tmp_path: Path, pki: Pki, site: Credential, backend: KeptCopies, fault: str
) -> None:
    asked, kind, reason, sentence = OPENINGS[fault]

    async def scenario() -> None:
        policy = replace(FREELY, lowest_decay=0.99)
        async with (
            serving(tmp_path, pki, backend, settings=settings(policy)) as served,
            served.stub(site) as stub,
        ):
            error = await refused(opened(stub, **asked))

            assert type(error) is kind
            assert sentence in str(error)
            assert served.denied(reason) == 1
            assert len(served.server.sessions) == 0

    asyncio.run(scenario())


def test_only_so_many_sessions_are_open(
    tmp_path: Path, pki: Pki, site: Credential, backend: KeptCopies
) -> None:
    async def scenario() -> None:
        policy = replace(FREELY, sessions_per_site=1, sessions=2)
        async with (
            serving(tmp_path, pki, backend, settings=settings(policy)) as served,
            served.stub(site) as stub,
            served.stub(pki.site("site-b")) as second,
            served.stub(pki.site("site-c")) as third,
        ):
            await opened(stub)
            own = await refused(opened(stub))
            await opened(second)
            full = await refused(opened(third))

            for error, site_name in ((own, "site-a"), (full, "site-c")):
                assert type(error) is TeacherBusyError
                assert 0 < error.retry_after_seconds <= 300
                assert served.denied("rate", site_name) == 1
            assert "the site has 1" in str(own)
            assert "no room" in str(full)

    asyncio.run(scenario())


def test_sessions_take_only_so_many_bytes(
    tmp_path: Path, pki: Pki, site: Credential, backend: KeptCopies
) -> None:
    async def scenario() -> None:
        held = 2 * sum(
            tensor.nbytes for tensor in backend.encoder.state_dict().values()
        )
        policy = replace(FREELY, sessions_per_site=9, max_bytes=2 * held + 1)
        async with (
            serving(tmp_path, pki, backend, settings=settings(policy)) as served,
            served.stub(site) as stub,
        ):
            await opened(stub)
            await opened(stub)
            error = await refused(opened(stub))

            assert type(error) is TeacherBusyError

    asyncio.run(scenario())


def test_a_site_syncs_only_so_often(
    tmp_path: Path, pki: Pki, site: Credential, backend: KeptCopies
) -> None:
    async def scenario() -> None:
        policy = replace(FREELY, syncs_per_minute=3)
        async with (
            serving(tmp_path, pki, backend, settings=settings(policy)) as served,
            served.stub(site) as stub,
            served.stub(pki.site("site-b")) as neighbour,
        ):
            session = await opened(stub)
            for steps in (1, 2):
                await sync(stub, update(session, WEIGHTS, steps))
            error = await sync_refused(stub, update(session, WEIGHTS, 3))
            await opened(neighbour)  # whose rate is its own

            assert type(error) is TeacherBusyError
            assert "more often than 3 times a minute" in str(error)
            assert 0 < error.retry_after_seconds <= 20
            assert served.denied("rate") == 1

    asyncio.run(scenario())


def test_another_sites_session_is_as_unknown_as_a_guess(
    tmp_path: Path, pki: Pki, site: Credential, backend: KeptCopies
) -> None:
    async def scenario() -> None:
        async with (
            serving(tmp_path, pki, backend, settings=settings()) as served,
            served.stub(site) as owner,
            served.stub(pki.site("site-b")) as stranger,
        ):
            session = await opened(owner)
            close = stranger.CloseSession
            told = [
                (type(error), str(error))
                for identity in (session, b"guessed at rando")
                for error in (
                    await refusal(stranger, query(identity)),
                    await sync_refused(stranger, update(identity, WEIGHTS)),
                    await refused(close(pb.CloseSessionRequest(session_id=identity))),
                )
            ]

            assert len(set(told)) == 1
            assert told[0][0] is SessionLostError
            assert served.denied("policy", "site-b") == 6
            assert served.budget.charged("site-b") == 0
            assert len(await ask(owner, query(session))) == 1

    asyncio.run(scenario())

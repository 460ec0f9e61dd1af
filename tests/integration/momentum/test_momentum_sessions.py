"""Momentum sessions at the real server: what they do."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moma_core.errors import MalformedRequestError, ReplayError
from moma_core.models.ema import MomentumTerms
from moma_core.pki.certificates import Credential
from moma_proto.v1 import teacher_pb2 as pb
from tests.support.federation.pki import Pki
from tests.support.teacher.moving_teacher import (
    TERMS,
    KeptCopies,
    embedding,
    moved_by_hand,
    opened,
    query,
    refused,
    settings,
    sync,
    tiny_backend,
    tiny_student,
    update,
    weights,
)
from tests.support.teacher.teacher_server import ask, in_background, refusal, serving

SIDE_BY_SIDE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture
def backend() -> KeptCopies:
    return tiny_backend()


def _pixels(request: pb.EmbedRequest) -> Any:
    values = np.frombuffer(request.pixels, np.uint8)
    side = request.height_px
    return values.reshape(request.patches, side, side, 3)


def test_a_copy_moves_with_its_student_and_the_teacher_stays(
    tmp_path: Path, pki: Pki, site: Credential, backend: KeptCopies
) -> None:
    async def scenario() -> None:
        student = tiny_student()
        async with (
            serving(tmp_path, pki, backend, settings=settings()) as served,
            served.stub(site) as stub,
        ):
            (before,) = await ask(stub, query())
            session = await opened(stub)
            (fresh,) = await ask(stub, query(session))
            await sync(stub, update(session, weights(student)))
            (moved,) = await ask(stub, query(session))
            (after,) = await ask(stub, query())

        expected, _ = moved_by_hand(backend, student, 0.1).predict(_pixels(query()))
        torch.testing.assert_close(embedding(fresh), embedding(before), **SIDE_BY_SIDE)
        torch.testing.assert_close(
            embedding(moved), torch.from_numpy(expected), **SIDE_BY_SIDE
        )
        assert not torch.allclose(embedding(moved), embedding(before), atol=1e-3)
        assert torch.equal(embedding(after), embedding(before))

    asyncio.run(scenario())


def test_batch_norm_statistics_move(
    tmp_path: Path, pki: Pki, site: Credential, backend: KeptCopies
) -> None:
    async def scenario() -> None:
        student = tiny_student()
        async with (
            serving(tmp_path, pki, backend, settings=settings()) as served,
            served.stub(site) as stub,
        ):
            session = await opened(stub)
            await sync(stub, update(session, weights(student)))

        own, copied = backend.encoder.norm, backend.copies[0].encoder.norm
        for name in ("running_mean", "running_var"):
            start, leader = getattr(own, name), getattr(student.norm, name)
            torch.testing.assert_close(
                getattr(copied, name), 0.9 * start + 0.1 * leader
            )

    asyncio.run(scenario())


def test_batch_norms_that_adapt_normalise_each_request_by_its_own(
    tmp_path: Path, pki: Pki, site: Credential, backend: KeptCopies
) -> None:
    async def scenario() -> None:
        async with (
            serving(tmp_path, pki, backend, settings=settings()) as served,
            served.stub(site) as stub,
        ):
            session = await opened(stub, replace(TERMS, batch_norm="adapt"))
            first, again, _ = await ask(
                stub, query(session), query(session), query(session, patches=5)
            )
            error = await refusal(stub, query(session, patches=1))
            (moving,) = await ask(stub, query())

            assert torch.equal(embedding(first), embedding(again))
            assert not torch.allclose(embedding(first), embedding(moving), atol=1e-3)
            assert type(error) is MalformedRequestError
            assert "two patches or more" in str(error)
            assert served.budget.charged("site-a") == 2 + 2 + 5 + 2

    asyncio.run(scenario())


def test_a_query_of_a_copy_is_charged_once_for_each_state_of_its_weights(
    tmp_path: Path, pki: Pki, site: Credential, backend: KeptCopies
) -> None:
    async def scenario() -> None:
        one, other = bytes(16), b"1" * 16
        student = tiny_student()
        async with (
            serving(tmp_path, pki, backend, settings=settings()) as served,
            served.stub(site) as stub,
        ):
            session = await opened(stub)
            await ask(stub, query(session, request_id=one))
            await ask(stub, query(session, request_id=one))
            assert served.budget.charged("site-a") == 2
            await sync(stub, update(session, weights(student)))
            error = await refusal(stub, query(session, request_id=one))
            assert type(error) is ReplayError
            await ask(stub, query(session, request_id=other))
            assert served.budget.charged("site-a") == 4

            later = await opened(stub)  # is brought to where the first one stands
            await sync(stub, update(later, weights(student)))
            await ask(stub, query(later, request_id=other))
            assert served.budget.charged("site-a") == 4

    asyncio.run(scenario())


def test_copies_of_two_sites_are_their_own(
    tmp_path: Path, pki: Pki, site: Credential, backend: KeptCopies
) -> None:
    async def scenario() -> None:
        async with (
            serving(tmp_path, pki, backend, settings=settings()) as served,
            served.stub(site) as stub,
            served.stub(pki.site("site-b")) as neighbour,
        ):
            session, other = await opened(stub), await opened(neighbour)
            await sync(stub, update(session, weights(tiny_student(1))))
            await sync(neighbour, update(other, weights(tiny_student(2))))
            answers = await asyncio.gather(
                *(ask(stub, *[query(session)] * 4) for _ in range(2)),
                *(ask(neighbour, *[query(other)] * 4) for _ in range(2)),
            )

        for index, seed in enumerate((1, 1, 2, 2)):
            moved = moved_by_hand(backend, tiny_student(seed), 0.1)
            expected, _ = moved.predict(_pixels(query()))
            for answer in answers[index]:
                torch.testing.assert_close(
                    embedding(answer), torch.from_numpy(expected), **SIDE_BY_SIDE
                )

    asyncio.run(scenario())


def test_an_update_that_is_repeated_changes_nothing(
    tmp_path: Path, pki: Pki, site: Credential, backend: KeptCopies
) -> None:
    async def scenario() -> None:
        student = tiny_student()
        async with (
            serving(tmp_path, pki, backend, settings=settings()) as served,
            served.stub(site) as stub,
        ):
            session = await opened(stub)
            answers = []
            for _ in range(2):
                await sync(stub, update(session, weights(student), steps=7))
                answers += await ask(stub, query(session))

        assert torch.equal(*map(embedding, answers))

    asyncio.run(scenario())


def test_a_move_waits_for_the_queries_before_it_and_is_seen_by_those_after(
    tmp_path: Path, pki: Pki, site: Credential, backend: KeptCopies
) -> None:
    async def scenario() -> None:
        async with (
            serving(tmp_path, pki, backend, settings=settings()) as served,
            served.stub(site) as stub,
        ):
            session = await opened(stub)
            seen = []
            for steps in range(1, 8):
                moving = in_background(
                    sync(stub, update(session, weights(tiny_student(steps)), steps))
                )
                seen += await ask(stub, query(session), query(session))
                await moving

        # each answer is of one of the states, never of something between two
        states = [torch.from_numpy(backend.predict(_pixels(query()))[0])]
        states += [torch.from_numpy(_stood(backend, steps)) for steps in range(1, 8)]
        for answer in seen:
            assert any(
                torch.allclose(embedding(answer), state, atol=1e-5) for state in states
            )

    asyncio.run(scenario())


def _stood(backend: KeptCopies, steps: int) -> Any:
    moved = moved_by_hand(backend, tiny_student(steps), 1 - 0.9**steps)
    return moved.predict(_pixels(query()))[0]


def test_a_teacher_over_other_classes_keeps_its_classifier(
    tmp_path: Path, pki: Pki, site: Credential, backend: KeptCopies
) -> None:
    async def scenario() -> None:
        terms, student = MomentumTerms(0.0), tiny_student()
        async with (
            serving(tmp_path, pki, backend, settings=settings()) as served,
            served.stub(site) as stub,
        ):
            session = await opened(stub, terms)
            await sync(stub, update(session, weights(student, terms)))
            await refused(
                stub.CloseSession(pb.CloseSessionRequest(session_id=bytes(16)))
            )

        copied = backend.copies[0].encoder
        assert torch.equal(copied.conv.weight, student.conv.weight)
        assert torch.equal(copied.fc.weight, backend.encoder.fc.weight)

    asyncio.run(scenario())

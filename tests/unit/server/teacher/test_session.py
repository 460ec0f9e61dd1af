import asyncio
from collections.abc import Callable

import pytest
from pydantic import ValidationError

from moma_core.errors import PolicyError, SessionLostError, TeacherBusyError
from moma_core.models.ema import MomentumState, MomentumTerms
from moma_server.config.teacher_policy import MomentumSection
from moma_server.teacher.inference.backend import SessionModel
from moma_server.teacher.momentum.session import Session
from tests.support.teacher.moving_teacher import (
    TERMS,
    tiny_backend,
    tiny_student,
    weights,
)


def session(make: Callable[[MomentumTerms], SessionModel] | None = None) -> Session:
    return Session("site-a", TERMS, make or tiny_backend().copied, now=0.0)


def state(steps: int = 1) -> MomentumState:
    return MomentumState(steps, weights(tiny_student()))


class OutOfMemory(SessionModel):
    """A copy that fails in the middle of a move."""

    def move_to(self, state: MomentumState) -> None:
        super().move_to(state)
        raise RuntimeError("out of memory")


def failing(terms: MomentumTerms) -> SessionModel:
    teacher, copied = tiny_backend(), tiny_backend().copied(terms)
    return OutOfMemory(teacher.encoder, copied.encoder, copied.predict, terms)


def test_a_copy_that_was_left_half_moved_is_asked_nothing_any_more() -> None:
    async def scenario() -> None:
        broken = session(failing)
        with pytest.raises(RuntimeError, match="out of memory"):
            broken.move(state(), most_distance=1e6)

        with pytest.raises(SessionLostError, match="last update failed"):
            async with broken.turn():
                pass

    asyncio.run(scenario())


def test_a_refused_move_leaves_the_session_as_it_was() -> None:
    async def scenario() -> None:
        kept = session()
        with pytest.raises(PolicyError, match=r"at most 0\.01 is allowed"):
            kept.move(state(), most_distance=0.01)

        async with kept.turn():
            assert (kept.steps, kept.is_sound) == (0, True)

    asyncio.run(scenario())


def test_only_so_many_wait_for_their_turn() -> None:
    async def scenario() -> None:
        busy, over = session(), asyncio.Event()

        async def wait() -> None:
            async with busy.turn():
                await over.wait()

        waiting = [asyncio.create_task(wait()) for _ in range(8)]
        await asyncio.sleep(0)
        assert busy.is_busy
        with pytest.raises(TeacherBusyError, match="8 requests wait"):
            await wait()
        over.set()
        await asyncio.gather(*waiting)

        assert not busy.is_busy

    asyncio.run(scenario())


def test_sessions_are_off_unless_the_owner_turns_them_on() -> None:
    assert not MomentumSection().enabled
    with pytest.raises(ValidationError, match="lowest_decay"):
        MomentumSection(enabled=True, lowest_decay=1.5)

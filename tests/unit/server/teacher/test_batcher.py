import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from moma_core.errors import TeacherUnavailableError
from moma_core.teacher.query import Pixels
from moma_server.metrics.metrics import TeacherMetrics
from moma_server.rpc.background import BackgroundTasks
from moma_server.teacher.inference.backend import ModelOutput
from moma_server.teacher.inference.batcher import Batcher
from moma_server.teacher.inference.fair_queue import Job, PassSize, QueueBounds
from tests.support.machine.waiting import until
from tests.support.teacher.teacher_server import MeanColour, in_background


class Shapeless(MeanColour):
    """A model that forgets a row."""

    def predict(self, pixels: Pixels) -> ModelOutput:
        embedding, logits = super().predict(pixels)
        return embedding[1:], logits


class Overflowing(MeanColour):
    """A model that has no number for one colour."""

    def predict(self, pixels: Pixels) -> ModelOutput:
        embedding, logits = super().predict(pixels)
        embedding[embedding == BAD] = np.nan
        return embedding, logits


BAD = 7


def job(value: int, patches: int = 1, site: str = "site-a") -> Job:
    return Job(site, np.full((patches, 8, 8, 3), value, np.uint8))


@asynccontextmanager
async def batching(backend: MeanColour, max_patches: int = 8) -> AsyncIterator[Batcher]:
    metrics = TeacherMetrics(CollectorRegistry())
    batcher = Batcher(
        backend, QueueBounds(), max_batch_patches=max_patches, metrics=metrics
    )
    batcher.start(BackgroundTasks())
    try:
        yield batcher
    finally:
        backend.free.set()
        await batcher.close(deadline_seconds=2)


def test_each_caller_gets_its_own_rows() -> None:
    async def scenario() -> None:
        async with batching(MeanColour()) as batcher:
            jobs = [job(value, patches=value) for value in (1, 2, 3)]

            answers = await asyncio.gather(*map(batcher.run, jobs))

            for value, (embedding, logits) in zip((1, 2, 3), answers, strict=True):
                assert embedding.tolist() == [[value] * 3] * value
                assert logits.shape == (value, 2)

    asyncio.run(scenario())


def test_a_failing_pass_fails_its_own_callers_only() -> None:
    async def scenario() -> None:
        backend = MeanColour()
        async with batching(backend, max_patches=1) as batcher:
            backend.error = ArithmeticError("overflow")
            failed = job(1)
            with pytest.raises(ArithmeticError):
                await batcher.run(failed)
            backend.error = None

            served = job(2)
            await batcher.run(served)

            assert (failed.worked, served.worked) == (False, True)

    asyncio.run(scenario())


def test_a_pass_that_failed_says_nothing_of_what_passes_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    learned = list[int]()
    monkeypatch.setattr(
        PassSize, "learn", lambda _size, patches, _seconds: learned.append(patches)
    )

    async def scenario() -> None:
        backend = MeanColour()
        async with batching(backend) as batcher:
            backend.error = ArithmeticError("overflow")
            with pytest.raises(ArithmeticError):
                await batcher.run(job(1, patches=3))
            backend.error = None
            await batcher.run(job(2, patches=2))

    asyncio.run(scenario())

    assert learned == [2]


def test_a_model_that_answers_another_shape_is_a_failure() -> None:
    async def scenario() -> None:
        async with batching(Shapeless()) as batcher:
            with pytest.raises(TeacherUnavailableError, match=r"gave \(0, 3\)"):
                await batcher.run(job(1))

    asyncio.run(scenario())


def test_a_patch_that_the_model_has_no_number_for_fails_its_own_caller_alone() -> None:
    async def scenario() -> None:
        backend = Overflowing()
        backend.free.clear()
        async with batching(backend) as batcher:
            first = in_background(batcher.run(job(1)))
            await until(lambda: backend.patches == 1)
            bad = in_background(batcher.run(job(BAD)))
            good = in_background(batcher.run(job(2, site="site-b")))
            await asyncio.sleep(0)  # both wait for one pass
            backend.free.set()

            with pytest.raises(TeacherUnavailableError, match="NaN or infinity"):
                await bad

            await first
            embedding, _ = await good
            assert embedding.tolist() == [[2] * 3]
            assert any({BAD, 2} <= set(batch) for batch in backend.batches)

    asyncio.run(scenario())


def test_other_work_waits_for_the_pass_that_runs() -> None:
    async def scenario() -> None:
        backend = MeanColour()
        backend.free.clear()
        async with batching(backend) as batcher:
            asking = in_background(batcher.run(job(1)))
            await until(lambda: backend.patches == 1)
            working = in_background(batcher.between_passes(lambda: "done"))
            await asyncio.sleep(0.05)
            assert not working.done()

            backend.free.set()

            assert await working == "done"
            await asking

    asyncio.run(scenario())


def test_a_closed_batcher_does_no_other_work() -> None:
    async def scenario() -> None:
        backend = MeanColour()
        async with batching(backend) as batcher:
            backend.free.clear()
            asking = in_background(batcher.run(job(1)))
            await until(lambda: backend.patches == 1)
            waiting = in_background(batcher.between_passes(lambda: "never"))
            await asyncio.sleep(0.05)
            await batcher.close(deadline_seconds=0.05)

            for other in (waiting, batcher.between_passes(lambda: "never"), asking):
                with pytest.raises(TeacherUnavailableError, match="shutting down"):
                    await other

    asyncio.run(scenario())


def test_a_closing_batcher_fails_what_it_cannot_finish() -> None:
    async def scenario() -> None:
        backend = MeanColour()
        async with batching(backend, max_patches=1) as batcher:
            backend.free.clear()
            running, waiting, late = job(1), job(2), job(3)
            asking = [in_background(batcher.run(one)) for one in (running, waiting)]
            await until(lambda: backend.batches)

            await batcher.close(deadline_seconds=0.05)
            outcomes = await asyncio.gather(*asking, return_exceptions=True)

            assert [type(one) for one in outcomes] == [TeacherUnavailableError] * 2
            with pytest.raises(TeacherUnavailableError, match="shutting down"):
                await batcher.run(late)
            assert backend.batches == [[1]]
            assert not waiting.worked
            assert not late.worked

    asyncio.run(scenario())


def test_a_large_query_comes_in_parts_while_another_site_asks() -> None:
    async def scenario() -> None:
        backend = MeanColour()
        async with batching(backend, max_patches=100) as batcher:
            await batcher.run(job(1, site="site-b"))
            large, small = job(2, patches=40), job(3, site="site-b")
            backend.free.clear()
            asking = in_background(batcher.run(large))
            await until(lambda: len(backend.batches) == 2)
            beside = in_background(batcher.run(small))
            await asyncio.sleep(0)

            backend.free.set()
            embedding, logits = await asking
            await beside

            assert embedding.tolist() == [[2.0] * 3] * 40
            assert logits.shape == (40, 2)
            assert len(backend.batches) > 2

    asyncio.run(scenario())


def test_a_pass_that_fails_ends_what_is_left_of_its_query() -> None:
    async def scenario() -> None:
        backend = MeanColour()
        async with batching(backend, max_patches=100) as batcher:
            await batcher.run(job(1, site="site-b"))
            backend.error = ArithmeticError("overflow")
            with pytest.raises(ArithmeticError):
                await batcher.run(job(2, patches=40))
            backend.error = None

            embedding, _ = await batcher.run(job(3))

            assert embedding.tolist() == [[3.0] * 3]

    asyncio.run(scenario())

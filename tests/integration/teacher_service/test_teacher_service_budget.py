import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

from moma_core.errors import BudgetSpentError, ReplayError, TeacherBusyError
from moma_core.pki.certificates import Credential
from moma_core.policy.budget import REPETITION_WINDOW
from moma_proto.v1 import teacher_pb2 as pb
from moma_server.teacher.inference.fair_queue import QueueBounds
from moma_server.teacher.settings import TeacherServerSettings
from moma_server.teacher.wire.servicer import StreamLimits
from tests.support.federation.pki import Pki
from tests.support.machine.waiting import until
from tests.support.teacher.teacher_server import (
    MeanColour,
    answered,
    ask,
    in_background,
    refusal,
    request,
    serving,
)

A = {"site": "site-a", "teacher": "teacher-a"}


def test_a_request_after_the_budget_is_refused_without_work(
    tmp_path: Path, pki: Pki, site: Credential
) -> None:
    async def scenario() -> None:
        backend = MeanColour()
        grants = {"site-a": 10}
        async with (
            serving(tmp_path, pki, backend, grants=grants) as served,
            served.stub(site) as stub,
            served.stub(pki.site("site-b")) as other,
        ):
            await ask(stub, request(patches=8))

            error = await refusal(stub, request(patches=3))

            assert type(error) is BudgetSpentError
            assert str(error) == (
                "the teacher says: the budget is spent: the request takes 3 patches, "
                "2 of 10 are left"
            )
            assert backend.patches == 8
            assert served.denied("budget") == 1
            assert len(await ask(stub, request(patches=2))) == 1
            assert len(await ask(other, request())) == 1

    asyncio.run(scenario())


def test_a_repetition_is_answered_and_charged_once_over_a_restart(
    tmp_path: Path, pki: Pki, site: Credential
) -> None:
    async def scenario() -> None:
        backend = MeanColour()
        asked = request(patches=6)
        async with serving(tmp_path, pki, backend) as served:
            async with served.stub(site) as stub:
                first = await ask(stub, asked)
                again = await ask(stub, asked)
            assert answered(again) == answered(first)
            assert served.metric("patches_total", **A) == 6

        async with serving(tmp_path, pki, backend) as served:
            async with served.stub(site) as stub:
                after_restart = await ask(stub, asked)
                budget = await stub.Budget(pb.BudgetRequest())

            assert answered(after_restart) == answered(first)
            assert budget.charged_patches == 6
            assert served.metric("patches_total", **A) == 6
            assert served.metric("budget_patches", **A) == 1000
            assert served.metric("budget_remaining_ratio", **A) == 0.994

    asyncio.run(scenario())


def test_the_same_id_with_other_bytes_is_refused(
    tmp_path: Path, pki: Pki, site: Credential
) -> None:
    async def scenario() -> None:
        backend = MeanColour()
        async with serving(tmp_path, pki, backend) as served, served.stub(site) as stub:
            asked = request(1)
            await ask(stub, asked)

            error = await refusal(stub, request(2, request_id=asked.request_id))

            assert type(error) is ReplayError
            assert backend.batches == [[1]]
            assert served.denied("replay", site="") == 1

    asyncio.run(scenario())


def test_two_sites_may_use_one_request_id(
    tmp_path: Path, pki: Pki, site: Credential
) -> None:
    async def scenario() -> None:
        async with (
            serving(tmp_path, pki, MeanColour()) as served,
            served.stub(site) as stub,
            served.stub(pki.site("site-b")) as other,
        ):
            asked = request(1)
            await ask(stub, asked)

            await ask(other, request(2, request_id=asked.request_id))

            assert served.budget.charged("site-a") == 1
            assert served.budget.charged("site-b") == 1

    asyncio.run(scenario())


def test_a_repetition_after_its_window_is_refused(
    tmp_path: Path, pki: Pki, site: Credential
) -> None:
    async def scenario() -> None:
        late = timedelta(0)
        async with (
            serving(
                tmp_path, pki, MeanColour(), clock=lambda: datetime.now(UTC) + late
            ) as served,
            served.stub(site) as stub,
        ):
            asked = request()
            await ask(stub, asked)

            late = REPETITION_WINDOW + timedelta(hours=1)
            error = await refusal(stub, asked)

            assert type(error) is ReplayError

    asyncio.run(scenario())


def test_a_greedy_site_does_not_starve_another(
    tmp_path: Path, pki: Pki, site: Credential
) -> None:
    async def scenario() -> None:
        backend = MeanColour()
        settings = TeacherServerSettings(
            max_patches_per_request=1,
            max_batch_patches=2,
            stream=StreamLimits(window=16),
        )
        async with (
            serving(tmp_path, pki, backend, settings=settings) as served,
            served.stub(site) as greedy,
            served.stub(pki.site("site-b")) as modest,
        ):
            backend.free.clear()
            many = in_background(ask(greedy, *[request(1) for _ in range(16)]))
            await until(lambda: served.metric("inflight_requests") == 16)
            one = in_background(ask(modest, request(2)))
            await until(lambda: served.metric("inflight_requests") == 17)
            await until(lambda: served.budget.charged("site-b") == 1)
            backend.free.set()
            await asyncio.gather(many, one)

            # it is in the next pass, not behind what the greedy site had queued
            assert [2 in batch for batch in backend.batches].index(True) <= 2

    asyncio.run(scenario())


def test_queries_of_several_sites_share_a_pass(
    tmp_path: Path, pki: Pki, site: Credential
) -> None:
    async def scenario() -> None:
        backend = MeanColour()
        async with (
            serving(tmp_path, pki, backend) as served,
            served.stub(site) as stub,
            served.stub(pki.site("site-b")) as other,
        ):
            backend.free.clear()
            asking = [in_background(ask(stub, request(0)))]
            await until(lambda: backend.batches)
            asking += [
                in_background(ask(stub, request(1), request(2))),
                in_background(ask(other, request(3))),
            ]
            await until(lambda: served.metric("inflight_requests") == 4)
            await until(lambda: served.budget.charged("site-b") == 1)
            await until(lambda: served.budget.charged("site-a") == 3)
            await asyncio.sleep(0.1)
            backend.free.set()
            await asyncio.gather(*asking)

            # what passes take is not known yet, so that the next one has two patches
            assert [sorted(batch) for batch in backend.batches] == [[0], [1, 3], [2]]

    asyncio.run(scenario())


def test_a_full_queue_is_told_with_the_time_to_ask_again(
    tmp_path: Path, pki: Pki, site: Credential
) -> None:
    async def scenario() -> None:
        backend = MeanColour()
        settings = TeacherServerSettings(
            queue=QueueBounds(site_requests=2), stream=StreamLimits(window=8)
        )
        async with (
            serving(tmp_path, pki, backend, settings=settings) as served,
            served.stub(site) as stub,
            served.stub(site) as second,
            served.stub(pki.site("site-b")) as other,
        ):
            backend.free.clear()
            running = in_background(ask(stub, request(1)))
            await until(lambda: backend.batches)
            full = stub.Embed(iter([request(2), request(2)]))
            await until(lambda: served.budget.charged("site-a") == 3)

            error = await refusal(second, request(3))
            patient = in_background(ask(other, request(4)))
            await until(lambda: served.budget.charged("site-b") == 1)
            backend.free.set()

            assert type(error) is TeacherBusyError
            assert error.retry_after_seconds >= 0.1
            assert served.denied("rate") == 1
            assert len(await patient) == len(await running) == 1
            assert len([answer async for answer in full]) == 2
            assert served.budget.charged("site-a") == 3

    asyncio.run(scenario())


def test_a_callers_waiting_queries_are_dropped_and_given_back_when_it_leaves(
    tmp_path: Path, pki: Pki, site: Credential
) -> None:
    async def scenario() -> None:
        backend = MeanColour()
        async with serving(tmp_path, pki, backend) as served, served.stub(site) as stub:
            backend.free.clear()
            running = stub.Embed()
            await running.write(request(1, patches=3))
            await until(lambda: backend.batches)
            waiting = stub.Embed()
            await waiting.write(request(2, patches=5))
            await until(lambda: served.budget.charged("site-a") == 8)

            running.cancel()  # too late: the model is at work for it
            waiting.cancel()
            await until(lambda: served.budget.charged("site-a") == 3)
            backend.free.set()
            await ask(stub, request(3))

            assert backend.batches == [[1, 1, 1], [3]]
            assert served.budget.charged("site-a") == 4
            assert served.metric("patches_total", **A) == 4
            assert served.metric("requests_total", **A, outcome="cancelled") == 1
            assert served.metric("dropped_total", **A, outcome="cancelled") == 1
            assert served.metric("requests_total", **A, outcome="answered") == 1
            assert served.metric("inflight_requests") == 0

    asyncio.run(scenario())


def test_a_stream_is_read_no_further_than_its_window(
    tmp_path: Path, pki: Pki, site: Credential
) -> None:
    async def scenario() -> None:
        backend = MeanColour()
        settings = TeacherServerSettings(stream=StreamLimits(window=3))
        async with (
            serving(tmp_path, pki, backend, settings=settings) as served,
            served.stub(site) as stub,
        ):
            backend.free.clear()
            asking = in_background(ask(stub, *[request() for _ in range(20)]))
            await until(lambda: served.metric("inflight_requests") == 3)
            await asyncio.sleep(0.2)

            most = served.metric("inflight_requests")
            backend.free.set()

            assert most == 3
            assert len(await asking) == 20

    asyncio.run(scenario())

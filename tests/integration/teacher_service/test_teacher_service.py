import asyncio
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from moma_core.audit.tables import read_head
from moma_core.errors import MalformedRequestError, TeacherUnavailableError
from moma_core.pki.certificates import Credential
from moma_proto.v1 import teacher_pb2 as pb
from moma_server.teacher.settings import TeacherServerSettings
from moma_server.teacher.wire.servicer import StreamLimits
from tests.support.federation.pki import Pki
from tests.support.machine.clock import Clock
from tests.support.machine.waiting import WAIT_SECONDS, until
from tests.support.teacher.sealed import described
from tests.support.teacher.teacher_server import (
    CARD,
    PATCH_BYTES,
    SIDE_PX,
    MeanColour,
    ask,
    ledger_in,
    refusal,
    request,
    serving,
)

Code = grpc.StatusCode


def test_a_site_reads_the_card_and_the_bounds(
    tmp_path: Path, pki: Pki, site: Credential
) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, pki, MeanColour()) as served:
            async with served.stub(site) as stub:
                description = await stub.Describe(pb.DescribeRequest())

            card, bounds = described(description)
            assert card == CARD
            assert bounds.max_patches == 16

    asyncio.run(scenario())


def test_answers_come_in_the_order_of_the_requests(
    tmp_path: Path, pki: Pki, site: Credential
) -> None:
    async def scenario() -> None:
        backend = MeanColour()
        requests = [request(value, patches=1 + value % 3) for value in range(20)]
        async with serving(tmp_path, pki, backend) as served, served.stub(site) as stub:
            answers = await ask(stub, *requests)

            assert [a.request_id for a in answers] == [r.request_id for r in requests]
            for asked, answer in zip(requests, answers, strict=True):
                embedding = np.frombuffer(answer.embedding, "<f4").reshape(-1, 3)
                assert embedding.shape[0] == asked.patches == answer.patches
                np.testing.assert_allclose(embedding, asked.pixels[0], rtol=1e-6)
                assert len(answer.logits) == asked.patches * 2 * 4

    asyncio.run(scenario())


def test_float_pixels_are_answered_too(
    tmp_path: Path, pki: Pki, site: Credential
) -> None:
    async def scenario() -> None:
        pixels = np.full((2, SIDE_PX, SIDE_PX, 3), 0.25, "<f4")
        asked = request(patches=2)
        asked.format = pb.PIXEL_FORMAT_RGB_FLOAT32
        asked.pixels = pixels.tobytes()
        async with serving(tmp_path, pki, MeanColour()) as served:
            async with served.stub(site) as stub:
                (answer,) = await ask(stub, asked)

            np.testing.assert_allclose(np.frombuffer(answer.embedding, "<f4"), 0.25)

    asyncio.run(scenario())


def floats(value: float) -> bytes:
    pixels = np.zeros((2, SIDE_PX, SIDE_PX, 3), "<f4")
    pixels[1, 3, 4, 2] = value
    return pixels.tobytes()


RGB_FLOAT32 = pb.PIXEL_FORMAT_RGB_FLOAT32
FAULTS: dict[str, dict[str, Any]] = {
    "a 1x1 image": {"height_px": 1, "width_px": 1, "pixels": bytes(6)},
    "NaN pixels": {"format": RGB_FLOAT32, "pixels": floats(np.nan)},
    "pixels beyond 1": {"format": RGB_FLOAT32, "pixels": floats(1.01)},
    "a wrong shape": {"height_px": SIDE_PX // 2, "width_px": SIDE_PX * 2},
    "a wrong length": {"pixels": bytes(2 * PATCH_BYTES - 1)},
    "no patches": {"patches": 0, "pixels": b""},
    "too many patches": {"patches": 17, "pixels": bytes(17 * PATCH_BYTES)},
    "no pixel format": {"format": pb.PIXEL_FORMAT_UNSPECIFIED},
    "an unknown pixel format": {"format": 77},
}


def malformed(fault: str) -> pb.EmbedRequest:
    asked = request(patches=2)
    for name, value in FAULTS[fault].items():
        setattr(asked, name, value)
    return asked


@pytest.mark.parametrize("fault", FAULTS)
def test_a_malformed_request_is_refused_before_any_work(
    tmp_path: Path, pki: Pki, site: Credential, fault: str
) -> None:
    async def scenario() -> None:
        backend = MeanColour()
        async with serving(tmp_path, pki, backend) as served, served.stub(site) as stub:
            error = await refusal(stub, malformed(fault))

            assert type(error) is MalformedRequestError
            assert backend.patches == 0
            assert served.budget.charged("site-a") == 0
            assert served.denied("malformed") == 1
            assert len(await ask(stub, request())) == 1

    asyncio.run(scenario())


def test_a_message_of_300_megabytes_is_cut_off_and_the_server_goes_on(
    tmp_path: Path, pki: Pki, site: Credential
) -> None:
    async def scenario() -> None:
        backend = MeanColour()
        oversized = request()
        oversized.pixels = bytes(300 * 10**6)
        async with serving(tmp_path, pki, backend) as served, served.stub(site) as stub:
            error = await refusal(stub, oversized)

            assert error.code() is Code.RESOURCE_EXHAUSTED
            assert backend.patches == 0
            await until(lambda: served.denied("size", site="") == 1)
            assert len(await ask(stub, request())) == 1

    asyncio.run(scenario())


def test_a_refusal_is_an_answer_in_its_place_and_the_stream_goes_on(
    tmp_path: Path, pki: Pki, site: Credential
) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, pki, MeanColour()) as served:
            async with served.stub(site) as stub:
                asked = [request(1), malformed("a wrong length"), request(patches=3)]
                call = stub.Embed(iter(asked))
                first = await call.read()
                with pytest.raises(MalformedRequestError):
                    await call.read()
                third = await call.read()

            assert (first.patches, third.patches) == (1, 3)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "error", [KeyError("/data/patients/p-0042"), OSError(2, "/data/patients/p-0042")]
)
def test_a_foreign_exception_never_reaches_a_caller(
    tmp_path: Path, pki: Pki, site: Credential, error: Exception
) -> None:
    async def scenario() -> None:
        backend = MeanColour()
        async with serving(tmp_path, pki, backend) as served, served.stub(site) as stub:
            backend.error = error
            told = await refusal(stub, request(patches=5))
            backend.error = None

            assert type(told) is TeacherUnavailableError
            assert str(told) == "the teacher says: internal error"
            assert served.budget.charged("site-a") == 0
            assert len(await ask(stub, request())) == 1

    asyncio.run(scenario())


def test_a_failing_stream_leaves_the_others_alone(
    tmp_path: Path, pki: Pki, site: Credential
) -> None:
    async def scenario() -> None:
        async with (
            serving(tmp_path, pki, MeanColour()) as served,
            served.stub(site) as stub,
            served.stub(site) as other,
        ):
            steady = other.Embed()
            await steady.write(request())
            await steady.read()

            await refusal(stub, malformed("a wrong length"))
            await steady.write(request(patches=3))

            assert (await steady.read()).patches == 3
            await steady.done_writing()

    asyncio.run(scenario())


def test_an_idle_stream_is_ended(tmp_path: Path, pki: Pki, site: Credential) -> None:
    async def scenario() -> None:
        settings = TeacherServerSettings(stream=StreamLimits(idle_seconds=0.2))
        async with serving(tmp_path, pki, MeanColour(), settings=settings) as served:
            async with served.stub(site) as stub:
                call = stub.Embed()
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call.read()

            assert caught.value.code() is Code.UNAVAILABLE
            assert caught.value.details() == "no request came for 0.2 seconds"

    asyncio.run(scenario())


def test_a_caller_that_takes_no_answers_is_ended(
    tmp_path: Path, pki: Pki, site: Credential
) -> None:
    async def scenario() -> None:
        backend = MeanColour(replace(CARD, embedding_length=60_000))
        settings = TeacherServerSettings(stream=StreamLimits(write_seconds=0.3))
        async with serving(tmp_path, pki, backend, settings=settings) as served:
            async with served.stub(site) as stub:
                call = stub.Embed(iter([request(patches=16) for _ in range(40)]))
                seen = -1
                while not seen == backend.patches > 0:  # it is stuck for a second
                    seen = backend.patches
                    await asyncio.sleep(1)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    async with asyncio.timeout(WAIT_SECONDS):
                        _ = [answer async for answer in call]

            assert caught.value.code() is Code.UNAVAILABLE
            assert caught.value.details() == "no response was taken for 0.3 seconds"
            assert backend.patches < 40 * 16

    asyncio.run(scenario())


def test_the_health_service_needs_a_certificate_and_says_that_it_serves(
    tmp_path: Path, pki: Pki, site: Credential
) -> None:
    async def scenario() -> None:
        question = health_pb2.HealthCheckRequest(service="moma.v1.TeacherService")
        async with serving(tmp_path, pki, MeanColour()) as served:
            async with served.channel(site) as channel:
                health = health_pb2_grpc.HealthStub(channel)
                answer = await health.Check(question)
            async with served.channel(None) as channel:
                health = health_pb2_grpc.HealthStub(channel)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await health.Check(question, timeout=5)

            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            assert caught.value.code() is Code.UNAVAILABLE

    asyncio.run(scenario())


def test_a_stopping_server_answers_what_it_took_and_refuses_what_is_new(
    tmp_path: Path, pki: Pki, site: Credential
) -> None:
    async def scenario() -> None:
        backend = MeanColour()
        async with serving(tmp_path, pki, backend) as served, served.stub(site) as stub:
            backend.free.clear()
            call = stub.Embed()
            await call.write(request())
            await until(lambda: backend.batches)

            stopping = asyncio.create_task(served.server.stop(grace_seconds=10))
            await asyncio.sleep(0.1)
            await call.write(request())
            backend.free.set()

            assert (await call.read()).patches == 1
            with pytest.raises(TeacherUnavailableError, match="is shutting down"):
                await call.read()
            await stopping
            assert served.budget.charged("site-a") == 1

    asyncio.run(scenario())


def test_a_clock_beyond_the_own_certificate_signs_nothing_and_does_no_harm(
    tmp_path: Path, pki: Pki, site: Credential, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    clock.now = right = datetime.now(UTC)
    settings = TeacherServerSettings(checkpoint_seconds=0.05)

    async def newest() -> int:
        async with (
            serving(
                tmp_path, pki, MeanColour(), settings=settings, clock=clock
            ) as served,
            served.stub(site) as stub,
        ):
            if clock.now == right:
                await ask(stub, request())
            else:
                await until(lambda: caplog.text.count("the log is not signed") > 1)
        ledger = ledger_in(tmp_path, CARD.name, {}, clock)
        with closing(ledger.budget):
            head = ledger.read(read_head)
        assert head is not None
        return head.time_ms

    async def scenario() -> None:
        before = await newest()
        clock.now += timedelta(days=365)
        assert await newest() == before
        assert "put the clock right, or have a new certificate signed" in caplog.text
        clock.now = right
        assert await newest() == before

    asyncio.run(scenario())

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

from moma_core.pki.certificates import Credential
from moma_proto.v1 import teacher_pb2 as pb
from moma_server.rpc.authorization import CallBounds
from moma_server.teacher.settings import TeacherServerSettings
from tests.support.federation.pki import Pki
from tests.support.machine.waiting import WAIT_SECONDS, until
from tests.support.teacher.teacher_server import (
    MeanColour,
    ask,
    refusal,
    request,
    serving,
)

Code = grpc.StatusCode


STRANGERS = {"no certificate": None, "another authority's": Pki().site("site-a")}


@pytest.mark.parametrize("stranger", STRANGERS)
def test_a_stranger_gets_nothing(
    tmp_path: Path, pki: Pki, site: Credential, stranger: str
) -> None:
    async def scenario() -> None:
        backend = MeanColour()
        async with serving(tmp_path, pki, backend) as served:
            async with served.stub(STRANGERS[stranger]) as stub:
                embed = await refusal(stub, request())
                with pytest.raises(grpc.aio.AioRpcError) as describe:
                    await stub.Describe(pb.DescribeRequest(), timeout=WAIT_SECONDS)

            assert embed.code() is Code.UNAVAILABLE  # the handshake fails
            assert describe.value.code() is Code.UNAVAILABLE
            assert backend.patches == 0
            async with served.stub(site) as stub:
                assert len(await ask(stub, request())) == 1

    asyncio.run(scenario())


def test_an_expired_certificate_is_refused(tmp_path: Path, pki: Pki) -> None:
    async def scenario() -> None:
        backend = MeanColour()
        long_ago = datetime.now(UTC) - timedelta(days=40)
        expired = pki.site("site-a", now=long_ago)
        async with serving(tmp_path, pki, backend) as served:
            async with served.stub(expired) as stub:
                error = await refusal(stub, request())

            assert error.code() is Code.UNAVAILABLE  # the handshake fails
            assert backend.patches == 0

    asyncio.run(scenario())


def test_a_certificate_that_expires_ends_its_stream_and_its_next_call(
    tmp_path: Path, pki: Pki
) -> None:
    async def scenario() -> None:
        late = timedelta(0)
        site = pki.site("site-a", lifetime=timedelta(days=2))
        async with (
            serving(
                tmp_path, pki, MeanColour(), clock=lambda: datetime.now(UTC) + late
            ) as served,
            served.stub(site) as stub,
        ):
            call = stub.Embed()
            await call.write(request())
            await call.read()

            late = timedelta(days=3)

            async with asyncio.timeout(5):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call.read()
            assert caught.value.code() is Code.UNAUTHENTICATED
            assert "expired" in (caught.value.details() or "")
            assert (await refusal(stub, request())).code() is Code.UNAUTHENTICATED
            assert served.denied("auth", site="") == 2

    asyncio.run(scenario())


def test_a_revoked_site_is_refused_at_its_next_call_and_others_are_not(
    tmp_path: Path, pki: Pki, site: Credential
) -> None:
    async def scenario() -> None:
        backend = MeanColour()
        async with (
            serving(tmp_path, pki, backend) as served,
            served.stub(site) as stub,
            served.stub(pki.site("site-b")) as other,
        ):
            await ask(stub, request())

            served.revoke(site)
            error = await refusal(stub, request())

            assert error.code() is Code.UNAUTHENTICATED
            assert "revoked" in (error.details() or "")
            assert backend.patches == 1
            assert served.denied("revoked", site="") == 1
            assert len(await ask(other, request())) == 1

    asyncio.run(scenario())


def test_a_revoked_sites_open_stream_ends_within_five_seconds(
    tmp_path: Path, pki: Pki, site: Credential
) -> None:
    async def scenario() -> None:
        backend = MeanColour()
        async with (
            serving(tmp_path, pki, backend) as served,
            served.stub(site) as stub,
            served.stub(pki.site("site-b")) as other,
        ):
            revoked, steady = stub.Embed(), other.Embed()
            for call in (revoked, steady):
                await call.write(request())
                await call.read()

            served.revoke(site)

            async with asyncio.timeout(5):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await revoked.read()
            assert caught.value.code() is Code.UNAUTHENTICATED
            await steady.write(request())
            assert (await steady.read()).patches == 1
            await steady.done_writing()

    asyncio.run(scenario())


def test_a_revoked_sites_waiting_query_is_dropped_and_given_back(
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
            busy, waiting = other.Embed(), stub.Embed()
            await busy.write(request(1))
            await until(lambda: backend.batches)
            await waiting.write(request(2))
            await until(lambda: served.budget.charged("site-a") == 1)

            served.revoke(site)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await waiting.read()
            backend.free.set()
            await busy.read()
            await busy.done_writing()

            assert caught.value.code() is Code.UNAUTHENTICATED
            assert backend.batches == [[1]]
            assert served.budget.charged("site-a") == 0

    asyncio.run(scenario())


def test_a_teachers_certificate_may_not_ask(tmp_path: Path, pki: Pki) -> None:
    async def scenario() -> None:
        backend = MeanColour()
        async with serving(tmp_path, pki, backend) as served:
            async with served.stub(pki.issue("teacher", "site-a")) as stub:
                error = await refusal(stub, request())

            assert error.code() is Code.UNAUTHENTICATED
            assert backend.patches == 0
            assert served.denied("auth", site="") == 1

    asyncio.run(scenario())


def test_a_site_of_another_federation_may_not_ask(tmp_path: Path) -> None:
    async def scenario() -> None:
        backend, pki = MeanColour(), Pki("federation-b")
        async with serving(tmp_path, pki, backend) as served:
            async with served.stub(pki.site("site-a")) as stub:
                error = await refusal(stub, request())

            assert error.code() is Code.UNAUTHENTICATED
            assert backend.patches == 0

    asyncio.run(scenario())


def test_a_damaged_revocation_list_admits_nobody(
    tmp_path: Path, pki: Pki, site: Credential
) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, pki, MeanColour()) as served:
            (tmp_path / "revoked.json").write_text("[")
            async with served.stub(site) as stub:
                error = await refusal(stub, request())

            assert error.code() is Code.UNAUTHENTICATED

    asyncio.run(scenario())


def test_the_site_is_the_certificates_whatever_the_metadata_claims(
    tmp_path: Path, pki: Pki, site: Credential
) -> None:
    async def scenario() -> None:
        claims = (("site", "site-b"), ("x-site-id", "site-b"))
        async with serving(tmp_path, pki, MeanColour()) as served:
            async with served.stub(site) as stub:
                call = stub.Embed(iter([request(patches=5)]), metadata=claims)
                _ = [answer async for answer in call]
                budget = await stub.Budget(pb.BudgetRequest(), metadata=claims)

            assert served.budget.charged("site-a") == 5
            assert served.budget.charged("site-b") == 0
            assert (budget.granted_patches, budget.charged_patches) == (1000, 5)

    asyncio.run(scenario())


def test_a_site_has_a_bounded_number_of_open_calls(
    tmp_path: Path, pki: Pki, site: Credential
) -> None:
    async def scenario() -> None:
        settings = TeacherServerSettings(calls=CallBounds(of_one=2))
        async with (
            serving(tmp_path, pki, MeanColour(), settings=settings) as served,
            served.stub(site) as one,
            served.stub(pki.site("site-a")) as two,
            served.stub(pki.site("site-b")) as other,
        ):
            first, second = one.Embed(), one.Embed()
            for call in (first, second):
                await call.write(request())
                await call.read()

            error = await refusal(two, request())

            assert error.code() is Code.RESOURCE_EXHAUSTED
            assert len(await ask(other, request())) == 1
            await first.done_writing()
            await second.done_writing()

    asyncio.run(scenario())

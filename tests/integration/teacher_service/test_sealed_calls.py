"""Over the wire: whose key counts, and what a carrier may send again."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from moma_core.end_to_end.signatures import SigningKey
from moma_core.errors import MalformedRequestError, ReplayError, UnknownEntryError
from moma_core.pki.certificates import Credential
from moma_proto.convert import teacher as convert
from moma_proto.v1 import audit_pb2
from moma_proto.v1 import teacher_pb2 as pb
from moma_proto.v1.audit_pb2_grpc import AuditServiceStub
from moma_proto.v1.teacher_pb2_grpc import TeacherServiceStub
from moma_server.teacher.end_to_end import identity
from moma_server.teacher.end_to_end.identity import KEY_LIFETIME, OVERLAP
from moma_server.teacher.settings import TeacherServerSettings
from tests.support.federation.pki import Pki
from tests.support.machine.waiting import until
from tests.support.teacher.sealed import SiteSide, key_of
from tests.support.teacher.teacher_server import MeanColour, Served, request, serving

pytestmark = pytest.mark.anyio

REFUSED = grpc.StatusCode.UNAUTHENTICATED


async def side(stub: Any, site: str, key: SigningKey) -> SiteSide:
    described = await stub.Describe(pb.DescribeRequest())
    return SiteSide(convert.signed_card_from_wire(described), site, key=key)


@asynccontextmanager
async def a_site_at_a_teacher(
    folder: Path,
) -> AsyncIterator[tuple[Served, Any, SiteSide]]:
    """Yields the teacher, its methods, and a site that has read its card."""
    pki = Pki()
    async with (
        serving(folder, pki, MeanColour()) as served,
        served.channel(pki.site()) as channel,
    ):
        stub: Any = TeacherServiceStub(channel)
        yield served, stub, await side(stub, "site-a", key_of("site-a"))


async def answer_to(call: Any) -> Any:
    """Returns the status with which a call was refused; None: it was not."""
    try:
        _ = [answer async for answer in call]
    except grpc.aio.AioRpcError as error:
        return error.code()
    return None


async def asked_as(served: Served, line: Credential, site: str, key: SigningKey) -> Any:
    """Returns how a query went that came by one party's line in a site's name."""
    async with served.channel(line) as channel:
        stub: Any = TeacherServiceStub(channel)
        asking = await side(stub, site, key)
        sealed, _ = asking.seal("Embed", request())
        return await answer_to(stub.Embed(iter([sealed])))


async def test_a_certificate_of_the_authority_does_not_make_a_site(
    tmp_path: Path,
) -> None:
    pki = Pki()
    async with serving(tmp_path, pki, (model := MeanColour())) as served:
        minted = pki.site("site-a")  # by who has the authority's key
        with_its_own = await asked_as(served, minted, "site-a", SigningKey.create())
        honest = await asked_as(served, minted, "site-a", key_of("site-a"))

        assert with_its_own is REFUSED
        assert honest is None
        assert served.budget.charged("site-a") == model.patches == 1


async def test_a_question_of_another_site_does_not_pass_by_ones_own_line(
    tmp_path: Path,
) -> None:
    pki = Pki()
    async with serving(tmp_path, pki, (model := MeanColour())) as served:
        line = pki.site("site-a")
        taken = await asked_as(served, line, "site-b", key_of("site-b"))

        assert taken is REFUSED
        assert served.budget.charged("site-b") == model.patches == 0


async def test_a_site_that_nobody_approved_is_not_answered(tmp_path: Path) -> None:
    pki = Pki()
    async with serving(tmp_path, pki, (model := MeanColour())) as served:
        line, key = pki.site("site-unknown"), key_of("site-unknown")

        assert await asked_as(served, line, "site-unknown", key) is REFUSED
        assert model.patches == 0


async def test_a_call_that_acts_at_once_is_not_taken_again(tmp_path: Path) -> None:
    async with a_site_at_a_teacher(tmp_path) as (served, stub, asking):
        sealed, pending = asking.seal("Budget", pb.BudgetRequest())
        budget = asking.open("Budget", await stub.Budget(sealed), pending)

        size = served.log_size()
        again = await stub.Budget(sealed)
        with pytest.raises(ReplayError, match="was sent before"):
            asking.open("Budget", again, pending)
        assert budget.charged_patches == 0
        assert served.denied("replay", site="") == 1  # by whom is not known
        assert served.log_size() == size


async def test_a_carrier_that_sends_a_query_again_charges_nothing_and_reads_nothing(
    tmp_path: Path,
) -> None:
    async with a_site_at_a_teacher(tmp_path) as (served, stub, asking):
        sealed, pending = asking.seal("Embed", request(7))
        answers = [
            answer for _ in range(2) async for answer in stub.Embed(iter([sealed]))
        ]

        opened = [asking.open("Embed", answer, pending) for answer in answers]
        assert opened[0].embedding == opened[1].embedding
        assert answers[0].sealed != answers[1].sealed
        assert all(opened[0].embedding not in answer.sealed for answer in answers)
        assert served.budget.charged("site-a") == 1


async def test_a_running_teacher_deletes_the_sealing_keys_that_are_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "CERTAIN_SECONDS", 0.2)
    late = timedelta()
    settings = TeacherServerSettings(sweep_seconds=0.05)

    async with serving(
        tmp_path,
        Pki(),
        MeanColour(),
        settings=settings,
        clock=lambda: datetime.now(UTC) + late,
    ):
        path = tmp_path / "sealing-keys.json"
        first = path.read_bytes()
        secrets = [kept["private"] for kept in json.loads(first)]
        assert secrets
        late = KEY_LIFETIME + OVERLAP + timedelta(seconds=1)

        def are_gone() -> bool:
            left = path.read_text()
            return not [secret for secret in secrets if secret in left]

        await until(are_gone)


async def test_a_query_of_very_many_empty_pictures_is_refused_unparsed(
    tmp_path: Path,
) -> None:
    async with a_site_at_a_teacher(tmp_path) as (served, stub, asking):
        sealed, pending = asking.seal("Embed", b"\x42\x00" * 2_000)
        (answer,) = [answer async for answer in stub.Embed(iter([sealed]))]

        with pytest.raises(MalformedRequestError, match="has at most"):
            asking.open("Embed", answer, pending)
        await until(lambda: served.denied("malformed") == 1)


@pytest.mark.parametrize("place", [2**53 + 1, 2**63, 2**64 - 1])
async def test_a_place_that_no_log_has_is_no_error_of_the_teachers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, place: int
) -> None:
    pki = Pki()
    async with (
        serving(tmp_path, pki, MeanColour()) as served,
        served.channel(pki.site()) as channel,
    ):
        stub: Any = TeacherServiceStub(channel)
        audit: Any = AuditServiceStub(channel)
        asking = await side(stub, "site-a", key_of("site-a"))
        wanted = audit_pb2.ReceiptsRequest(from_place=place)
        receipts, pending = asking.seal("Receipts", wanted)
        call = audit.InclusionProof(audit_pb2.InclusionProofRequest(place=place))
        growth, proof = asking.seal(
            "ConsistencyProof", audit_pb2.ConsistencyProofRequest(size=place)
        )

        assert await call.code() is grpc.StatusCode.NOT_FOUND
        answer = await audit.ConsistencyProof(growth)
        shown = asking.open("ConsistencyProof", answer, proof)
        assert not shown.proof
        assert shown.checkpoint.size < place
        with pytest.raises(UnknownEntryError, match="no log is so long"):
            asking.open("Receipts", await audit.Receipts(receipts), pending)
        assert "unexpected error" not in caplog.text

"""What costs a site nothing, refused queries and looks at the log, slows no other."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moma_core.audit.log import AuditLog
from moma_core.teacher.pixel_encoding import PixelEncoding
from moma_proto.convert import teacher as convert
from moma_proto.v1 import teacher_pb2 as pb
from moma_proto.v1.audit_pb2 import ReceiptsRequest
from moma_proto.v1.audit_pb2_grpc import AuditServiceStub
from moma_server.rpc.places import SiteBytes, SitePlaces
from moma_server.teacher.query.pipeline import QueryPipeline
from moma_server.teacher.wire import servicer
from tests.support.federation.pki import Pki
from tests.support.machine.waiting import WAIT_SECONDS, until
from tests.support.teacher.sealed import SiteSide
from tests.support.teacher.teacher_server import (
    SIDE_PX,
    MeanColour,
    ask,
    refusal,
    request,
    serving,
)

_STREAMS = 4
_QUERIES = 4  # of each stream, as many as are read at once


class SlowWork:
    """Stands before work that takes a thread, and counts what is done at once.

    Args:
        work: What is done.
    """

    def __init__(self, work: Any) -> None:
        self._work, self._lock = work, threading.Lock()
        self.running = self.most = 0
        self.free = threading.Event()

    def __call__(self, *arguments: Any) -> Any:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        assert self.free.wait(WAIT_SECONDS)
        with self._lock:
            self.running -= 1
        return self._work(*arguments)


def pictures() -> pb.EmbedRequest:
    """Returns a query whose one patch is a picture."""
    asked = request()
    pixels = np.frombuffer(asked.pixels, np.uint8).reshape(1, SIDE_PX, SIDE_PX, 3)
    asked.pictures.extend(PixelEncoding("png").pictures(pixels))
    asked.pixels, asked.format = b"", pb.PIXEL_FORMAT_PNG
    return asked


def test_pictures_of_a_site_without_a_budget_are_read_one_query_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = SlowWork(convert.read_pictures)
    monkeypatch.setattr(convert, "read_pictures", slow)
    pki = Pki()

    async def scenario() -> None:
        async with (
            serving(tmp_path, pki, MeanColour(), grants={"site-b": 0}) as served,
            served.stub(pki.site("site-a")) as honest,
            served.stub(pki.site("site-b")) as hostile,
        ):
            flood = [
                asyncio.create_task(
                    ask(hostile, *(pictures() for _ in range(_QUERIES)))
                )
                for _ in range(_STREAMS)
            ]
            await until(lambda: slow.running)

            responses = await ask(honest, request())
            at_once = slow.most
            slow.free.set()
            await asyncio.gather(*flood, return_exceptions=True)
            await until(lambda: served.denied("budget", site="site-b") >= _STREAMS)

            assert len(responses) == 1
            assert at_once == slow.most == 1

    asyncio.run(scenario())


def test_others_rest_beside_charged_queries_and_beside_nothing_that_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, give = list[bool](), SitePlaces._give

    def noted(*arguments: Any) -> None:
        given.append(arguments[-1])
        give(*arguments)

    monkeypatch.setattr(SitePlaces, "_give", noted)
    pki = Pki()

    async def scenario() -> None:
        async with (
            serving(tmp_path, pki, MeanColour(), grants={"site-a": 1}) as served,
            served.stub(pki.site("site-a")) as site,
        ):
            await site.Budget(pb.BudgetRequest())
            assert given == [False]
            await ask(site, request())
            assert given == [False, True]
            await refusal(site, request())  # nothing is left of its budget
            await until(lambda: len(given) == 3)

    asyncio.run(scenario())

    assert given == [False, True, False]


@pytest.mark.parametrize("first_goes_away", [False, True])
def test_all_streams_of_a_site_hold_together_what_one_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first_goes_away: bool
) -> None:
    slow = SlowWork(convert.read_pictures)
    monkeypatch.setattr(convert, "read_pictures", slow)
    monkeypatch.setattr(servicer, "SiteBytes", lambda _bytes: SiteBytes(1))
    begun, embed = [], QueryPipeline.embed

    async def counted(*arguments: Any) -> Any:
        begun.append(arguments)
        return await embed(*arguments)

    monkeypatch.setattr(QueryPipeline, "embed", counted)
    pki = Pki()

    async def scenario() -> None:
        async with (
            serving(tmp_path, pki, MeanColour()) as served,
            served.stub(pki.site("site-a")) as honest,
            served.stub(pki.site("site-b")) as greedy,
        ):
            first = asyncio.create_task(ask(greedy, pictures()))
            await until(lambda: slow.running)
            second = asyncio.create_task(ask(greedy, pictures()))
            assert await ask(honest, request())
            assert len(begun) == 2  # the first one's, and the honest one's

            if first_goes_away:
                first.cancel()
                await until(lambda: len(begun) == 3)
            slow.free.set()
            assert await second
            assert len(begun) == 3
            await asyncio.gather(first, return_exceptions=True)

    asyncio.run(scenario())


def test_receipts_of_a_site_are_read_one_call_at_a_time_beside_its_queries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = SlowWork(AuditLog.receipts_from)
    monkeypatch.setattr(AuditLog, "receipts_from", lambda *arguments: slow(*arguments))
    pki = Pki()

    async def scenario() -> None:
        async with (
            serving(tmp_path, pki, MeanColour()) as served,
            served.stub(pki.site("site-a")) as honest,
            served.stub(pki.site("site-b")) as own,
            served.channel(pki.site("site-b")) as channel,
        ):
            side = SiteSide(served.server.card(), "site-b")
            audit: Any = AuditServiceStub(channel)
            calls = [
                audit.Receipts(side.seal("Receipts", ReceiptsRequest())[0])
                for _ in range(6)
            ]
            await until(lambda: slow.running)

            responses = await ask(honest, request()), await ask(own, request())
            at_once = slow.most
            slow.free.set()
            await asyncio.gather(*calls)

            assert [len(each) for each in responses] == [1, 1]
            assert at_once == slow.most == 1

    asyncio.run(scenario())

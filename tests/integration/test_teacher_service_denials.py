"""A denied query is counted once, and logged, however often it is denied."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from moma_core.audit.denials import MOST_ENTRIES
from moma_core.audit.export import export_lines
from moma_core.audit.verify import verify_export
from tests.pki import Pki
from tests.teacher_server import (
    MeanColour,
    books_in,
    refusal,
    request,
    serving,
    signing_key_in,
)
from tests.waiting import until


def test_a_refusal_is_not_counted_as_a_message_that_was_too_large(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        pki = Pki()
        async with (
            serving(tmp_path, pki, MeanColour(), grants={"site-a": 1}) as served,
            served.stub(pki.site()) as stub,
        ):
            for _ in range(5):
                await refusal(stub, request(patches=2))

            await until(lambda: served.denied("budget") == 5)
            assert served.denied("size") == 0

    asyncio.run(scenario())


def test_a_site_that_is_denied_over_and_over_costs_the_log_a_few_entries(
    tmp_path: Path,
) -> None:
    times = 3 * MOST_ENTRIES

    async def denied_after(more: int) -> float:
        pki = Pki()
        async with (
            serving(tmp_path, pki, MeanColour(), grants={"site-a": 1}) as served,
            served.stub(pki.site()) as stub,
        ):
            for _ in range(more):
                await refusal(stub, request(patches=2))
            return served.denied("budget")

    async def scenario() -> None:
        assert await denied_after(times) <= times
        assert await denied_after(0) == times  # as the log says

        books = books_in(tmp_path, "teacher-a", {}, lambda: datetime.now(UTC))
        lines = books.read(lambda database: list(export_lines(database)[0]))
        books.ledger.close()
        found = verify_export(lines, signing_key_in(tmp_path).public)
        assert found.sites["site-a"].denied == {"budget": times}
        two_minutes = 2 * (MOST_ENTRIES + 1)  # one may begin meanwhile
        assert sum(b'"denied"' in line for line in lines) <= two_minutes

    asyncio.run(scenario())

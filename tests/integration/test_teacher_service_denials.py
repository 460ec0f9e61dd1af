"""A denied query is counted once, for the reason that it was denied for."""

import asyncio
from pathlib import Path

from tests.pki import Pki
from tests.teacher_server import MeanColour, refusal, request, serving, until


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

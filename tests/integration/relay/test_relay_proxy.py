"""A teacher that dials out to its relay does so through the hospital's proxy."""

import asyncio
from pathlib import Path

from moma_core.network.proxy import ProxyRule
from tests.support.federation.pki import Pki
from tests.support.machine.connect_proxy import connect_proxy
from tests.support.relay.world import bytes_server, linked_agent, relaying, until


def test_a_link_goes_through_the_proxy(tmp_path: Path, pki: Pki) -> None:
    async def go() -> None:
        async with relaying(tmp_path / "relay", pki) as relay:
            socket = tmp_path / "relayed.sock"
            credential = pki.issue("teacher", "teacher-a")
            with connect_proxy() as proxy:
                async with (
                    bytes_server(socket, lambda *_: None),
                    linked_agent(
                        tmp_path / "teacher",
                        credential,
                        pki,
                        relay.port,
                        socket,
                        proxy=ProxyRule(proxy.url),
                    ),
                ):
                    await until(lambda: relay.links.get("teacher-a", 0) == 1)

                    assert set(proxy.asked) == {f"localhost:{relay.port}"}

    asyncio.run(go())

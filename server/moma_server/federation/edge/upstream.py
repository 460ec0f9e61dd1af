"""The edge's end towards SuperLink: one call, one answer, neither without a limit."""

import asyncio
from typing import NamedTuple

import httpx

from moma_server.federation.engine.socket import ENGINE_URL, EngineAddress

_SECONDS = 60.0
_MAX_CONNECTIONS = 256


class UpstreamAnswer(NamedTuple):
    """What SuperLink said."""

    status: int
    content: bytes
    headers: dict[str, str]


class EdgeUpstream:
    """SuperLink, as the edge sees it.

    Args:
        address: Where it listens.
        max_answer_bytes: A longer answer is given up while it is read.
    """

    def __init__(self, address: EngineAddress, *, max_answer_bytes: int) -> None:
        self._max_answer_bytes = max_answer_bytes
        self._client = httpx.AsyncClient(
            base_url=ENGINE_URL,
            transport=httpx.AsyncHTTPTransport(
                verify=address.trust(),
                uds=str(address.socket),
                limits=httpx.Limits(max_connections=_MAX_CONNECTIONS),
            ),
            timeout=_SECONDS,
        )

    async def close(self) -> None:
        """Hangs up."""
        await self._client.aclose()

    async def ask(
        self, call: str, body: bytes, headers: dict[str, str]
    ) -> UpstreamAnswer | None:
        """Makes a call; None where there is no answer to pass on."""
        request = self._client.build_request(
            "POST",
            f"/v1/fleet/{call}",
            content=body,
            headers={**headers, "accept-encoding": "identity"},
        )
        try:
            async with asyncio.timeout(_SECONDS):
                answer = await self._client.send(request, stream=True)
                try:
                    return await self._read(answer)
                finally:
                    await answer.aclose()
        except (httpx.TransportError, TimeoutError):
            return None

    async def _read(self, answer: httpx.Response) -> UpstreamAnswer | None:
        if answer.is_server_error or "content-encoding" in answer.headers:
            return None
        content = bytearray()
        async for chunk in answer.aiter_raw():  # never decompressed
            content += chunk
            if len(content) > self._max_answer_bytes:
                return None
        return UpstreamAnswer(
            answer.status_code, bytes(content), dict(answer.headers.items())
        )

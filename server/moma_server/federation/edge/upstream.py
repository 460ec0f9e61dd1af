"""The edge's calls to SuperLink: one call, one response, neither without a limit."""

import asyncio
from typing import NamedTuple

import httpx

from moma_server.federation.engine.socket import ENGINE_URL, EngineAddress

_SECONDS = 60.0
_MAX_CONNECTIONS = 256


class UpstreamResponse(NamedTuple):
    """SuperLink's response to a call."""

    status: int
    content: bytes
    headers: dict[str, str]


class EdgeUpstream:
    """SuperLink, as the edge sees it.

    Args:
        address: Where SuperLink listens.
        max_response_bytes: A longer response is given up while it is read.
    """

    def __init__(self, address: EngineAddress, *, max_response_bytes: int) -> None:
        self._max_response_bytes = max_response_bytes
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

    async def call(
        self, name: str, body: bytes, headers: dict[str, str]
    ) -> UpstreamResponse | None:
        """Makes a call; None where there is no response to pass on."""
        request = self._client.build_request(
            "POST",
            f"/v1/fleet/{name}",
            content=body,
            headers={**headers, "accept-encoding": "identity"},
        )
        try:
            async with asyncio.timeout(_SECONDS):
                response = await self._client.send(request, stream=True)
                try:
                    return await self._read(response)
                finally:
                    await response.aclose()
        except (httpx.TransportError, TimeoutError):
            return None

    async def _read(self, response: httpx.Response) -> UpstreamResponse | None:
        if response.is_server_error or "content-encoding" in response.headers:
            return None
        content = bytearray()
        async for chunk in response.aiter_raw():  # never decompressed
            content += chunk
            if len(content) > self._max_response_bytes:
                return None
        return UpstreamResponse(
            response.status_code, bytes(content), dict(response.headers.items())
        )

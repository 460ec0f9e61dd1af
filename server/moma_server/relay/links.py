"""The teachers' links at the coordinator, and which of them serves a call."""

import asyncio
from asyncio import StreamReader, StreamWriter
from collections import OrderedDict, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import grpc

from moma_core.errors import TeacherBusyError
from moma_server.relay.limits import RelayBounds
from moma_server.rpc.unix_socket import make_socket_path, remove_socket_folder

_CONNECT_SECONDS = 10.0
_MOST_REMEMBERED = 64  # of one site and teacher, so that no site forgets another's
_RETRY_SECONDS = 1.0


class Link:
    """One replica of a teacher: a channel to its server, by the stream that it opened.

    Args:
        channel: Channel to the teacher's server, over the link.
        bounds: Bounds of the link.

    Attributes:
        channel: Channel to the teacher's server, over the link.
        calls: How many are open.
        is_leaving: It takes no new calls.
        is_lost: The stream has ended, and with it all calls.
    """

    def __init__(self, channel: grpc.aio.Channel, bounds: RelayBounds) -> None:
        self._bounds = bounds
        self._left = asyncio.Event()
        self.channel = channel
        self.calls = 0
        self.is_leaving = False
        self.is_lost = False

    @contextmanager
    def call(self) -> Iterator[None]:
        """Counts a call as open while the block runs.

        Raises:
            TeacherBusyError: Too many are open.
        """
        if self.calls >= self._bounds.calls:
            raise TeacherBusyError("the relay has too many calls open", _RETRY_SECONDS)
        self.calls += 1
        try:
            yield
        finally:
            self.calls -= 1
            self._end_if_left()

    def leave(self) -> None:
        """Takes no new calls; the link ends when those that are open have ended."""
        self.is_leaving = True
        self._end_if_left()

    async def left(self) -> None:
        """Waits until the teacher is leaving and no call is open."""
        await self._left.wait()

    def _end_if_left(self) -> None:
        if self.is_leaving and not self.calls:
            self._left.set()


@asynccontextmanager
async def local_channel(
    bounds: RelayBounds,
) -> AsyncIterator[tuple[grpc.aio.Channel, StreamReader, StreamWriter]]:
    """Opens a channel whose bytes come out here, to be carried to a teacher.

    gRPC takes no connection that is open already. So it makes one, by a Unix socket
    that is there for so long, in a folder that is this user's alone.

    Raises:
        ConfigError: The folder for temporary files has too long a path.
    """
    path = make_socket_path("link.sock")
    channel = grpc.aio.insecure_channel(f"unix:{path}", _options(bounds))
    try:
        reader, writer = await _connection_of(channel, path, bounds)
        try:
            yield channel, reader, writer
        finally:
            writer.close()
    finally:
        await channel.close()


async def _connection_of(
    channel: grpc.aio.Channel, path: Path, bounds: RelayBounds
) -> tuple[StreamReader, StreamWriter]:
    """Returns the other end of a channel's connection; a second one it cannot make."""
    ends: asyncio.Queue[tuple[StreamReader, StreamWriter]] = asyncio.Queue()
    try:
        server = await asyncio.start_unix_server(
            lambda *pair: ends.put_nowait(pair), path, limit=bounds.frame_bytes
        )
        try:
            channel.get_state(try_to_connect=True)
            async with asyncio.timeout(_CONNECT_SECONDS):
                return await ends.get()
        finally:
            server.close()
    finally:
        remove_socket_folder(path)


def _options(bounds: RelayBounds) -> list[tuple[str, int | str]]:
    return [
        ("grpc.max_receive_message_length", bounds.message_bytes),
        ("grpc.max_send_message_length", bounds.message_bytes),
        ("grpc.http2.lookahead_bytes", bounds.window_bytes),
        ("grpc.http2.bdp_probe", 0),  # it would widen the window
        ("grpc.per_message_decompression", 0),  # a bound holds of what is unpacked
        ("grpc.client_idle_timeout_ms", 2**31 - 1),
        ("grpc.enable_retries", 0),
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.default_authority", "localhost"),
    ]


class Links:
    """All open links, by the name in the teachers' certificates.

    Args:
        on_change: Called with how many links each teacher has, when that changes.
    """

    def __init__(self, on_change: Callable[[dict[str, int]], None]) -> None:
        self._on_change = on_change
        self._links: defaultdict[str, list[Link]] = defaultdict(list)
        self._chosen: defaultdict[tuple[str, str], OrderedDict[str, Link]]
        self._chosen = defaultdict(OrderedDict)  # by teacher and site

    @contextmanager
    def open(self, teacher: str, link: Link) -> Iterator[None]:
        """Has a link serve calls for a teacher while the block runs."""
        self._links[teacher].append(link)
        self._report()
        try:
            yield
        finally:
            link.is_lost = True
            self._links[teacher].remove(link)
            if not self._links[teacher]:
                del self._links[teacher]
            self._forget(link)
            self._report()

    def choose(self, teacher: str, site: str, thread: str) -> Link | None:
        """Returns who serves a call: the replica with the fewest open calls.

        Args:
            teacher: Name of the teacher.
            site: Name of the caller, as its certificate says.
            thread: Name that the caller gives to calls that belong together. They go
                to one replica for as long as it is there, so that a momentum session
                finds its copy. Empty: the call stands alone.
        """
        willing = [one for one in self._links.get(teacher, ()) if not one.is_leaving]
        if not willing:
            return None
        if not thread:
            return min(willing, key=lambda one: one.calls)
        remembered = self._chosen[teacher, site]
        chosen = remembered.pop(thread, None)
        if chosen is None or chosen not in willing:
            chosen = min(willing, key=lambda one: one.calls)
        remembered[thread] = chosen  # the last, so that it is forgotten last
        while len(remembered) > _MOST_REMEMBERED:
            remembered.popitem(last=False)
        return chosen

    def _forget(self, link: Link) -> None:
        """Drops a link that has ended, and callers of whom nothing is left."""
        for caller, remembered in list(self._chosen.items()):
            for thread in [name for name, kept in remembered.items() if kept is link]:
                del remembered[thread]
            if not remembered:
                del self._chosen[caller]

    def _report(self) -> None:
        self._on_change({name: len(links) for name, links in self._links.items()})

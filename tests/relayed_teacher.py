"""A real teacher behind a real relay, for tests whose site is the real client."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import grpc

from moma_server.relay.attaching import Attaching
from moma_server.relay.server import RelaySettings
from tests.pki import Pki
from tests.relay_world import WAIT_SECONDS, Relay, attached, relaying
from tests.teacher_server import Served

T = TypeVar("T")


@contextmanager
def in_thread(opened: Callable[[], AbstractAsyncContextManager[T]]) -> Iterator[T]:
    """Keeps an asynchronous context open in a loop of its own."""
    started: Future[T] = Future()
    loop = asyncio.new_event_loop()
    over = asyncio.Event()

    async def serve() -> None:
        async with opened() as value:
            started.set_result(value)
            await over.wait()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            try:
                runner.run(serve())
            except Exception as error:
                if started.done():
                    raise
                started.set_exception(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield started.result(WAIT_SECONDS)
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(WAIT_SECONDS)


@contextmanager
def relay_at(folder: Path, pki: Pki, port: int = 0) -> Iterator[Relay]:
    """Runs the coordinator's relay; a second one on its port continues it."""
    folder.mkdir(exist_ok=True)
    settings = RelaySettings(port=port, sweep_seconds=0.2)
    with in_thread(lambda: relaying(folder, pki, settings)) as relay:
        yield relay


@contextmanager
def linked(folder: Path, pki: Pki, port: int, served: Served) -> Iterator[Attaching]:
    """Links a teacher's real server to the relay on `port`."""
    socket = folder / "relayed.sock"
    credential = pki.issue("teacher", "teacher-a")
    with (
        socket_to(served, socket),
        in_thread(lambda: attached(folder, credential, pki, port, socket)) as end,
    ):
        yield end


@contextmanager
def socket_to(served: Served, socket: Path) -> Iterator[None]:
    """Takes calls on a Unix-domain socket to the server's port, as site-a."""
    socket.parent.mkdir(exist_ok=True)
    server = grpc.server(
        ThreadPoolExecutor(16), options=[("grpc.max_receive_message_length", -1)]
    )
    with served.channel(served.pki.site("site-a"), grpc) as channel:
        server.add_generic_rpc_handlers((_Valet(channel),))
        server.add_insecure_port(f"unix:{socket}")
        server.start()
        try:
            yield
        finally:
            server.stop(grace=None).wait(WAIT_SECONDS)


class _Valet(grpc.GenericRpcHandler):
    """Passes calls on as they are."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel

    def service(self, handler_call_details: Any) -> Any:
        method: Any = self._channel.stream_stream(handler_call_details.method)

        def behaviour(requests: Any, context: Any) -> Iterator[bytes]:
            call = method(requests, timeout=min(context.time_remaining(), 3600.0))
            context.add_callback(call.cancel)
            try:
                yield from call
            except grpc.RpcError:
                context.set_trailing_metadata(call.trailing_metadata())
                context.abort(call.code(), call.details())

        return grpc.stream_stream_rpc_method_handler(behaviour)

"""A real teacher behind a real relay, for tests whose site is the real client."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import TypeVar

from moma_server.relay.agent import RelayAgent
from moma_server.relay.server import RelaySettings
from tests.support.federation.pki import Pki
from tests.support.relay.world import WAIT_SECONDS, Relay, linked_agent, relaying

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
def linked(folder: Path, pki: Pki, port: int, socket: Path) -> Iterator[RelayAgent]:
    """Links a teacher's server, which takes relayed calls at `socket`, to a relay."""
    credential = pki.issue("teacher", "teacher-a")
    with in_thread(lambda: linked_agent(folder, credential, pki, port, socket)) as end:
        yield end

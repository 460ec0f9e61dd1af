"""Each service in a process of its own, and what it used."""

import asyncio
import multiprocessing
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from sqlalchemy import event

from benchmarks.service.backends import backend_of
from benchmarks.service.federation import TEACHER, Federation
from benchmarks.service.relaying import attached, relaying
from benchmarks.service.services import bare, ledger_at, sealed, whole
from moma_core.audit.ledger import Ledger
from moma_core.audit.tables import read_head
from moma_core.runtime.database import reading

_START_SECONDS = 120.0
_STOP_SECONDS = 20.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Served:
    """What a process serves.

    Args:
        kind: `bare`, `sealed`, `whole` or `relay`.
        model: A timm name, or `backends.NOTHING`; empty for a relay.
        side_px: Of a patch.
        threads: Of the model.
        relay_port: To which the teacher of `whole` is linked; 0: to none.
    """

    kind: str
    model: str = ""
    side_px: int = 0
    threads: int = 1
    relay_port: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process has used so far.

    Args:
        cpu_seconds: Of all its threads.
        thread_seconds: Of those Python threads that have a name of ours.
        resident_bytes: At present.
        entries: Of the log.
        commits: Of writers of the books.
        handles: Files and sockets that are open.
        threads: Of Python and of libraries.
    """

    cpu_seconds: float
    thread_seconds: dict[str, float] = field(default_factory=dict)
    resident_bytes: int = 0
    entries: int = 0
    commits: int = 0
    handles: int = 0
    threads: int = 0


class ServiceProcess:
    """A running service.

    Args:
        pipe: To its process.
        port: On loopback.
    """

    def __init__(self, pipe: Connection, port: int) -> None:
        self._pipe = pipe
        self.port = port

    def usage(self) -> Usage:
        """Returns what it has used so far."""
        self._pipe.send("usage")
        found: Usage = self._pipe.recv()
        return found


@contextmanager
def serving(federation: Federation, served: Served) -> Iterator[ServiceProcess]:
    """Runs a service while the block does.

    Raises:
        RuntimeError: It does not start.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_main, args=(federation, served, theirs))
    process.start()
    theirs.close()
    try:
        if not ours.poll(_START_SECONDS):
            raise RuntimeError(f"{served} does not start")
        yield ServiceProcess(ours, ours.recv())
    finally:
        ours.close()
        process.join(_STOP_SECONDS)
        process.kill()


def _main(federation: Federation, served: Served, pipe: Connection) -> None:
    torch.set_num_threads(served.threads)
    asyncio.run(_serve(federation, served, pipe))


async def _serve(federation: Federation, served: Served, pipe: Connection) -> None:
    async with AsyncExitStack() as stack:
        meter = _Meter(None)
        if served.kind == "relay":
            port = await stack.enter_async_context(relaying(federation))
        else:
            ledger = ledger_at(federation, federation.folder / f"{served.kind}.db")
            stack.callback(ledger.budget.close)
            meter = _Meter(ledger)
            service = _service(federation, served, ledger)
            port = await stack.enter_async_context(service)
        pipe.send(port)
        while await asyncio.to_thread(_asked, pipe):
            pipe.send(meter.usage())


@asynccontextmanager
async def _service(
    federation: Federation, served: Served, ledger: Ledger
) -> AsyncIterator[int]:
    backend = backend_of(served.model, served.side_px)
    if served.kind == "bare":
        async with bare(federation, backend) as port:
            yield port
    elif served.kind == "sealed":
        async with sealed(federation, backend, ledger) as port:
            yield port
    elif not served.relay_port:
        async with whole(federation, backend, ledger, None) as port:
            yield port
    else:
        # one of each process: several serve one relay
        socket = federation.home(TEACHER) / f"relayed-{os.getpid()}.sock"
        async with (
            attached(federation, socket, served.relay_port),
            whole(federation, backend, ledger, socket) as port,
        ):
            yield port


def _asked(pipe: Connection) -> bool:
    try:
        pipe.recv()
    except EOFError:  # the benchmark is over
        return False
    return True


class _Meter:
    """Reads what this process used.

    Args:
        books: Whose commits are counted; None: there are none.
    """

    def __init__(self, ledger: Ledger | None) -> None:
        self._ledger = ledger
        self._commits = 0
        if ledger is not None:
            engine = ledger.budget.engine
            self._reads = reading(engine).get_execution_options()
            event.listen(engine, "commit", self._count)

    def usage(self) -> Usage:
        commits, entries = self._commits, 0
        if self._ledger is not None:
            head = self._ledger.read(read_head)
            entries = 0 if head is None else head.size
        return Usage(
            time.process_time(),
            _thread_seconds(),
            int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES,
            entries,
            commits,
            len(list(Path("/proc/self/fd").iterdir())),
            len(list(Path("/proc/self/task").iterdir())),
        )

    def _count(self, connection: Any) -> None:  # noqa: ANN401 SQLAlchemy's event
        if connection.get_execution_options() != self._reads:
            self._commits += 1


def _thread_seconds() -> dict[str, float]:
    """Returns the CPU seconds of each kind of thread that still lives."""
    found: dict[str, float] = {}
    for thread in threading.enumerate():
        kind = thread.name.rstrip("0123456789").rstrip("_-")
        if thread.ident is not None:
            clock = time.pthread_getcpuclockid(thread.ident)
            found[kind] = found.get(kind, 0.0) + time.clock_gettime(clock)
    return found

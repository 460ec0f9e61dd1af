"""A site that wants all, in a process of its own, so that it takes nothing of ours."""

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection

from benchmarks.service.driving import Load
from benchmarks.service.federation import Federation
from benchmarks.soak.askers import Asked, AskingSites

_START_SECONDS = 180.0


@contextmanager
def asking_beside(
    federation: Federation,
    port: int,
    sites: Sequence[str],
    load: Load,
    *,
    niceness: int = 0,
) -> Iterator["Beside"]:
    """Has sites ask from another process, of that niceness, while the block runs."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=_main, args=(federation, port, tuple(sites), load, niceness, theirs)
    )
    process.start()
    theirs.close()
    try:
        if not ours.poll(_START_SECONDS):
            raise RuntimeError(f"{len(sites)} sites do not start")
        ours.recv()
        yield Beside(ours)
    finally:
        ours.close()
        process.join(_START_SECONDS)
        process.kill()


class Beside:
    """Sites that ask in another process.

    Args:
        pipe: To the process.
    """

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def taken(self) -> Asked:
        """Returns what came since the last look."""
        self._pipe.send("taken")
        found: Asked = self._pipe.recv()
        return found


def _main(
    federation: Federation,
    port: int,
    names: tuple[str, ...],
    load: Load,
    niceness: int,
    pipe: Connection,
) -> None:
    os.nice(niceness)
    sites = AskingSites(federation, port, names, load)
    sites.start()
    try:
        pipe.send("ready")
        while True:
            pipe.recv()
            pipe.send(sites.taken())
    except (EOFError, OSError):
        pass  # it is over
    finally:
        sites.stop()

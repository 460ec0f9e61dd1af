"""Faults at random moments of a real run, and a keeper that starts again what ended.

The keeper is what systemd is to a server, and what an operator is to a client: the
same command again. A seed names the order of strikes; when each one lands is up to the
machine.
"""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.support.e2e.programs import Program
from tests.support.e2e.world import World

_LOOK_SECONDS = 0.1
_SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP)
_LONGEST_PAUSE_SECONDS = 6.0  # between two strikes
_LONGEST_STOP_SECONDS = 5.0  # of a process that stands still
_LONGEST_END_SECONDS = 20.0  # from SIGTERM, with calls that are answered first
_FASTEST_RESTART_SECONDS = 1.0  # as the unit files say
_GENTLE_RATE = 0.001


@dataclass
class Storm:
    """What was done to a run.

    Args:
        strikes: By program, process of the program, and signal.
        starts: Of each program, the first one as well.
        stopped: Exit statuses that a program ended with, by its name.
        is_over: Whether both sites said that they are done.
    """

    strikes: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    starts: Counter[str] = field(default_factory=Counter)
    stopped: dict[str, Counter[int]] = field(default_factory=dict)
    is_over: bool = False


class Keeper:
    """Starts all of a world's programs, and each one again that ends before its time.

    Args:
        world: Its four institutions.
    """

    def __init__(self, world: World) -> None:
        self.storm = Storm()
        self._world = world
        self._start: dict[str, Callable[[str], Program]] = {
            "coordinator": world.serve,
            "teacher": world.serve,
            **dict.fromkeys(world.names, world.take_part),
        }
        self._running: dict[str, Program] = {}
        self._started: dict[str, float] = {}
        self._done: set[str] = set()
        self._ends_by = 0.0  # until then a program may still be about to end
        for name in self._start:
            self._run(name)

    def watch(self, seconds: float, until: Callable[[], bool] | None = None) -> None:
        """Looks after the programs for a time, or until the run is over.

        Args:
            seconds: At most.
            until: Ends it when it holds.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self.storm.is_over:
            self._look()
            if until is not None and until():
                break
            time.sleep(_LOOK_SECONDS)

    def finish(self, seconds: float) -> None:
        """Looks after the programs until the run is over and its servers run.

        One that was struck as the run ended is started again like every other, also
        where it takes its time to end.
        """
        deadline = time.monotonic() + seconds
        self.watch(seconds)
        servers = self._start.keys() - set(self._world.names)
        while time.monotonic() < deadline and (
            time.monotonic() < self._ends_by
            or any(self._running[name].process.poll() is not None for name in servers)
        ):
            self._look()
            time.sleep(_LOOK_SECONDS)

    def kill(self, name: str) -> None:
        """Kills a program that is not done; the next look starts it again."""
        if name not in self._done:
            self._running[name].killed()

    @contextmanager
    def halted(self, name: str) -> Iterator[None]:
        """Has all processes of a program stand still while the block runs."""
        pid = self._running[name].process.pid
        processes = [process for process, _ in _processes_of(pid)]
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for process in processes:
                with suppress(ProcessLookupError):
                    os.kill(process, number)
            if number == signal.SIGSTOP:
                yield

    def strike(self, chance: Random) -> None:
        """Sends a signal to one process of one program, both by chance."""
        name = chance.choice(sorted(self._start))
        number = chance.choice(_SIGNALS)
        lasts = chance.uniform(0.1, _LONGEST_STOP_SECONDS)
        which = chance.random()
        if name in self._done:
            return
        processes = list(_processes_of(self._running[name].process.pid))
        if not processes:
            return
        pid, role = processes[int(which * len(processes))]
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            self.storm.strikes[name, role, signal.Signals(number).name] += 1
        if number == signal.SIGTERM:
            self._ends_by = time.monotonic() + _LONGEST_END_SECONDS
        if number == signal.SIGSTOP:
            self.watch(lasts)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def _look(self) -> None:
        for name, program in self._running.items():
            status = program.process.poll()
            if status is None or name in self._done:
                continue
            if status == 0 and name in self._world.names:
                self._done.add(name)
                self.storm.is_over = self._done >= set(self._world.names)
            elif time.monotonic() - self._started[name] > _FASTEST_RESTART_SECONDS:
                self.storm.stopped.setdefault(name, Counter())[status] += 1
                self._run(name)
                return  # the table was changed

    def _run(self, name: str) -> None:
        self._running[name] = self._start[name](name)
        self._started[name] = time.monotonic()
        self.storm.starts[name] += 1


def train_gently(world: World) -> None:
    """Has the sites take small steps, so that two runs can be held against each other.

    Embeddings of two runs differ in their last bits. Steps of the usual length make two
    students of that within some rounds, and a view that a cache rounds does it sooner.
    """
    for site in world.names:
        world.configure(
            site,
            training={"learning_rate": _GENTLE_RATE},
            teacher={"cache_precision": "float32"},
        )


def weather(world: World, *, strikes: int, seed: int, patience: float) -> Storm:
    """Runs a world to the end of its run while its processes are struck.

    Args:
        world: Its programs are not started yet; they run on when this returns.
        strikes: How many at most; a run that is over is not struck.
        seed: Of the strikes.
        patience: Seconds that the run may take from the last strike to its end.
    """
    chance, keeper = Random(seed), Keeper(world)
    for _ in range(strikes):
        keeper.watch(chance.uniform(0.1, _LONGEST_PAUSE_SECONDS))
        if keeper.storm.is_over:
            break
        keeper.strike(chance)
    keeper.finish(patience)
    return keeper.storm


@contextmanager
def in_peace(world: World, *, patience: float) -> Iterator[World]:
    """Yields a world whose run has ended with nothing done to it, and closes it."""
    try:
        assert weather(world, strikes=0, seed=0, patience=patience).is_over
        yield world
    finally:
        world.close()


def _processes_of(pid: int) -> Iterator[tuple[int, str]]:
    """Yields a process and all below it, with a word for what each one is."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, IndexError):
            fields = path.read_text().rpartition(") ")[2].split()
            children.setdefault(int(fields[1]), []).append(int(path.parent.name))
    waiting = [(pid, "parent")]
    while waiting:
        one, role = waiting.pop(0)
        yield one, role
        waiting += [(child, "child") for child in sorted(children.get(one, ()))]

"""What is looked at: growth, fairness, floods, push-back under overload, restarts."""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from benchmarks.service.backends import NOTHING, PACED
from benchmarks.service.driving import Load
from benchmarks.service.federation import Federation
from benchmarks.service.processes import Served, ServiceProcess, Usage, serving
from benchmarks.soak.askers import Asked, AskingSites, HealthLook, asking
from benchmarks.soak.greedy import asking_beside

Row = dict[str, object]

SIDE_PX, LARGE_PX = 32, 224
MODEST = Load(SIDE_PX, batch=1, in_flight=1)
MODEST_LARGE = Load(LARGE_PX, batch=1, in_flight=1)
STEADY = Load(SIDE_PX, batch=4, in_flight=2)
GREEDY = Load(SIDE_PX, batch=64, in_flight=8)
FLOODING = Load(LARGE_PX, batch=64, in_flight=4)
STREAMS = 8
"""Calls at once; a teacher allows one site no more."""

_PAUSE_SECONDS = 0.05  # of a modest site, between an answer and the next question
_LOOKS = 5  # at the health, in each period
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is looked at.

    Args:
        sites: That ask at once.
        seconds: Of the growth; a tenth of it for each trial of the others.
        periods: Into which the growth is cut.
        repetitions: Of each trial of fairness and floods, in turn with the others.
    """

    sites: int = 64
    seconds: float = 3600.0
    periods: int = 12
    repetitions: int = 3

    @property
    def trial_seconds(self) -> float:
        """Of one trial of fairness, floods or overload."""
        return min(30.0, self.seconds / 10)


@dataclass(frozen=True, slots=True)
class Soaked:
    """A teacher, and the sites that may ask it.

    Args:
        federation: All keys.
        teacher: Its process.
        sites: Names of the sites.
    """

    federation: Federation
    teacher: ServiceProcess
    sites: tuple[str, ...]

    @property
    def port(self) -> int:
        """Of the teacher."""
        return self.teacher.port


@contextmanager
def soaked(
    model: str, sites: int, work: Path, side_px: int = SIDE_PX
) -> Iterator[Soaked]:
    """Runs a teacher while the block does; nothing of it stays."""
    names = tuple(f"site-{place:03d}" for place in range(sites))
    with TemporaryDirectory(dir=work) as folder, ExitStack() as stack:
        keys = Federation.create(Path(folder) / "federation", names)
        served = Served("whole", model, side_px)
        yield Soaked(keys, stack.enter_context(serving(keys, served)), names)


def growth(plan: Plan, work: Path) -> Iterator[Row]:
    """Has all sites ask; yields what the teacher holds after each period."""
    with soaked(NOTHING, plan.sites, work) as found, ExitStack() as stack:
        names, keys = found.sites, found.federation
        sites = AskingSites(keys, found.port, names, STEADY)
        stack.enter_context(asking(sites))
        look = HealthLook(keys, found.port, names[0])
        stack.callback(look.close)
        before, began = found.teacher.usage(), time.perf_counter()
        for period in range(plan.periods):
            is_serving = _waited(plan.seconds / plan.periods, look)
            usage, asked = found.teacher.usage(), sites.taken()
            seconds = time.perf_counter() - began
            yield {
                "part": "growth",
                "key": f"{period + 1} of {plan.periods}",
                "sites": plan.sites,
                **_answers(asked, seconds),
                **_held(before, usage),
                "serving": is_serving,
            }
            before, began = usage, time.perf_counter()


def fairness(plan: Plan, work: Path) -> Iterator[Row]:
    """Asks as a modest site, beside another like it, and beside a greedy one."""
    neighbours = {"a modest one": (MODEST, 1), "a greedy one": (GREEDY, STREAMS)}
    with soaked(PACED, 2, work) as found:
        yield from _beside_each("fairness", found, MODEST, neighbours, plan)


def floods(plan: Plan, work: Path) -> Iterator[Row]:
    """Asks as a modest site, beside another like it, and beside floods of pixels.

    What a flood costs the site that sends it is another machine's processor: so the
    neighbours have what this machine's own has left.
    """
    yield from _floods("floods", PACED, plan, work)


def quick_floods(plan: Plan, work: Path) -> Iterator[Row]:
    """As `floods`, where the model costs nothing: then its queue hides no reading."""
    yield from _floods("quick-floods", NOTHING, plan, work)


def _floods(part: str, model: str, plan: Plan, work: Path) -> Iterator[Row]:
    neighbours = {
        "a modest one": (MODEST_LARGE, 1),
        "one that floods": (FLOODING, 1),
        f"one that floods on {STREAMS} streams": (FLOODING, STREAMS),
    }
    with soaked(model, 2, work, LARGE_PX) as found:
        yield from _beside_each(
            part, found, MODEST_LARGE, neighbours, plan, niceness=19
        )


def _beside_each(
    part: str,
    found: Soaked,
    load: Load,
    neighbours: Mapping[str, tuple[Load, int]],
    plan: Plan,
    *,
    niceness: int = 0,
) -> Iterator[Row]:
    """Asks as one site beside another, which has a load and streams."""
    keys, (one, other) = found.federation, found.sites
    for repetition in range(plan.repetitions):
        for name, (others, streams) in neighbours.items():
            sites = AskingSites(keys, found.port, [one], load, _PAUSE_SECONDS)
            names = [other] * streams
            with (
                asking_beside(keys, found.port, names, others, niceness=niceness),
                asking(sites),
            ):
                time.sleep(plan.trial_seconds)
                asked = sites.taken()
            yield {
                "part": part,
                "key": f"beside {name}/{repetition}",
                "sites": 2,
                **_answers(asked, plan.trial_seconds),
            }


def overload(plan: Plan, work: Path) -> Iterator[Row]:
    """Has all sites but one ask for more than is served, and the one for little."""
    with soaked(PACED, max(4, plan.sites // 4), work) as found, ExitStack() as stack:
        keys, (modest, *greedy) = found.federation, found.sites
        look = HealthLook(keys, found.port, modest)
        stack.callback(look.close)
        names = [name for name in greedy for _ in range(STREAMS)]
        beside = stack.enter_context(asking_beside(keys, found.port, names, GREEDY))
        sites = AskingSites(keys, found.port, [modest], MODEST, _PAUSE_SECONDS)
        stack.enter_context(asking(sites))
        beside.taken()
        is_serving = _waited(plan.trial_seconds, look)
        asked = {"many greedy ones": beside.taken(), "a modest one": sites.taken()}
        for name, each in asked.items():
            yield {
                "part": "overload",
                "key": name,
                "sites": len(greedy) if name.startswith("many") else 1,
                **_answers(each, plan.trial_seconds),
                "serving": is_serving,
            }


def restarts(plan: Plan, work: Path) -> Iterator[Row]:
    """Restarts one replica after another while sites ask by a relay."""
    names = tuple(f"site-{place:03d}" for place in range(max(2, plan.sites // 4)))
    with TemporaryDirectory(dir=work) as folder, ExitStack() as stack:
        keys = Federation.create(Path(folder) / "federation", names)
        relay = stack.enter_context(serving(keys, Served("relay")))
        served = Served("whole", NOTHING, SIDE_PX, relay_port=relay.port)
        replicas = [stack.enter_context(_Replica(keys, served)) for _ in range(2)]
        sites = AskingSites(keys, relay.port, names, MODEST, relayed=True)
        stack.enter_context(asking(sites))
        for number in range(plan.periods):
            began = time.perf_counter()
            replicas[number % 2].restart()
            time.sleep(plan.trial_seconds / 2)  # until the other one's turn
            yield {
                "part": "restarts",
                "key": f"{number + 1} of {plan.periods}",
                "sites": len(names),
                **_answers(sites.taken(), time.perf_counter() - began),
                "entries": replicas[number % 2].entries(),
            }


class _Replica:
    """One process of a teacher that has several.

    Args:
        keys: Of the federation.
        served: What it serves.
    """

    def __init__(self, keys: Federation, served: Served) -> None:
        self._keys, self._served = keys, served
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._process = self._stack.enter_context(serving(self._keys, self._served))
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def restart(self) -> None:
        """Stops in good order, and starts."""
        self.__exit__()
        self.__enter__()

    def entries(self) -> int:
        """Returns how long the log is."""
        return self._process.usage().entries


def _waited(seconds: float, look: HealthLook) -> bool:
    """Waits; returns whether the teacher said that it serves at each look."""
    found = []
    for _ in range(_LOOKS):
        time.sleep(seconds / _LOOKS)
        found.append(look.is_serving())
    return all(found)


def _answers(asked: Asked, seconds: float) -> Row:
    return {
        "seconds": round(seconds, 1),
        "answered": asked.answered,
        "faults": len(asked.faults),
        "p50_ms": asked.latency_ms(0.5),
        "p95_ms": asked.latency_ms(0.95),
        "fault": asked.faults[0] if asked.faults else "",
    }


def _held(before: Usage, after: Usage) -> Row:
    entries = max(1, after.entries - before.entries)
    ledger = [usage.thread_seconds.get("ledger", 0.0) for usage in (before, after)]
    return {
        "resident_mib": round(after.resident_bytes / _MIB, 1),
        "handles": after.handles,
        "threads": after.threads,
        "entries": after.entries,
        "log_ms": round(1000 * (ledger[1] - ledger[0]) / entries, 2),
    }

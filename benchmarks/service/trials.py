"""What is measured: services in turn, so that a busy machine slows all of them."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from benchmarks.service.backends import NOTHING
from benchmarks.service.driving import Driven, Load, Patches, drive
from benchmarks.service.processes import Usage
from benchmarks.service.world import World

SERVICES = {
    "local": "the model in the site's process",
    "bare": "gRPC with mutual TLS",
    "sealed": "+ gate, seal and signatures",
    "whole": "+ queue, budget, policy, log and receipt",
    "site": "+ order hidden, as a site trains",
    "relayed": "the whole through a relay",
}
"""From the least to the most; each is asked as in the line before it, and more."""

Row = dict[str, object]

_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Args:
        repetitions: Of each measurement, in turn with the others, at most.
        batches: Patches that are asked together, at most.
        seconds: Of one measurement, at least.
        fewest: Batches of one measurement.
        memory_periods: Of `memory_seconds` each, after which memory is read.
        memory_seconds: See `memory_periods`.
    """

    repetitions: int = 5
    batches: int = 64
    seconds: float = 0.8
    fewest: int = 4
    memory_periods: int = 12
    memory_seconds: float = 10.0


QUICK = Plan(batches=16, repetitions=1, seconds=0.3, memory_periods=2, memory_seconds=1)


@dataclass(frozen=True, slots=True)
class Cell:
    """One teacher, and who serves it.

    Args:
        model: A timm name, or `NOTHING`.
        side_px: Of a patch.
        services: That are compared.
        batches: Patches that are asked together.
        repetitions: At most.
    """

    model: str
    side_px: int
    services: tuple[str, ...]
    batches: tuple[int, ...] = (1, 16, 64)
    repetitions: int = 5


_SERVED = ("bare", "sealed", "whole", "site", "relayed")
_REAL = ("local", "bare", "whole", "relayed")
CELLS = (
    Cell(NOTHING, 32, _SERVED),
    Cell(NOTHING, 224, _SERVED),
    Cell(NOTHING, 512, _SERVED),
    Cell("resnet18", 224, _REAL, repetitions=3),
    Cell("efficientnet_b0", 224, _REAL, batches=(16,), repetitions=3),
)

DEPTHS = (4, 1)
"""Batches under way: as many as a stream is worked on at once, and one at a time."""

STREAMS = (1, 4, 8)
"""Calls at once; a teacher allows one site no more than eight."""


def compared(world: World, cell: Cell, plan: Plan, done: set[str]) -> Iterator[Row]:
    """Measures each service under each load, in turn."""
    for batch in (size for size in cell.batches if size <= plan.batches):
        for depth in DEPTHS:
            load = Load(cell.side_px, batch, depth)
            patches = Patches(load)
            for repetition in range(min(plan.repetitions, cell.repetitions)):
                turn = np.roll(cell.services, repetition).tolist()
                keys = [
                    f"{cell.model}/{cell.side_px}/{batch}/{depth}/{name}/{repetition}"
                    for name in turn
                ]
                if done.issuperset(keys):
                    continue
                for key, service in zip(keys, turn, strict=True):
                    found = _measured(world, service, load, patches, plan)
                    yield {
                        "part": "compared",
                        "key": key,
                        "repetition": repetition,
                        "service": service,
                        "model": cell.model,
                        **found,
                    }


def grouped(world: World, side_px: int, plan: Plan, done: set[str]) -> Iterator[Row]:
    """Measures how many entries share a commit, by the number of streams."""
    load = Load(side_px, 1, DEPTHS[0])
    for repetition in range(plan.repetitions):
        for streams in STREAMS:
            key = f"grouped/{streams}/{repetition}"
            if key in done:
                continue
            before, _ = world.usage("whole")
            driven = _driven_at_once(world, load, streams, plan)
            after, _ = world.usage("whole")
            yield {
                "part": "grouped",
                "key": key,
                "repetition": repetition,
                "service": "whole",
                "model": NOTHING,
                "streams": streams,
                **_row(load, driven, (before, after), None),
            }


def over_time(world: World, side_px: int, plan: Plan, done: set[str]) -> Iterator[Row]:
    """Reads the teacher's memory while one site asks and asks."""
    load = Load(side_px, 16, DEPTHS[0])
    patches = Patches(load)
    if f"memory/{plan.memory_periods - 1}" in done:
        return
    with world.asker("whole") as asker:
        for period in range(plan.memory_periods):
            before, _ = world.usage("whole")
            driven = drive(
                asker, patches, load, seconds=plan.memory_seconds, fewest=plan.fewest
            )
            after, _ = world.usage("whole")
            yield {
                "part": "memory",
                "key": f"memory/{period}",
                "repetition": period,
                "service": "whole",
                "model": NOTHING,
                **_row(load, driven, (before, after), None),
            }


def _measured(
    world: World, service: str, load: Load, patches: Patches, plan: Plan
) -> Row:
    with world.asker(service) as asker:
        teacher, relay = world.usage(service)
        driven = drive(asker, patches, load, seconds=plan.seconds, fewest=plan.fewest)
        teacher_after, relay_after = world.usage(service)
    relayed = (relay, relay_after) if service == "relayed" else None
    return _row(load, driven, (teacher, teacher_after), relayed)


def _driven_at_once(world: World, load: Load, streams: int, plan: Plan) -> Driven:
    """Asks by several streams, which begin together."""
    ready = threading.Barrier(streams)
    with ExitStack() as stack, ThreadPoolExecutor(streams) as threads:
        askers = [stack.enter_context(world.asker("whole")) for _ in range(streams)]

        def one(number: int) -> Driven:
            patches = Patches(load)
            ready.wait()
            return drive(
                askers[number],
                patches,
                load,
                seconds=plan.seconds,
                fewest=plan.fewest,
            )

        found = list(threads.map(one, range(streams)))
    return Driven(
        sum(each.batches for each in found),
        max(each.seconds for each in found),
        max(each.cpu_seconds for each in found),  # of one process, counted by each
        tuple(second for each in found for second in each.latencies),
    )


def _row(
    load: Load,
    driven: Driven,
    teacher: tuple[Usage, Usage],
    relay: tuple[Usage, Usage] | None,
) -> Row:
    before, after = teacher
    milliseconds = 1000 * np.array(driven.latencies)
    return {
        "side_px": load.side_px,
        "batch": load.batch,
        "in_flight": load.in_flight,
        "batches": driven.batches,
        "seconds": round(driven.seconds, 4),
        "p50_ms": round(float(np.quantile(milliseconds, 0.5)), 3),
        "p95_ms": round(float(np.quantile(milliseconds, 0.95)), 3),
        "site_cpu": round(driven.cpu_seconds, 4),
        "service_cpu": round(after.cpu_seconds - before.cpu_seconds, 4),
        "books_cpu": round(_ledger(after) - _ledger(before), 4),
        "relay_cpu": round(relay[1].cpu_seconds - relay[0].cpu_seconds, 4)
        if relay
        else "",
        "entries": after.entries - before.entries,
        "commits": after.commits - before.commits,
        "resident_mib": round(after.resident_bytes / _MIB, 1),
        "done": "yes",
    }


def _ledger(usage: Usage) -> float:
    return usage.thread_seconds.get("ledger", 0.0)

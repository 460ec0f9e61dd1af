"""The links between the parties of a world, each through a wire to disturb."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from random import Random

from tests.support.e2e.aftermath import last_words
from tests.support.e2e.programs import LOOPBACK
from tests.support.e2e.storm import Keeper
from tests.support.e2e.world import SITES, World
from tests.support.machine.cuttable import Wire, cuttable
from tests.support.machine.ports import free_port

LINK_FAULTS = ("cut", "reset", "hold", "slow")

_DELAYS_SECONDS = (0.1, 1.0)
_SHORTEST_SECONDS = 0.2


@contextmanager
def on_wires(world: World) -> Iterator[dict[str, Wire]]:
    """Puts a wire into each link between two parties, by the link's name.

    The first site asks the teacher itself, the second by the coordinator's relay.
    """
    relay = free_port()
    listen = {"listen": {"host": LOOPBACK, "port": relay}}
    world.configure("coordinator", coordinator={"relay": listen})
    ends = {
        "site-a to coordinator": world.ports["edge"],
        "site-b to coordinator": world.ports["edge"],
        "site-a to teacher": world.ports["teach"],
        "site-b to relay": relay,
        "teacher to relay": relay,
    }
    with ExitStack() as stack:
        wires = {
            name: stack.enter_context(cuttable(port)) for name, port in ends.items()
        }
        at = {name: f"{LOOPBACK}:{wire.entrance}" for name, wire in wires.items()}
        for site in SITES:
            address = at[f"{site} to coordinator"]
            world.configure(site, coordinator={"address": address})
        world.configure("site-a", teacher={"address": at["site-a to teacher"]})
        relayed = {"via": "coordinator", "address": at["site-b to relay"]}
        world.configure("site-b", teacher=relayed)
        dialled = {"relay": {"coordinator": at["teacher to relay"]}}
        world.configure("teacher", teacher=dialled)
        yield wires


def disturb(
    wire: Wire, fault: str, chance: Random, keeper: Keeper, *, longest_seconds: float
) -> None:
    """Disturbs one link, for a while by chance, and leaves it good.

    Args:
        wire: The link.
        fault: One of `LINK_FAULTS`.
        chance: Says for how long, and how slow.
        keeper: Looks after the programs meanwhile.
        longest_seconds: Of the while.
    """
    lasts = chance.uniform(_SHORTEST_SECONDS, longest_seconds)
    if fault == "cut":
        wire.cut()
    elif fault == "reset":
        wire.reset()
    elif fault == "hold":
        wire.flows.clear()
        keeper.watch(lasts)
        wire.flows.set()
    else:
        wire.delay_seconds = chance.choice(_DELAYS_SECONDS)
        keeper.watch(lasts)
        wire.delay_seconds = 0.0


@contextmanager
def kept(world: World) -> Iterator[Keeper]:
    """Yields what keeps the programs of a world running; in the end all are closed."""
    try:
        yield Keeper(world)
    finally:
        world.close()


def until_asked(world: World, keeper: Keeper, *, seconds: float) -> None:
    """Waits until both sites have asked something."""
    deadline = time.monotonic() + seconds
    while not all(
        any((world.folder / site / "state").glob("receipts/**/*.jsonl"))
        for site in SITES
    ):
        assert time.monotonic() < deadline, last_words(world)
        keeper.watch(0.2)

"""A federation under fire: sites that ask, and who is killed while they do."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.support.e2e.asking_site import ENDED, Usage
from tests.support.e2e.programs import until
from tests.support.e2e.world import World
from tests.support.machine.killed import Children, forking

_PROGRESS_SECONDS = 300.0  # in which the next queries are answered, on a busy machine
_LOOK_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 0.3  # between a count that was reached and the kill
_GIVEN_UP = 0.4  # of the killed sites begin another run, and repeat nothing


@dataclass
class Fire:
    """What was done to the federation.

    Args:
        teacher: Kills of it alone.
        sites: Kills of one site alone.
        all: Kills of everybody at once, as in a power cut.
        given_up: Runs that a killed site did not go on with.
    """

    teacher: int = 0
    sites: int = 0
    all: int = 0
    given_up: int = 0


class AskingSite(threading.Thread):
    """Asks until it is done; a child that is killed is followed by another.

    Args:
        children: Of the program that asks.
        folder: Of its standing.
    """

    def __init__(self, children: Children, folder: Path) -> None:
        super().__init__(name=folder.name)
        self.folder = folder
        self._children = children
        self._kill = threading.Event()
        self._gives_up = False

    def kill(self, *, gives_up: bool) -> None:
        """Kills the child that asks; whether the next one begins another run."""
        self._gives_up = gives_up
        self._kill.set()

    def answered(self) -> int:
        """Returns its queries so far; fails where it ended in another way."""
        ended = self.folder / ENDED
        fault = ended.read_text() if ended.exists() else ""
        assert not fault, f"{self.name}: {fault}"
        return Usage.read(self.folder).step

    def run(self) -> None:
        while not (self.folder / ENDED).exists():
            self._children.run(until=self._killed_or_ended)
            if self._gives_up:
                run, step, end = Usage.read(self.folder)
                Usage(run + 1, step, end).write(self.folder)
            self._gives_up = False
            self._kill.clear()

    def _killed_or_ended(self) -> None:
        while not self._kill.wait(_LOOK_SECONDS):
            if (self.folder / ENDED).exists():
                return


@contextmanager
def asking_sites(world: World, queries: int) -> Iterator[list[AskingSite]]:
    """Starts all sites of a world, and waits in the end until each asked its share."""
    with ExitStack() as stack:
        sites = []
        for name in world.names:
            folder = world.folder / name
            Usage(0, 0, queries // len(world.names)).write(folder)
            program = forking(
                "tests.support.e2e.asking_site", folder / "config.yaml", folder
            )
            sites.append(AskingSite(stack.enter_context(program), folder))
        for site in sites:
            site.start()
        yield sites
        for site in sites:
            site.join(_PROGRESS_SECONDS)
            assert not site.is_alive(), f"{site.name} still asks"
            assert site.answered() == queries // len(world.names)


def kill_at_random(
    world: World, sites: Sequence[AskingSite], kills: int, seed: int
) -> Fire:
    """Kills teacher and sites while they work, and starts the teacher again."""
    chance, fire = Random(seed), Fire()
    last = sum(Usage.read(site.folder).end for site in sites)
    for point in sorted(chance.sample(range(last), kills)):
        _wait_for(sites, point)
        time.sleep(chance.uniform(0, _LONGEST_PAUSE_SECONDS))
        whom = chance.choices(("teacher", "sites", "all"), (4, 4, 2))[0]
        struck = {"teacher": [], "sites": [chance.choice(sites)], "all": sites}[whom]
        gives_up = bool(struck) and chance.random() < _GIVEN_UP
        if whom != "sites":
            world.programs[-1].killed()
        for site in struck:
            site.kill(gives_up=gives_up)
        if whom != "sites":
            world.serve("teacher")
        setattr(fire, whom, getattr(fire, whom) + 1)
        fire.given_up += len(struck) * gives_up
    return fire


def _wait_for(sites: Sequence[AskingSite], point: int) -> None:
    until(
        lambda: sum(site.answered() for site in sites) >= point,
        seconds=_PROGRESS_SECONDS,
        what=f"{point} queries are answered",
    )

"""A whole run in mode `independent`, watched by Prometheus from beginning to end.

One site asks the teacher itself, and its patches have names of patients and files; the
other one asks through the coordinator's relay.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.e2e.planted import plant
from tests.support.e2e.programs import LOOPBACK, Program, processes_of, until
from tests.support.e2e.watched import TEACHER_JOB
from tests.support.e2e.world import RUN_SECONDS, SITES, World
from tests.support.machine.ports import free_port
from tests.support.machine.prometheus import Prometheus, Target

ROUNDS = 2
GRANT = 1000
GOLDEN = 1  # the card's patch, asked before the first step
RELAYED = "site-b"
COORDINATOR_JOB = "moma-coordinator"


@dataclass
class WholeRun:
    """A run that is over; its servers still serve, and Prometheus goes on.

    Args:
        world: Its files.
        coordinator: Serves.
        teacher: Serves.
        prometheus: Has scraped all programs; a site's job has its name.
        exits: Of the sites.
        pages: The newest of each site.
        lines: Command lines of all processes that were seen.
    """

    world: World
    coordinator: Program
    teacher: Program
    prometheus: Prometheus
    exits: dict[str, int] = field(default_factory=dict)
    pages: dict[str, str] = field(default_factory=dict)
    lines: set[str] = field(default_factory=set)


@contextmanager
def whole_run(folder: Path, teacher: Path) -> Iterator[WholeRun]:
    """Lets two sites take part in all rounds."""
    world = World(
        folder,
        teacher,
        plan={"rounds": ROUNDS},
        grants=dict.fromkeys(SITES, GRANT),
    )
    _relay(world)
    plant(world, SITES[0])
    for site in SITES:
        world.configure(site, baselines=["ce"])
    jobs = {COORDINATOR_JOB: "coordinator", TEACHER_JOB: "teacher"}
    jobs |= dict(zip(SITES, SITES, strict=True))
    pages = [Target(job, world.ports[name]) for job, name in jobs.items()]
    try:
        with Prometheus(folder / "prometheus", pages) as prometheus:
            run = WholeRun(world, *world.serve_both(), prometheus)
            clients = [world.take_part(site) for site in SITES]
            _wait_for(clients, run)
            run.exits = {client.name: client.status(seconds=1) for client in clients}
            yield run
    finally:
        world.close()


def _relay(world: World) -> None:
    port = free_port()
    address = f"{LOOPBACK}:{port}"
    listen = {"listen": {"host": LOOPBACK, "port": port}}
    world.configure("coordinator", coordinator={"relay": listen})
    world.configure("teacher", teacher={"relay": {"coordinator": address}})
    world.configure(RELAYED, teacher={"via": "coordinator", "address": address})


def _wait_for(clients: list[Program], run: WholeRun) -> None:
    def all_ended() -> bool:
        for client in clients:
            run.pages[client.name] = client.page() or run.pages.get(client.name, "")
        run.lines.update(processes_of(run.world.folder))
        return all(client.process.poll() is not None for client in clients)

    until(all_ended, seconds=RUN_SECONDS, what="both sites are done")

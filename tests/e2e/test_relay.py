"""The installed programs, where neither teacher nor hospital opens a port.

Two replicas of the teacher dial out to the coordinator; a site takes part in a run and
asks through the relay; the replica that answers is killed, and the other goes on. All
that time the coordinator's memory is searched for what it carries.
"""

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pytest

from moma_client.cli.main import main as moma_client
from moma_client.config.site import SiteConfig
from moma_core.teacher.card.card import TeacherCard
from moma_server.config.server import ServerConfig, read_yaml, write_yaml
from moma_server.state import budget_store, relay_links_file
from tests.support.e2e.carried import Carried
from tests.support.e2e.programs import LOOPBACK, Program, command, ended, until
from tests.support.e2e.world import CLOSE_SECONDS, TEACHER, World, as_json
from tests.support.federation.world import START_SECONDS
from tests.support.machine.cuttable import Wire, cuttable
from tests.support.machine.listening import Address, descendants, listening
from tests.support.machine.ports import free_port
from tests.support.machine.traces import Traces

pytestmark = [
    pytest.mark.slow,  # its parts are in tests/integration/relay
    pytest.mark.timeout(1800),  # of the whole run, on a busy machine
]

SITE = "site-a"
ROUNDS = 2
GOLDEN = 1  # the card's patch, asked before the first step
CARRIED = {"pixels uint8 HWC", "embedding float32", "logits float32"}
LINK_SECONDS = 120.0

_DEADLINE_SECONDS = 400.0  # the first round waits for the replicas, too
_RUN_SECONDS = START_SECONDS + ROUNDS * _DEADLINE_SECONDS + CLOSE_SECONDS


@dataclass
class Run:
    """A run that is over; coordinator and one replica still serve."""

    world: World
    wires: dict[str, Wire]
    coordinator: Program
    replicas: list[Program]
    status: int = -1
    shown: str = ""
    sought: Traces = field(default_factory=lambda: Traces([]))
    looks: int = 0
    found: set[str] = field(default_factory=set)  # in the coordinator
    known: set[str] = field(default_factory=set)  # in the teacher, by the same search
    at: set[tuple[Address, int]] = field(default_factory=set)

    @cached_property
    def carried(self) -> Carried:
        """What passed the relay."""
        card = self.world.folder / "teacher" / "teacher" / "card.json"
        config = SiteConfig.from_yaml(Path(self.config(SITE)))
        return Carried(config, TeacherCard.load(card), epochs=ROUNDS)

    @property
    def survivor(self) -> Program:
        """The replica that was not killed."""
        (one,) = (each for each in self.replicas if each.process.poll() is None)
        return one

    @property
    def links(self) -> dict[str, int]:
        """How many links each teacher has, as the coordinator notes it."""
        with suppress(FileNotFoundError, ValueError):
            path = relay_links_file(self.world.coordinator_config())
            links: dict[str, int] = json.loads(path.read_bytes())
            return links
        return {}

    def config(self, name: str) -> str:
        """Returns the path of an institution's file, as an operator types it."""
        file = "config.yaml" if name == SITE else "server.yaml"
        return str(self.world.folder / name / file)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> Iterator[Run]:
    world = World(
        tmp_path_factory.mktemp("relayed"),
        teacher,
        plan={
            "rounds": ROUNDS,
            "quorum": 1,
            "deadline_seconds": _DEADLINE_SECONDS,
        },
        sites=(SITE,),
    )
    with ExitStack() as stack:
        stack.callback(world.close)
        relay = free_port()
        ports = {"teacher": relay, "site": relay, "rounds": world.ports["edge"]}
        wires = {
            name: stack.enter_context(cuttable(port, is_recording=True))
            for name, port in ports.items()
        }
        _lead_through_the_relay(world, relay, wires)
        run = Run(world, wires, world.serve("coordinator"), [world.serve("teacher")])
        until(lambda: run.links == {TEACHER: 1}, seconds=LINK_SECONDS, what="a link")
        run.replicas.append(_serve_beside(world))
        until(lambda: run.links == {TEACHER: 2}, seconds=LINK_SECONDS, what="a second")
        run.shown = ended(
            "moma-server", "status", "--config", run.config("coordinator")
        ).stdout
        _take_part(run)
        yield run


def _lead_through_the_relay(world: World, relay: int, wires: dict[str, Wire]) -> None:
    way = {name: f"{LOOPBACK}:{wire.entrance}" for name, wire in wires.items()}
    listen = {"listen": {"host": LOOPBACK, "port": relay}}
    world.configure("coordinator", coordinator={"relay": listen})
    link = {"listen": None, "relay": {"coordinator": way["teacher"]}}
    world.configure("teacher", teacher=link)
    asking = {"via": "coordinator", "address": way["site"]}
    world.configure(
        SITE,
        teacher={**asking, "cache_precision": "float32"},  # as it came
        coordinator={"address": way["rounds"]},
    )


def _serve_beside(world: World) -> Program:
    """Starts a replica of the teacher: its files and its state, and its own metrics."""
    folder, port = world.folder / "teacher", free_port()
    values = read_yaml(folder / "server.yaml")
    assert isinstance(values, dict)
    write_yaml(folder / "replica.yaml", {**values, "metrics": {"port": port}})
    line = command("moma-server", "--config", folder / "replica.yaml")
    replica = Program("replica", world.folder / "replica.log", port, line)
    world.programs.append(replica)
    return replica


def _take_part(run: Run) -> None:
    """A site takes part to the end; a replica dies, and the memory is searched."""
    pixels = list(run.carried.patches())
    client = run.world.take_part(SITE)

    def shown() -> bool:
        with suppress(OSError):  # it has just ended
            run.at |= listening(client.process.pid)
        return run.world.ports[SITE] in {port for _, port in run.at}

    until(shown, seconds=START_SECONDS, what="the site shows its metrics")

    def working() -> list[Program]:
        assert client.process.poll() is None, client.said()[-2000:]
        return [p for p in run.replicas if p.metric("moma_teacher_batch_size_count")]

    until(working, seconds=_RUN_SECONDS, what="a replica answers")
    working()[0].killed()

    def over() -> bool:
        is_over = client.process.poll() is not None
        with suppress(OSError):  # it has just ended
            run.at |= listening(client.process.pid)
        run.at |= listening(run.survivor.process.pid)
        run.sought = Traces([*pixels, *run.carried.answers()])
        _look(run)
        run.looks += not is_over
        return is_over

    until(over, seconds=_RUN_SECONDS, what="the site is done")
    run.status = client.status(seconds=1)


def _look(run: Run) -> None:
    """Searches the coordinator, and its children; and the teacher until it is found."""
    first = run.coordinator.process.pid
    for pid in (first, *descendants(first)):
        with suppress(OSError):  # a child that has just ended
            run.found |= run.sought.in_memory(pid)
    if not run.known >= CARRIED:
        run.known |= run.sought.in_memory(run.survivor.process.pid)


def test_the_run_ends_well_though_the_replica_that_answered_was_killed(
    run: Run,
) -> None:
    rounds = run.world.rounds()
    killed = [one for one in run.replicas if one is not run.survivor]

    assert run.status == 0
    assert [record.outcome for record in rounds] == ["completed"] * ROUNDS
    assert all(record.took_part == [SITE] for record in rounds)
    assert [one.process.returncode for one in killed] == [-signal.SIGKILL]
    assert run.survivor.metric("moma_teacher_batch_size_count") > 0
    assert f"teachers linked to the relay: {TEACHER} (2)" in run.shown


def test_receipts_log_and_budget_agree_and_no_patch_is_charged_twice(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "receipts.jsonl")
    site, teacher = ["--site", run.config(SITE)], run.config("teacher")

    fetched = moma_client(["audit", "fetch", *site])  # of answers lost on their way
    exported = moma_client(["audit", "export", *site, "--out", out])
    moma_client(["audit", "verify", *site, "--json"])
    verified = as_json(capsys.readouterr().out)
    compared = ended(
        *("moma-server", "audit", "reconcile", "--config", teacher, "--receipts", out)
    )
    config = ServerConfig.from_yaml(Path(teacher))
    ledger = budget_store(config, config.own_teacher())
    charged = ledger.charged(SITE)
    ledger.close()

    asked = GOLDEN + run.world.asked(SITE, epochs=ROUNDS)
    assert (fetched, exported, compared.returncode) == (0, 0, 0), compared.stderr
    assert f"of {SITE}: 0 contradicted, 0 not signed" in compared.stdout
    assert "have no entry yet" not in compared.stdout  # all that is charged is logged
    assert charged == verified["patches_charged"] == asked


def test_the_coordinator_holds_no_patch_and_no_answer_in_memory(run: Run) -> None:
    assert run.looks >= 1
    assert run.found == set()
    assert run.known >= CARRIED  # the same search finds them in the teacher


def test_the_coordinator_has_no_patch_and_no_answer_on_its_disk(run: Run) -> None:
    kept = run.sought.in_files(run.world.folder / SITE)

    assert run.sought.in_files(run.world.folder / "coordinator") == set()
    assert {"embedding float32", "logits float32"} <= kept  # in the teacher cache


def test_no_patch_and_no_answer_is_seen_on_a_wire(run: Run) -> None:
    asked = run.world.asked(SITE, epochs=ROUNDS)
    side = run.carried.card.input_size_px

    for name, wire in run.wires.items():
        recorded = bytes(wire.recorded)
        planted = recorded + run.carried.first_patch()
        assert run.sought.within(recorded) == set(), name
        assert run.sought.within(planted) == {"pixels uint8 HWC"}, name
    for name in ("teacher", "site"):
        assert len(run.wires[name].recorded) > asked * side * side * 3
    labels = {"site": SITE, "teacher": TEACHER, "direction": "to_teacher"}
    carried = run.coordinator.metric("moma_relay_bytes_total", **labels)
    assert carried > asked * side * side * 3


def test_neither_teacher_nor_site_listens_but_for_its_own_metrics(run: Run) -> None:
    assert {port for _, port in run.at} == {
        run.world.ports[SITE],
        run.survivor.metrics_port,
    }
    assert all(address.is_loopback for address, _ in run.at)


def test_a_teacher_that_is_stopped_leaves_the_relay(run: Run) -> None:
    assert run.links == {TEACHER: 1}
    survivor = run.survivor
    survivor.process.terminate()
    until(lambda: run.links == {}, seconds=LINK_SECONDS, what="the end of the link")
    assert survivor.status(seconds=LINK_SECONDS) == 0
    run.coordinator.process.terminate()
    assert run.coordinator.status(seconds=LINK_SECONDS) == 0

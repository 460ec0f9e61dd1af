"""The coordinator: SuperLink, the edge in front of it, the sites, and one run."""

import json
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moma_core.config import Section
from moma_core.errors import CertificateError, FederationError, MomaError
from moma_core.federation.bounds import most_parts
from moma_core.federation.run_state import RunState
from moma_core.runtime.files import make_folder, write_private
from moma_core.runtime.supervise import Backoff
from moma_server.config.federation_plan import FederationPlan, RunOrder
from moma_server.federation.edge.authentication import KnownNode
from moma_server.federation.edge.server import Edge, EdgeSettings
from moma_server.federation.engine.control import Control, FlowerNode, key_bytes
from moma_server.federation.engine.socket import EngineAddress
from moma_server.federation.engine.superlink import SuperLink
from moma_server.federation.run.metrics import RoundMetrics
from moma_server.federation.run.records import (
    FinalDelivery,
    Outcome,
    RecordFile,
    next_round,
)
from moma_server.federation.run.state import (
    STATE_FILE,
    read_status,
    resumed,
)
from moma_server.federation.run.watch import RoundProgress, RunWatch
from moma_server.membership.members import is_blank, read_sites
from moma_server.metrics.metrics import FederationMetrics

_logger = logging.getLogger(__name__)

_STEP_SECONDS = 1.0
_JOIN_SECONDS = 2.0
_LONGEST_PAUSE_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorSettings:
    """What a coordinator needs to know.

    Args:
        folder: Folder of its state: database, records, weights; made if missing.
        name: Name of the run, as others are told it; empty: that of the folder.
        registry: Folder of the sites' node keys, see `register_site`.
        plan: Plan of the run; a new run wants a new `folder`.
        edge: The public address and its certificate; the plan says how many objects
            one report may have.
    """

    folder: Path
    registry: Path
    plan: FederationPlan
    edge: EdgeSettings
    name: str = ""


class Coordinator:
    """Runs the federation until it is stopped; its run may end earlier.

    Args:
        settings: What to run.
        metrics: Metrics of rounds and sites.

    Raises:
        CheckpointError: The folder's state is damaged.
        ConfigError: The folder holds a run of another mode or length.
    """

    def __init__(
        self, settings: CoordinatorSettings, metrics: FederationMetrics
    ) -> None:
        make_folder(settings.folder)
        make_folder(settings.folder / "weights")
        self._settings = settings
        self._records = RecordFile(settings.folder / "records.jsonl")
        self._rounds = RoundMetrics(self._records, metrics)
        self._state = resumed(settings.folder, settings.plan)
        # whoever took no part gets the global student, and has none of its own
        self._final_delivery = FinalDelivery(
            reaches_newcomers=settings.plan.mode == "fedavg"
        )
        self._outcome: Outcome | None = None
        name = settings.name or settings.folder.resolve().name
        self._watch = RunWatch(name, self._state.run, settings.plan)
        self._superlink = SuperLink(settings.folder / "superlink")
        parts = most_parts(settings.plan.report_weights_bytes)
        self._edge = Edge(
            self.engine, replace(settings.edge, max_objects=parts), metrics.edge
        )
        self._nodes_file = settings.folder.resolve() / "nodes.json"
        self._nodes = NodeSync(
            settings.registry, nodes_file=self._nodes_file, know=self._edge.know
        )
        self._control: Control | None = None
        self._run_id: int | None = None
        self._generation = 0
        self._backoff = Backoff(_LONGEST_PAUSE_SECONDS)
        self._start_again_at = 0.0
        self._stop = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="coordinator")

    @property
    def port(self) -> int:
        """The edge's port; known after `start`."""
        return self._edge.port

    @property
    def engine(self) -> EngineAddress:
        """Where SuperLink listens for the programs of this user."""
        return self._superlink.address

    @property
    def finished(self) -> bool:
        """Whether the run is over, well or not; sites may still be served."""
        return self._over.is_set()

    def start(self) -> None:
        """Starts everything; returns when sites can connect.

        Raises:
            FederationError: SuperLink did not start, or the address is taken.
            CheckpointError: The records are damaged.
        """
        # what was stopped for want of a quorum goes on with a restart
        self._read_records({"finished"})
        self._superlink.start()
        try:
            self._edge.start()
        except FederationError:
            self._superlink.stop()
            raise
        self._thread.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Waits for the run's end and returns whether it came."""
        return self._over.wait(timeout)

    def stop(self) -> None:
        """Ends everything within seconds; the state on disk goes on from here."""
        self._stop.set()
        self._edge.stop()
        if self._thread.is_alive():
            self._thread.join(_JOIN_SECONDS)
        if self._control is not None:
            self._control.close()  # SuperLink waits for open connections
        self._superlink.stop()
        if self._thread.is_alive():
            self._thread.join()

    def status(self) -> dict[str, Any]:
        """Returns what `read_status` returns to other processes."""
        return read_status(self._settings.folder)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._step()
            except (MomaError, OSError) as error:
                if not self._stop.is_set():
                    _logger.warning("%s; trying again", error)
            self._stop.wait(_STEP_SECONDS)

    def _step(self) -> None:
        control = self._connection()
        nodes = self._nodes.sync(control)
        self._read_records({"finished", "stopped"})
        online = sorted(site for site, node in nodes.items() if node.online)
        self._rounds.show_nodes(nodes, online)
        self._state = self._state.model_copy(
            update={
                "registered": sorted(nodes),
                "online": online,
                "waiting": self._look(nodes, online),
                "updated_at": time.time(),
            }
        )
        _save(self._settings.folder / STATE_FILE, self._state)
        if self.finished:
            self._close_for(self._final_delivery.missed(online), control)
        # a round's deadline counts from its start: none begins before there is a quorum
        elif self._run_id is not None or len(online) >= self._settings.plan.quorum:
            self._keep_running(control)

    def _look(self, nodes: Collection[str], online: Collection[str]) -> RunState:
        """Returns what the run waits for, and has the edge tell it."""
        records = self._settings.folder / "records.jsonl"
        progress = RoundProgress.read(records, self._state.run)
        state = self._watch.look(
            registered=nodes,
            online=online,
            progress=progress,
            outcome=self._outcome,
        )
        own = {} if progress is None else progress.own
        self._edge.report(state, self._final_delivery.missed(nodes), own)
        return state

    def _read_records(self, endings: Collection[Outcome]) -> None:
        """Reads the new records; one with an outcome of `endings` ends the run."""
        for record in self._rounds.update():
            if record.run != self._state.run:
                continue
            self._final_delivery.add(record)
            if record.kind == "run":
                _logger.info("the run is %s", record.outcome)
                if record.outcome in endings:
                    self._outcome = record.outcome
                    self._over.set()
                continue
            _logger.info(
                "%s %d/%d %s: %s took part",
                "round" if record.kind == "train" else "closing after round",
                record.round,
                self._state.plan.rounds,
                record.outcome,
                ", ".join(record.took_part) or "nobody",
            )

    def _connection(self) -> Control:
        """A restarted SuperLink has lost its run, and needs a new connection."""
        if self._control is None or self._generation != self._superlink.generation:
            if self._control is not None:
                self._control.close()
            generation = self._superlink.generation
            self._run_id = None
            self._control = Control(self.engine)
            self._control.stop_runs()
            self._generation = generation
        return self._control

    def _keep_running(self, control: Control) -> None:
        """Starts the run, and starts it again where its process died."""
        if self._run_id is not None:
            if not control.run_is_over(self._run_id):
                return
            self._run_id = None
            self._read_records({"finished", "stopped"})
            if self.finished:
                return
            self._pause_starts()
            _logger.error(
                "the run's process ended, see %s; again soon",
                self._settings.folder / "run.log",
            )
        if time.monotonic() >= self._start_again_at:
            self._run_id = control.start_run(self._order())

    def _close_for(self, sites: list[str], control: Control) -> None:
        """Closes the run that is over for `sites`, which were away at its end."""
        if not sites or time.monotonic() < self._start_again_at:
            return
        if self._run_id is not None and not control.run_is_over(self._run_id):
            return
        self._pause_starts()
        self._run_id = control.start_run(self._order(closing=sites))

    def _pause_starts(self) -> None:
        self._start_again_at = time.monotonic() + self._backoff.pause()

    def _order(self, closing: Sequence[str] = ()) -> Path:
        folder = self._settings.folder.resolve()
        order = RunOrder(
            plan=self._settings.plan,
            run=self._state.run,
            first_round=next_round(self._records.read(), self._state.run),
            nodes=self._nodes_file,
            records=folder / "records.jsonl",
            weights=folder / "weights",
            closing=list(closing),
        )
        path = folder / "order.json"
        _save(path, order)
        if closing:
            _logger.info("run %s is closed for %s", order.run, ", ".join(closing))
        else:
            _logger.info("run %s goes on with round %d", order.run, order.first_round)
        return path


class NodeSync:
    """Keeps SuperLink, the edge and the run to the registry of node keys.

    Args:
        registry: Folder of the sites' node keys.
        nodes_file: Where the run reads the sites' nodes.
        know: Passes the nodes to the edge, which serves no others.
    """

    def __init__(
        self,
        registry: Path,
        *,
        nodes_file: Path,
        know: Callable[[Iterable[KnownNode]], None],
    ) -> None:
        self._registry = registry
        self._nodes_file = nodes_file
        self._know = know
        self._warned: set[str] = set()

    def sync(self, control: Control) -> dict[str, FlowerNode]:
        """Makes SuperLink know the registry's sites, and no others.

        Raises:
            FederationError: The registry is lost, or SuperLink did not answer.
        """
        sites = read_sites(self._registry)
        known = control.nodes()
        if known and is_blank(self._registry):
            # not mounted, perhaps; SuperLink never takes back a key that it removed
            raise FederationError(
                f"{self._registry} is empty, which shuts nobody out: is it mounted?"
            )
        nodes, callers, damaged = {}, [], []
        for site, openssh in sites.items():
            try:
                key = key_bytes(openssh)
                nodes[site] = known.pop(key) if key in known else control.register(key)
                callers.append(KnownNode(site, nodes[site].node_id, key))
            except CertificateError as error:
                damaged.append(site)
                file = self._registry / f"{site}.pub"
                self._warn_once(site, f"{site} is left out: {file} is damaged, {error}")
            except FederationError as error:
                self._warn_once(site, f"{site} is left out: {error}")
        self._know(callers)
        # SuperLink never takes back a key, and one of these is the damaged site's
        for stranger in [] if damaged else known.values():
            control.unregister(stranger.node_id)
        found = {site: node._asdict() for site, node in nodes.items()}
        write_private(self._nodes_file, json.dumps(found).encode())
        return nodes

    def _warn_once(self, site: str, message: str) -> None:
        if site not in self._warned:
            self._warned.add(site)
            _logger.warning("%s", message)


def _save(path: Path, section: Section) -> None:
    write_private(path, section.model_dump_json().encode())

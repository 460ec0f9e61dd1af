"""A coordinator's folder: what it holds, and what it refuses to go on with."""

import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from moma_core.errors import CheckpointError, ConfigError, FederationError
from moma_core.federation.messages import RUN_PATTERN
from moma_core.federation.run_state import RunState
from moma_core.pki.key_files import create_node_key
from moma_server.config.federation_plan import FederationPlan
from moma_server.federation.coordinator import Coordinator, CoordinatorSettings
from moma_server.federation.edge.server import EdgeSettings
from moma_server.federation.engine.control import FlowerNode
from moma_server.federation.run.records import RecordFile, RoundRecord, SiteEntry
from moma_server.federation.run.state import StateFile, read_status, resumed
from moma_server.membership.members import register_site, remove_site
from moma_server.metrics.metrics import FederationMetrics
from tests.support.federation.pki import Pki


def coordinator(folder: Path, plan: FederationPlan) -> Coordinator:
    pki = Pki()
    files = pki.write(folder / "keys", pki.issue("coordinator", "coordinator"))
    edge = EdgeSettings(
        host="127.0.0.1", port=0, certificate=files.certificate, key=files.key
    )
    settings = CoordinatorSettings(
        folder=folder / "state", registry=folder / "sites", plan=plan, edge=edge
    )
    return Coordinator(settings, FederationMetrics(CollectorRegistry()))


def leave_state(folder: Path, plan: FederationPlan) -> None:
    (folder / "state").mkdir(parents=True)
    state = StateFile(run="r1", plan=plan, registered=["site-a"])
    (folder / "state" / "state.json").write_text(state.model_dump_json())


@pytest.mark.parametrize(
    ("plan", "difference"),
    [
        (FederationPlan(rounds=3, mode="fedavg"), "mode independent, not fedavg"),
        (FederationPlan(rounds=4), "rounds 3, not 4"),
        (FederationPlan(rounds=3, local_epochs=2), "local_epochs 1, not 2"),
    ],
    ids=["mode", "rounds", "epochs"],
)
def test_a_folder_with_a_run_of_another_plan_is_refused(
    tmp_path: Path, plan: FederationPlan, difference: str
) -> None:
    leave_state(tmp_path, FederationPlan(rounds=3))

    with pytest.raises(ConfigError, match=f"{difference}: another plan takes another"):
        coordinator(tmp_path, plan)


def test_a_run_may_go_on_with_other_patience(tmp_path: Path) -> None:
    leave_state(tmp_path, FederationPlan(rounds=3))

    resumed = coordinator(
        tmp_path, FederationPlan(rounds=3, deadline_seconds=7, quorum=2)
    )

    assert not resumed.finished


@pytest.mark.parametrize("content", [b"{", b'{"run": "\xff"}'])
def test_a_damaged_state_is_named(tmp_path: Path, content: bytes) -> None:
    leave_state(tmp_path, FederationPlan(rounds=3))
    (tmp_path / "state" / "state.json").write_bytes(content)

    with pytest.raises(CheckpointError, match="state"):
        coordinator(tmp_path, FederationPlan(rounds=3))
    with pytest.raises(CheckpointError, match="state"):
        read_status(tmp_path / "state")


def test_a_coordinator_that_was_not_started_stops_at_once(tmp_path: Path) -> None:
    unstarted = coordinator(tmp_path, FederationPlan(rounds=3))

    unstarted.stop()

    assert not unstarted.finished


def test_the_status_tells_the_run_from_its_files(tmp_path: Path) -> None:
    leave_state(tmp_path, FederationPlan(rounds=3))
    records = RecordFile(tmp_path / "state" / "records.jsonl")
    for run in ("r0", "r1"):
        records.append(
            RoundRecord(
                kind="train",
                run=run,
                round=1,
                outcome="completed",
                started_at=1.0,
                seconds=2.0,
                sites={"site-a": SiteEntry(state="took_part", patches=4)},
            )
        )

    status = read_status(tmp_path / "state")

    assert (status["run"], status["rounds"], status["completed"]) == ("r1", 3, 1)
    assert (status["finished"], status["outcome"]) == (False, None)
    assert [entry["took_part"] for entry in status["history"]] == [["site-a"]]


@pytest.mark.parametrize(
    ("phase", "outcome"), [("stopped", "stopped"), ("gathering", None), ("round", None)]
)
def test_a_run_that_has_stopped_goes_on_by_a_restart(
    tmp_path: Path, phase: str, outcome: str | None
) -> None:
    leave_state(tmp_path, FederationPlan(rounds=3))
    waiting = RunState.model_validate({"run": "run-1", "phase": phase})
    path = tmp_path / "state" / "state.json"
    state = StateFile.model_validate_json(path.read_text())
    path.write_text(state.model_copy(update={"waiting": waiting}).model_dump_json())
    end = RoundRecord(
        kind="run", run="r1", round=1, outcome="stopped", started_at=1.0, seconds=2.0
    )
    RecordFile(tmp_path / "state" / "records.jsonl").append(end)

    status = read_status(tmp_path / "state")

    assert status["outcome"] == outcome
    assert status["finished"] == (outcome is not None)


def test_a_folder_without_a_state_has_no_status(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no coordinator"):
        read_status(tmp_path)


class MemoryControl:
    """Stands for SuperLink's Control API."""

    def __init__(self) -> None:
        self.known: dict[bytes, FlowerNode] = {}

    def nodes(self) -> dict[bytes, FlowerNode]:
        return dict(self.known)

    def register(self, key: bytes) -> FlowerNode:
        self.known[key] = FlowerNode(len(self.known) + 1, online=False)
        return self.known[key]

    def unregister(self, node_id: int) -> None:
        self.known = {k: n for k, n in self.known.items() if n.node_id != node_id}


@pytest.mark.parametrize("mount_point_stays", [True, False])
def test_a_registry_that_is_not_mounted_shuts_nobody_out(
    tmp_path: Path, mount_point_stays: bool
) -> None:
    unstarted = coordinator(tmp_path, FederationPlan(rounds=3))
    registry, control = tmp_path / "sites", MemoryControl()
    register_site(registry, "site-a", create_node_key().public)
    unstarted._nodes.sync(control)
    registry.rename(tmp_path / "elsewhere")
    if mount_point_stays:
        registry.mkdir()

    with pytest.raises(FederationError, match="shuts nobody out"):
        unstarted._nodes.sync(control)

    assert len(control.known) == 1


def test_a_damaged_node_key_is_named_and_removes_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """SuperLink would never take the key back, once its file is mended."""
    unstarted = coordinator(tmp_path, FederationPlan(rounds=3))
    registry, control = tmp_path / "sites", MemoryControl()
    for site in ("site-a", "site-b"):
        register_site(registry, site, create_node_key().public)
    before = unstarted._nodes.sync(control)
    file = registry / "site-a.pub"
    good = file.read_bytes()
    file.write_bytes(bytes([good[0] ^ 1, *good[1:]]))

    without = unstarted._nodes.sync(control)
    file.write_bytes(good)
    mended = unstarted._nodes.sync(control)

    assert f"site-a is left out: {file} is damaged" in caplog.text
    assert without.keys() == {"site-b"}
    assert mended == before


def test_the_last_site_can_be_shut_out(tmp_path: Path) -> None:
    unstarted = coordinator(tmp_path, FederationPlan(rounds=3))
    registry, control = tmp_path / "sites", MemoryControl()
    register_site(registry, "site-a", create_node_key().public)
    unstarted._nodes.sync(control)
    remove_site(registry, "site-a")

    nodes = unstarted._nodes.sync(control)

    assert (nodes, control.known) == ({}, {})


@pytest.mark.parametrize(
    ("folder", "name"),
    [("run-1", "run-1"), ("Run_2", "run-2"), ("a" * 60, "a" * 35), ("_", "run")],
)
def test_a_runs_id_has_the_configs_name_in_it_and_is_nobody_elses(
    tmp_path: Path, folder: str, name: str
) -> None:
    plan = FederationPlan(rounds=3)

    one, other = (resumed(tmp_path / folder, plan).run for _ in range(2))

    assert re.fullmatch(f"{name}-[0-9a-f]{{12}}", one)
    assert one != other
    assert re.fullmatch(RUN_PATTERN, one)

"""A coordinator's folder with a run under way: real files, and sites of nobody."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moma_core.federation.run_state import RunState
from moma_core.runtime.files import write_private
from moma_server.cli.init import ServerSetup, init_server
from moma_server.config.federation_plan import FederationPlan
from moma_server.config.server import ServerConfig, read_yaml, write_yaml
from moma_server.federation.run.records import RecordFile, RoundRecord, SiteEntry
from moma_server.federation.run.state import STATE_FILE, StateFile
from moma_server.state import run_folder
from tests.support.machine.ports import free_port

RUN = "run-1-0123456789ab"
REASON = "the site refuses <b>epochs</b>"


def coordinator_folder(
    folder: Path, *, now: float, rounds: int = 4, sites: Sequence[str] = ("a-a", "b-b")
) -> ServerConfig:
    """Writes what a coordinator has after some rounds of ten.

    Args:
        folder: To make.
        now: When its last round began, in seconds since 1970.
        rounds: That were tried; the third one missed its quorum.
        sites: Who takes part; the last one refuses each second round.
    """
    init_server(folder, ServerSetup(roles=("coordinator",), hosts=("localhost",)))
    path = folder / "server.yaml"
    values: Any = read_yaml(path)
    values["metrics"] = {"port": free_port()}
    values["dashboard"] = {"port": free_port(), "refresh_seconds": 2}
    listen = {"host": "127.0.0.1", "port": free_port()}
    values["coordinator"] |= {"listen": listen, "enrolment": None}
    values["coordinator"]["plan"] = {"mode": "independent", "rounds": 10, "quorum": 2}
    write_yaml(path, values)
    config = ServerConfig.from_yaml(path)
    assert config.coordinator is not None
    run = run_folder(config, config.coordinator)
    run.mkdir(parents=True)
    _write_run(run, config.coordinator.plan, now, rounds, sites)
    return config


def _write_run(
    run: Path, plan: FederationPlan, now: float, rounds: int, sites: Sequence[str]
) -> None:
    waiting = RunState(run="run-1", phase="gathering", rounds=10, here=1, wanted=2)
    state = StateFile(
        run=RUN,
        plan=plan,
        registered=sorted(sites),
        online=list(sites[:1]),
        waiting=waiting,
        updated_at=now,
    )
    write_private(run / STATE_FILE, state.model_dump_json().encode())
    records = RecordFile(run / "records.jsonl")
    for number in range(1, rounds + 1):
        record = RoundRecord(
            kind="train",
            run=RUN,
            round=number,
            outcome="missed_quorum" if number == 3 else "completed",
            started_at=now - 600 * (rounds - number),
            seconds=300,
            sites={name: _entry(name, number, now, sites) for name in sites},
        )
        records.append(record)


def _entry(name: str, number: int, now: float, sites: Sequence[str]) -> SiteEntry:
    if name == sites[-1] and number % 2:
        return SiteEntry(state="refused", reason=REASON)
    place = sites.index(name)
    figures = {
        "validation_accuracy": 0.5 + 0.03 * number + 0.01 * place,
        "validation_macro_f1": 0.4 + 0.02 * number,
    }
    return SiteEntry(
        state="took_part", patches=120, metrics=figures, answered_at=now - 60 * place
    )

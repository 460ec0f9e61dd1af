"""What a run waits for, as its coordinator says it."""

import logging
from pathlib import Path

import pytest

from moma_core.federation.run_state import OwnState
from moma_server.config.federation_plan import FederationPlan
from moma_server.federation.edge.notice import RunNotice
from moma_server.federation.run.watch import RoundProgress, RunWatch
from tests.support.federation.fake_sites import FakeClock

PLAN = FederationPlan(rounds=3, quorum=2)


def progress(done: int, asked: int) -> RoundProgress:
    return RoundProgress(run="r1", kind="train", round=2, done=done, asked=asked)


def test_a_quorum_that_is_not_there_is_waited_for_aloud(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = FakeClock()
    watch = RunWatch("run-1", "run-1-0a", PLAN, clock.time)
    with caplog.at_level(logging.INFO):
        for _ in range(5):
            state = watch.look(
                registered=["site-a", "site-b"],
                online=["site-a"],
                progress=None,
                outcome=None,
            )
            clock.sleep(10)

    assert (state.phase, state.here, state.wanted) == ("gathering", 1, 2)
    assert state.waited_seconds == 40
    assert (state.run, state.task_run) == ("run-1", "run-1-0a")
    (line,) = caplog.messages
    assert line.startswith("1 of 2 sites, waiting for 1 (since ")
    assert line.endswith("not connected: site-b")
    assert "site" not in state.to_json().decode()


def test_a_long_wait_is_said_again(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    watch = RunWatch("run-1", "run-1-0a", PLAN, clock.time)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            watch.look(registered=[], online=[], progress=None, outcome=None)
            clock.sleep(600)

    assert len(caplog.messages) == 3


def test_a_round_says_how_many_are_done() -> None:
    watch = RunWatch("run-1", "run-1-0a", PLAN)

    state = watch.look(
        registered=["a", "b", "c"],
        online=["a", "b"],
        progress=progress(1, 3),
        outcome=None,
    )

    assert (state.phase, state.round, state.here, state.wanted) == ("round", 2, 1, 3)


def test_a_round_without_its_quorum_waits_for_sites_to_connect() -> None:
    state = RunWatch("run-1", "run-1-0a", PLAN).look(
        registered=["a", "b"], online=["a"], progress=progress(1, 2), outcome=None
    )

    assert (state.phase, state.here, state.wanted) == ("gathering", 1, 2)


def test_a_run_that_is_over_is_closing_for_whom_it_owes_its_last_task() -> None:
    watch, notice = RunWatch("run-1", "run-1-0a", PLAN), RunNotice()
    assert notice.of("a") is None

    over = watch.look(registered=[], online=[], progress=None, outcome="finished")
    notice.report(over, ["a"], {})
    stopped = watch.look(registered=[], online=[], progress=None, outcome="stopped")

    assert over.phase == "over"
    assert stopped.phase == "stopped"
    assert [getattr(notice.of(site), "phase", "") for site in "ab"] == [
        "closing",
        "over",
    ]


def test_a_site_alone_is_told_that_it_refused_and_until_when_the_round_waits() -> None:
    clock, notice = FakeClock(), RunNotice()
    stand = progress(1, 3).model_copy(
        update={"own": {"a": OwnState(became="refused")}, "ends_at": clock.time() + 60}
    )
    clock.sleep(20)

    state = RunWatch("run-1", "run-1-0a", PLAN, clock.time).look(
        registered=["a", "b"], online=["a", "b"], progress=stand, outcome=None
    )
    notice.report(state, [], stand.own)

    told = {site: notice.of(site) for site in "ab"}
    assert [each and each.own for each in told.values()] == [
        OwnState(became="refused"),
        None,
    ]
    assert [each and each.left_seconds for each in told.values()] == [40, 40]
    assert state.local_epochs == PLAN.local_epochs


def test_progress_is_of_its_run_and_a_damaged_file_is_none(tmp_path: Path) -> None:
    records = tmp_path / "records.jsonl"
    assert RoundProgress.read(records, "r1") is None

    progress(1, 2).keep(records)

    assert RoundProgress.read(records, "r1") == progress(1, 2)
    assert RoundProgress.read(records, "r2") is None
    (tmp_path / "progress.json").write_text("{")
    assert RoundProgress.read(records, "r1") is None

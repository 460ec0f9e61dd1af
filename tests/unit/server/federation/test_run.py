"""A run: rounds, retries, the closing task, and what is kept of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moma_core.errors import CheckpointError, DiskError
from moma_core.federation.task import RoundReport, RoundTask
from moma_core.federation.weights import load_with_metadata
from moma_server.config.federation_plan import FederationPlan
from moma_server.federation.run.records import RecordFile, next_round
from moma_server.federation.run.round import Reply
from moma_server.federation.run.watch import RoundProgress
from tests.support.federation.fake_sites import Behaviour, silent, takes_part
from tests.support.federation.runs import conduct, moves_by, order, world


def test_a_run_asks_every_round_and_closes(tmp_path: Path) -> None:
    sites = world(a=takes_part(), b=takes_part())

    records = conduct(order(tmp_path, FederationPlan(rounds=2, local_epochs=3)), sites)

    assert records == [
        "train 1 completed",
        "train 2 completed",
        "close 2 completed",
        "run 2 finished",
    ]
    asked = [(t.kind, t.round, t.local_epochs) for s, t in sites.asked if s == "a"]
    assert asked == [("train", 1, 3), ("train", 2, 3), ("close", 2, 3)]


def test_a_round_without_its_quorum_is_tried_again_and_then_the_run_stops(
    tmp_path: Path,
) -> None:
    sites = world(a=takes_part(), b=silent)
    plan = FederationPlan(rounds=2, quorum=2, retries=1, deadline_seconds=10)

    records = conduct(order(tmp_path, plan), sites)

    assert records == [
        "train 1 missed_quorum",
        "train 1 missed_quorum",
        "run 1 stopped",
    ]


def test_the_run_goes_on_where_its_records_end(tmp_path: Path) -> None:
    sites = world(a=moves_by(1.0, 10), b=moves_by(4.0, 20))
    plan = FederationPlan(mode="fedavg", aggregation="mean", rounds=1)
    conduct(order(tmp_path, plan), sites)
    done = RecordFile(tmp_path / "records.jsonl").read()
    longer = plan.model_copy(update={"rounds": 2})

    conduct(order(tmp_path, longer, next_round(done, "r1")), sites)

    rounds = [t.round for s, t in sites.asked if s == "a" and t.kind == "train"]
    assert rounds == [1, 2]
    final = load_with_metadata(tmp_path / "weights" / "round-000002.safetensors")[0]
    np.testing.assert_allclose(final["w"], [6.0, 6.0])


def test_the_closing_task_carries_the_final_average(tmp_path: Path) -> None:
    sites = world(a=moves_by(1.0, 10), b=moves_by(4.0, 20))

    plan = FederationPlan(mode="fedavg", aggregation="mean", rounds=1)

    conduct(order(tmp_path, plan), sites)

    first = next(task for _, task in sites.asked)
    closing = sites.asked[-1][1]
    assert first.weights is None
    assert closing.kind == "close"
    assert closing.weights is not None
    np.testing.assert_allclose(closing.weights["w"], [3.0, 3.0])


def test_a_run_goes_on_where_its_progress_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise DiskError("cannot write the progress: no space left on device")

    monkeypatch.setattr(RoundProgress, "keep", full)

    conduct(order(tmp_path, FederationPlan(rounds=1)), world(a=takes_part()))

    assert RecordFile(tmp_path / "records.jsonl").read()[0].took_part == ["a"]


def test_only_the_last_two_global_students_are_kept(tmp_path: Path) -> None:
    sites = world(a=moves_by(1.0, 10))

    conduct(order(tmp_path, FederationPlan(mode="fedavg", rounds=4)), sites)

    names = sorted(path.name for path in (tmp_path / "weights").iterdir())
    assert names == ["round-000003.safetensors", "round-000004.safetensors"]


def test_in_a_fedavg_round_a_report_without_weights_has_failed(tmp_path: Path) -> None:
    sites = world(a=moves_by(1.0, 10), b=takes_part())

    conduct(order(tmp_path, FederationPlan(mode="fedavg", rounds=1)), sites)

    record = RecordFile(tmp_path / "records.jsonl").read()[0]
    assert record.took_part == ["a"]
    assert record.sites["b"].reason == "update rejected: the report holds no weights"


def test_students_over_other_classes_are_not_averaged(tmp_path: Path) -> None:
    def of_model(model: str) -> Behaviour:
        def answer(task: RoundTask, ask: int) -> RoundReport:
            return replace(moves_by(1.0, 10)(task, ask), model=model)

        return answer

    sites = world(a=of_model("aa"), b=of_model("bb"), c=of_model("aa"))

    conduct(order(tmp_path, FederationPlan(mode="fedavg", rounds=1)), sites)

    record = RecordFile(tmp_path / "records.jsonl").read()[0]
    assert record.took_part == ["a", "c"]
    assert "another model or classes" in (record.sites["b"].reason or "")


def test_in_an_independent_round_weights_are_not_taken(tmp_path: Path) -> None:
    sites = world(a=moves_by(1.0, 10), b=takes_part())

    conduct(order(tmp_path, FederationPlan(rounds=1)), sites)

    record = RecordFile(tmp_path / "records.jsonl").read()[0]
    assert record.took_part == ["b"]
    assert record.sites["a"].reason == "update rejected: no weights were asked for"


def test_a_retried_round_starts_its_average_anew(tmp_path: Path) -> None:
    def second_time(task: RoundTask, ask: int) -> RoundReport | Reply:
        if ask == 1:
            return Reply("", trouble="failed", reason="no")
        return moves_by(4.0, 20)(task, ask)

    sites = world(a=moves_by(1.0, 10), b=second_time)
    plan = FederationPlan(mode="fedavg", aggregation="mean", rounds=1, quorum=2, asks=1)

    records = conduct(order(tmp_path, plan), sites)

    assert records[:2] == ["train 1 missed_quorum", "train 1 completed"]
    final = load_with_metadata(tmp_path / "weights" / "round-000001.safetensors")[0]
    np.testing.assert_allclose(final["w"], [3.0, 3.0])


def test_without_the_last_global_student_a_fedavg_run_does_not_go_on(
    tmp_path: Path,
) -> None:
    plan = FederationPlan(mode="fedavg", rounds=3)

    with pytest.raises(CheckpointError, match="round 2"):
        conduct(order(tmp_path, plan, first_round=3), world(a=takes_part()))


def test_a_run_that_is_over_is_closed_for_those_who_were_away(tmp_path: Path) -> None:
    sites = world(a=moves_by(1.0, 10), b=moves_by(4.0, 20))
    sites.online_at["b"] = 3000
    plan = FederationPlan(mode="fedavg", rounds=1)
    conduct(order(tmp_path, plan), sites)
    sites.clock.now = 3000
    rest = order(tmp_path, plan, first_round=2).model_copy(update={"closing": ["b"]})

    records = conduct(rest, sites)

    assert records[2:] == ["run 1 finished", "close 1 completed"]
    assert RecordFile(tmp_path / "records.jsonl").read()[-1].took_part == ["b"]
    site, task = sites.asked[-1]
    assert (site, task.kind) == ("b", "close")
    assert task.weights is not None
    np.testing.assert_allclose(task.weights["w"], [1.0, 1.0])


def test_a_restart_does_not_forget_whose_weights_are_averaged(tmp_path: Path) -> None:
    def of(model: str) -> Behaviour:
        def answer(task: RoundTask, _ask: int) -> RoundReport:
            weights = {"w": np.ones(2, np.float32)}
            return RoundReport(patches=5, weights=weights, model=model)

        return answer

    plan = FederationPlan(mode="fedavg", rounds=2, quorum=1, retries=0)
    conduct(order(tmp_path, plan), world(a=of("aa")))

    conduct(order(tmp_path, plan, first_round=2), world(a=of("bb"), b=of("aa")))

    restarted = [
        record
        for record in RecordFile(tmp_path / "records.jsonl").read()
        if record.kind == "train" and "b" in record.sites
    ]
    assert [record.took_part for record in restarted] == [["b"]]

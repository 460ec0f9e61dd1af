"""A run: rounds, retries, the closing task, and what is kept of it."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from moma_core.errors import CheckpointError
from moma_core.federation.task import RoundReport, RoundTask, Weights
from moma_core.federation.weights import load_with_metadata
from moma_server.config.federation_plan import FederationPlan, RunOrder
from moma_server.federation.run.records import RecordFile, RoundRecord, next_round
from moma_server.federation.run.round import Reply
from moma_server.federation.run.run import FederatedRun
from tests.support.federation.fake_sites import (
    Behaviour,
    FakeClock,
    FakeSites,
    silent,
    takes_part,
)


def moves_by(value: float, patches: int) -> Behaviour:
    def answer(task: RoundTask, _ask: int) -> RoundReport:
        if task.kind == "close":
            return RoundReport()
        start = {"w": np.zeros(2, np.float32)} if task.weights is None else task.weights
        return RoundReport(
            patches=patches, weights={"w": start["w"] + np.float32(value)}
        )

    return answer


def sends(weights: Weights | None = None, **fields: Any) -> Behaviour:
    """A site whose every report is of one model, whatever the round."""

    def answer(task: RoundTask, _ask: int) -> RoundReport:
        if task.kind == "close":
            return RoundReport()
        sent = {"w": np.ones(2, np.float32)} if weights is None else weights
        return RoundReport(**{"patches": 10, "weights": sent, **fields})

    return answer


def order(folder: Path, plan: FederationPlan, first_round: int = 1) -> RunOrder:
    (folder / "weights").mkdir(exist_ok=True)
    return RunOrder(
        plan=plan,
        run="r1",
        first_round=first_round,
        nodes=folder / "nodes.json",
        records=folder / "records.jsonl",
        weights=folder / "weights",
    )


def conduct(order: RunOrder, sites: FakeSites) -> list[str]:
    FederatedRun(
        order,
        sites=sites,
        registered=lambda: sorted(sites.behaviours),
        clock=sites.clock,
    ).run()
    return [f"{r.kind} {r.round} {r.outcome}" for r in RecordFile(order.records).read()]


def first_record(folder: Path) -> RoundRecord:
    return RecordFile(folder / "records.jsonl").read()[0]


def student(folder: Path, number: int) -> Weights:
    path = folder / "weights" / f"round-{number:06d}.safetensors"
    return load_with_metadata(path)[0]


def world(**behaviours: Behaviour) -> FakeSites:
    return FakeSites(FakeClock(), behaviours)


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


FEDAVG = FederationPlan(mode="fedavg", rounds=1, quorum=2, retries=1, asks=1)


def test_a_report_of_a_failed_try_decides_nothing(tmp_path: Path) -> None:
    def once(task: RoundTask, ask: int) -> RoundReport | None:
        wide = {"other": np.ones(9, np.float32)}
        return (
            RoundReport(patches=10**12, weights=wide, model="ee") if ask == 1 else None
        )

    def second_time(task: RoundTask, ask: int) -> RoundReport | Reply:
        if ask == 1:
            return Reply("", trouble="failed", reason="no")
        return sends(model="aa")(task, ask)  # type: ignore[return-value]

    sites = world(a=second_time, b=second_time, hostile=once)

    records = conduct(order(tmp_path, FEDAVG), sites)

    assert records == [
        "train 1 missed_quorum",
        "train 1 completed",
        "close 1 completed",
        "run 1 finished",
    ]
    np.testing.assert_allclose(student(tmp_path, 1)["w"], [1.0, 1.0])


@pytest.mark.parametrize(
    "hostile",
    [
        sends(model="ee"),
        sends({"other": np.ones(9, np.float32)}),
        sends({"w": np.ones(3, np.float32)}),
        sends({"w": np.ones(2, np.float64)}),
        sends({"w": np.ones(2, np.float32), "x": np.ones(1, np.float32)}),
    ],
    ids=["model", "names", "shape", "type", "more"],
)
@pytest.mark.parametrize("name", ["a-first", "z-last"])
def test_most_sites_say_what_the_model_is_whoever_is_first(
    tmp_path: Path, hostile: Behaviour, name: str
) -> None:
    sites = world(**{name: hostile, "b": sends(), "c": sends()})

    conduct(order(tmp_path, FEDAVG), sites)

    record = first_record(tmp_path)
    assert (record.outcome, record.took_part) == ("completed", ["b", "c"])
    assert record.sites[name].state == "failed"
    assert "another model or classes" in (record.sites[name].reason or "")
    assert student(tmp_path, 1).keys() == {"w"}


def test_where_no_model_has_most_sites_none_is_taken(tmp_path: Path) -> None:
    sites = world(a=sends(model="aa"), b=sends(model="bb"))
    plan = FEDAVG.model_copy(update={"quorum": 1, "retries": 0})

    records = conduct(order(tmp_path, plan), sites)

    assert records == ["train 1 missed_quorum", "run 1 stopped"]
    assert "none of them most" in (first_record(tmp_path).sites["a"].reason or "")


BAD_UPDATES: dict[str, tuple[Behaviour, str]] = {
    "nan": (sends({"w": np.array([1, np.nan], np.float32)}), "not finite"),
    "inf": (sends({"w": np.array([1, -np.inf], np.float32)}), "not finite"),
    "largest float": (sends({"w": np.full(2, 3.4e38, np.float32)}), "beyond 1e\\+09"),
    "ten thousand": (sends({"w": np.full(2, 1e4, np.float32)}), "times as far"),
    "no patches": (sends(patches=0), "weighs nothing"),
    "no weights": (takes_part(), "holds no weights"),
    "shape": (sends({"w": np.ones(3, np.float32)}), "another model|global model"),
    "lost": (lambda _task, _ask: Reply("", trouble="away", reason="lost"), "lost"),
    "silent": (silent, "no answer before"),
}


@pytest.mark.parametrize("rounds", [1, 2])
@pytest.mark.parametrize("kind", BAD_UPDATES)
def test_the_record_names_a_bad_update_and_the_average_is_untouched(
    tmp_path: Path, kind: str, rounds: int
) -> None:
    bad, why = BAD_UPDATES[kind]
    honest = {"a": moves_by(1.0, 10), "b": moves_by(1.1, 10), "c": moves_by(0.9, 10)}
    plan = FEDAVG.model_copy(update={"rounds": rounds, "deadline_seconds": 60})
    for folder, extra in (("alone", {}), ("attacked", {"hostile": bad})):
        (tmp_path / folder).mkdir()
        conduct(order(tmp_path / folder, plan), world(**honest, **extra))

    records = RecordFile(tmp_path / "attacked" / "records.jsonl").read()[:rounds]

    for record in records:
        assert record.took_part == ["a", "b", "c"]
        entry = record.sites["hostile"]
        assert entry.state in ("failed", "late", "away")
        assert re.search(why, entry.reason or "")
    alone, attacked = (
        student(tmp_path / f, rounds)["w"] for f in ("alone", "attacked")
    )
    np.testing.assert_array_equal(alone, attacked)


def test_batch_norm_of_one_site_does_not_break_the_others(tmp_path: Path) -> None:
    def state(variance: float, steps: int) -> Weights:
        return {
            "bn.running_var": np.full(2, variance, np.float32),
            "bn.num_batches_tracked": np.array(steps, np.int64),
        }

    sites = world(
        a=sends(state(1.0, 10)),
        b=sends(state(1.0, 12)),
        negative=sends(state(-1.0, 10)),
        overflow=sends(state(1.0, 2**63 - 1)),
    )

    conduct(order(tmp_path, FEDAVG), sites)

    record = first_record(tmp_path)
    assert record.took_part == ["a", "b"]
    assert "variance below zero" in (record.sites["negative"].reason or "")
    assert "beyond" in (record.sites["overflow"].reason or "")
    assert student(tmp_path, 1)["bn.num_batches_tracked"] == 10


def test_a_site_that_claims_all_patches_is_one_of_the_round(tmp_path: Path) -> None:
    sites = world(
        a=moves_by(1.0, 1000),
        b=moves_by(1.0, 1000),
        c=moves_by(1.0, 1000),
        hostile=moves_by(-5.0, 10**12),
    )

    conduct(order(tmp_path, FEDAVG), sites)

    # without a start from the sites' median, 1.0, which nobody else left
    np.testing.assert_allclose(student(tmp_path, 1)["w"], [1.0, 1.0])


def test_two_answers_of_one_site_are_one_update(tmp_path: Path) -> None:
    class Twice(FakeSites):
        def poll(self) -> list[Reply]:
            replies = super().poll()
            late = Reply("from-yesterday", RoundReport(patches=9))
            return [late, *replies, *replies]

    behaviours = {"a": moves_by(1.0, 10), "b": moves_by(4.0, 10)}
    plan = FEDAVG.model_copy(update={"aggregation": "mean"})

    conduct(order(tmp_path, plan), Twice(FakeClock(), behaviours))

    assert first_record(tmp_path).took_part == ["a", "b"]
    np.testing.assert_allclose(student(tmp_path, 1)["w"], [2.5, 2.5])


def test_updates_are_gone_when_their_round_is_over(tmp_path: Path) -> None:
    left = tmp_path / "weights" / "updates"
    plan = order(tmp_path, FEDAVG)
    left.mkdir()
    (left / "000000.safetensors").write_bytes(b"of a killed process")

    conduct(plan, world(a=moves_by(1.0, 10), b=moves_by(1.0, 10)))

    assert not left.exists()


@pytest.mark.parametrize("rule", ["median", "trimmed_mean", "krum"])
def test_a_rule_that_bears_hostile_sites_needs_three(tmp_path: Path, rule: str) -> None:
    with pytest.raises(ValidationError, match="set quorum to 3 at least"):
        FederationPlan(mode="fedavg", rounds=1, quorum=2, aggregation=rule)

    plan = FEDAVG.model_copy(update={"quorum": 3, "aggregation": rule})
    conduct(
        order(tmp_path, plan),
        world(a=moves_by(1, 1), b=moves_by(1, 1), c=moves_by(1, 1), d=moves_by(8, 1)),
    )

    np.testing.assert_allclose(student(tmp_path, 1)["w"], [1.0, 1.0])

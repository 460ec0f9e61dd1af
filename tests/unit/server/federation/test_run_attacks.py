"""A hostile site in a run: named in the record, and no other's round is another."""

import re
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from moma_core.federation.task import RoundReport, RoundTask, Weights
from moma_server.config.federation_plan import FederationPlan
from moma_server.federation.run.records import RecordFile
from moma_server.federation.run.round import Reply
from tests.support.federation.fake_sites import (
    Behaviour,
    FakeClock,
    FakeSites,
    silent,
    takes_part,
)
from tests.support.federation.runs import (
    conduct,
    first_record,
    moves_by,
    order,
    sends,
    student,
    world,
)

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

"""The coordinator's gate: what passes, what is kept in, and that both are noted."""

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from moma_client.config.site import SiteConfig
from moma_client.egress.log import EgressLog, log_entries, log_path
from moma_client.egress.outcome import StudentOutcome
from moma_client.egress.to_coordinator import CoordinatorEgress
from moma_client.metrics import ClientMetrics
from moma_core.errors import ConfigError
from moma_core.federation.disclosure import CANNOT_TRAIN, Cohort
from moma_core.federation.messages import pack_report
from moma_core.federation.task import RoundReport, RoundTask
from tests.support.site.tiny_site import local_config

TASK = RoundTask(
    kind="train", run="r1", round=1, rounds=2, local_epochs=1, mode="independent"
)
PEOPLE = Cohort("a" * 64, 20, {"benign": 12, "rare": 2, "other": 9}, "20 patients")
WEIGHTS = {"w": np.ones(3, np.float32)}


class Wire:
    """A node that keeps what would leave."""

    def __init__(self) -> None:
        self.reports: list[RoundReport] = []
        self.failures = 0

    def report(self, task: RoundTask, report: RoundReport) -> None:
        self.reports.append(report)

    def fail(self, task: RoundTask) -> None:
        self.failures += 1

    @property
    def bytes(self) -> bytes:
        packed = [pack_report(report) for report in self.reports]
        return b"".join(p.header.encode() + (p.weights or b"") for p in packed)


class EgressSite:
    """A gate of a site in a folder, and what left through it."""

    def __init__(self, folder: Path, **sections: Any) -> None:
        self.config: SiteConfig = local_config(folder, **sections)
        self.registry = CollectorRegistry()
        self.gate = CoordinatorEgress(self.config, ClientMetrics(self.registry))
        self.wire = Wire()

    def tell(
        self,
        cohort: Cohort = PEOPLE,
        task: RoundTask = TASK,
        patches: int = 104,
        **figures: float,
    ) -> dict[str, float]:
        outcome = StudentOutcome(
            figures, patches, WEIGHTS, "ab" * 32, {"validation": cohort}
        )
        return self.gate.report(self.wire, task, {"moma": outcome})

    def blocked(self, rule: str) -> float:
        name = "moma_client_egress_blocked_total"
        return self.registry.get_sample_value(name, {"rule": rule}) or 0.0

    def log(self) -> list[dict[str, object]]:
        return list(log_entries(log_path(self.config.state_dir)))


def test_figures_leave_rounded_and_counted(tmp_path: Path) -> None:
    site = EgressSite(tmp_path)

    told = site.tell(validation_accuracy=0.98765)

    assert told == {"validation_accuracy": 0.988}
    assert site.wire.reports[0].metrics == told
    assert site.wire.reports[0].patches == 100
    assert site.wire.reports[0].weights is None
    name = "moma_client_egress_bytes_total"
    sent = site.registry.get_sample_value(name, {"channel": "coordinator"})
    assert sent == len(site.wire.bytes)
    (entry,) = site.log()
    assert (entry["item"], entry["outcome"]) == ("report on r1-000001-train", "sent")


ATTACKS: list[tuple[str, dict[str, float], Cohort]] = [
    ("metric", {"maria_mueller": 0.5}, PEOPLE),
    ("metric", {"validation_recall_maria_mueller": 0.5}, PEOPLE),
    ("metric", {"validation_auroc": 0.5}, PEOPLE),
    ("range", {"validation_accuracy": math.nan}, PEOPLE),
    ("range", {"validation_accuracy": math.inf}, PEOPLE),
    ("range", {"validation_accuracy": 4711.0}, PEOPLE),
    ("patients", {"validation_accuracy": 0.5}, PEOPLE._replace(people=3)),
    ("patients", {"unseen_accuracy": 0.5}, PEOPLE),
    ("class_patients", {"validation_recall_rare": 0.5}, PEOPLE),
    ("complement", {"validation_recall_other": 0.5}, PEOPLE),
]


@pytest.mark.parametrize(("rule", "figures", "cohort"), ATTACKS)
def test_what_may_not_leave_is_kept_in_counted_and_named_here_alone(
    tmp_path: Path, rule: str, figures: dict[str, float], cohort: Cohort
) -> None:
    listed = [
        *("validation_accuracy", "unseen_accuracy", "validation_recall_rare"),
        "validation_recall_other",
    ]
    site = EgressSite(tmp_path, egress={"metrics": listed})

    told = site.tell(cohort, **figures)

    (key,) = figures
    assert told == {}
    assert key.encode() not in site.wire.bytes
    assert site.blocked(rule) == 1
    assert [(e["item"], e["rule"]) for e in site.log() if "rule" in e] == [(key, rule)]


def test_the_difference_that_one_patient_makes_is_not_told(tmp_path: Path) -> None:
    without = PEOPLE._replace(digest="b" * 64, people=19)
    site = EgressSite(tmp_path)
    site.tell(validation_accuracy=0.5)

    again = site.tell(validation_accuracy=0.75)
    changed = site.tell(without, validation_accuracy=0.625)
    restarted = EgressSite(tmp_path)
    other_run = restarted.tell(
        without, replace(TASK, run="r2"), validation_accuracy=0.625
    )

    assert again == {"validation_accuracy": 0.75}
    assert changed == other_run == {}
    assert b"0.625" not in site.wire.bytes + restarted.wire.bytes
    assert restarted.blocked("cohort") == 2  # one before the restart


def test_two_students_of_one_report_tell_of_the_same_people(tmp_path: Path) -> None:
    site = EgressSite(
        tmp_path, egress={"metrics": ["validation_ece", "ce_validation_ece"]}
    )
    figures = {"validation_ece": 0.5}
    moma = StudentOutcome(figures, 10, WEIGHTS, "", {"validation": PEOPLE})
    fewer = {"validation": PEOPLE._replace(digest="b" * 64)}

    told = site.gate.report(
        site.wire, TASK, {"moma": moma, "ce": replace(moma, cohorts=fewer)}
    )

    assert told == {"validation_ece": 0.5}
    assert site.blocked("cohort") == 1


def test_evaluations_are_counted_over_restarts(tmp_path: Path) -> None:
    bounds = {"max_evaluations_per_run": 2}
    EgressSite(tmp_path, coordinator=bounds).tell(validation_accuracy=0.5)
    site = EgressSite(tmp_path, coordinator=bounds)
    first = site.gate.refusal(TASK)
    site.tell(validation_accuracy=0.5)

    second = site.gate.refusal(TASK)

    assert first is None
    assert second is not None
    assert second.sentence == "more than 2 evaluations a run"
    assert site.gate.refusal(replace(TASK, run="r2")) is None


def test_runs_are_counted_by_what_lies_on_the_disk(tmp_path: Path) -> None:
    site = EgressSite(tmp_path, coordinator={"max_runs": 1})
    (site.config.state_dir / "runs" / "r1").mkdir(parents=True)

    assert site.gate.refusal(TASK) is None
    refusal = site.gate.refusal(replace(TASK, run="r2"))
    assert refusal is not None
    assert refusal.sentence == "more than 1 runs"


def test_the_site_alone_is_told_which_key_refuses_a_round(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = EgressSite(tmp_path, coordinator={"max_rounds_per_run": 2})

    assert site.gate.settles(site.wire, replace(TASK, rounds=3))

    assert caplog.messages == [
        "round 1 is refused: more than 2 rounds a run "
        "(coordinator.max_rounds_per_run is 2, this task asks 3)"
    ]
    (report,) = site.wire.reports
    assert report.refusal == "more than 2 rounds a run"


def test_a_refusal_is_one_sentence_and_nothing_else(tmp_path: Path) -> None:
    site = EgressSite(tmp_path)
    refusal = site.gate.refusal(replace(TASK, mode="fedavg"))
    assert refusal is not None

    site.gate.refuse(site.wire, TASK, refusal)
    site.gate.refuse(site.wire, TASK, CANNOT_TRAIN)
    site.gate.fail(site.wire, TASK)

    empty = RoundReport()
    for report, sentence in zip(
        site.wire.reports,
        (
            "weights may not leave this site",
            "the site cannot train; its operator knows why",
        ),
        strict=True,
    ):
        assert report.refusal == sentence
        assert (report.metrics, report.patches) == ({}, empty.patches)
        assert (report.weights, report.model) == (None, "")
    assert site.wire.failures == 1
    assert site.blocked("weights") == 1


@pytest.mark.parametrize("may", [True, False])
def test_weights_leave_where_the_site_says_so(tmp_path: Path, may: bool) -> None:
    site = EgressSite(tmp_path, coordinator={"weights_may_leave": may})

    site.tell(task=replace(TASK, mode="fedavg"), validation_accuracy=0.5)

    assert (site.wire.reports[0].weights is not None) == may


def test_a_count_of_patches_is_capped(tmp_path: Path) -> None:
    site = EgressSite(tmp_path, egress={"max_patches_told": 50})

    site.tell(patches=123_456)

    assert site.wire.reports[0].patches == 50


def test_a_site_that_lost_what_it_told_does_not_start(tmp_path: Path) -> None:
    EgressSite(tmp_path).tell(validation_accuracy=0.5)
    (path,) = (tmp_path / "state").glob("egress-told.json")
    path.write_text("{}}")

    with pytest.raises(ConfigError, match="restore it"):
        EgressSite(tmp_path)


def test_a_list_of_figures_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'maria_mueller' is no figure"):
        local_config(tmp_path, egress={"metrics": ["maria_mueller"]})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "site.example"])
def test_local_metrics_stay_local_without_a_token(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigError, match="can be reached from other machines"):
        local_config(tmp_path, metrics={"host": host})


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.9.9.9"])
def test_loopback_needs_no_token(tmp_path: Path, host: str) -> None:
    assert local_config(tmp_path, metrics={"host": host}).metrics.host == host


@pytest.mark.parametrize(
    ("kind", "unknown", "counted"),
    [
        ({"kind": "embedded", "part": "site-a"}, None, "each"),
        ({"kind": "embedded", "part": "site-a"}, "one", "one"),
        ({"kind": "csv_manifest", "path": "m.csv"}, None, "one"),
        ({"kind": "csv_manifest", "path": "m.csv"}, "each", "each"),
    ],
)
def test_who_names_no_patient_has_one_unless_the_set_is_public(
    tmp_path: Path, kind: dict[str, Any], unknown: str | None, counted: str
) -> None:
    config = local_config(tmp_path, data=kind, egress={"unknown_patients": unknown})

    assert config.egress.counted_as(config.data) == counted


def test_rounds_that_are_refused_do_not_roll_away_what_left(tmp_path: Path) -> None:
    site = EgressSite(tmp_path)
    site.gate._log = EgressLog(log_path(site.config.state_dir), 4096)
    site.tell(validation_accuracy=0.5)
    greedy = replace(TASK, local_epochs=10**6)
    refusal = site.gate.refusal(greedy)
    assert refusal is not None

    for _ in range(60):
        site.gate.refuse(site.wire, greedy, refusal)
        site.gate.fail(site.wire, TASK)

    outcomes = [entry["outcome"] for entry in site.log()]
    assert outcomes.count("sent") == 1
    assert outcomes.index("sent") == 0
    assert {"blocked", "refused"} <= set(outcomes)
    assert len(outcomes) < 180


def test_an_allowed_figure_that_has_no_value_is_named_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    allowed = ["validation_accuracy", "validation_kappa", "unseen_accuracy"]
    site = EgressSite(tmp_path, egress={"metrics": allowed})

    with caplog.at_level(logging.INFO):
        site.tell(validation_accuracy=0.5)

    assert "egress.metrics names what has no value: validation_kappa" in caplog.messages

"""What a site's dashboard shows of its own run."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from moma_client.config.site import SiteConfig
from moma_client.dashboard.view import site_view
from moma_client.metrics import ClientMetrics
from moma_core.dashboard.view import Panel, View
from moma_core.evaluation.statistics import wilson_interval
from tests.support.machine.dashboards import all_texts
from tests.support.site.reported_site import reported_site
from tests.support.site.tiny_site import local_config

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> SiteConfig:
    config = reported_site(tmp_path_factory.mktemp("site"))
    (run,) = config.state_dir.joinpath("runs").iterdir()
    lines = ["time,step,epoch,classification,contrastive,distillation,total"]
    lines += [f"t,{10 * i},0,{1 / i},2.0,0,{2 + 1 / i}" for i in (1, 2, 4)]
    told = (run / "figures.jsonl").read_text().splitlines()
    record = [json.loads(line) for line in told]
    accuracy = record[1]["details"]["moma"]["validation"]["figures"]["accuracy"]
    accuracy |= {"low": 0.25, "high": 0.75}
    (run / "figures.jsonl").write_text("\n".join(map(json.dumps, record)) + "\n")
    (run / "moma" / "metrics.csv").write_text("\n".join(lines) + "\n")
    return config


@pytest.fixture
def metrics() -> ClientMetrics:
    return ClientMetrics(CollectorRegistry())


def panel(view: View, key: str) -> Panel:
    (found,) = [panel for panel in view.panels if panel.key == key]
    return found


def texts(view: View, key: str, table: int = 0) -> list[list[str]]:
    rows = panel(view, key).tables[table].rows
    return [[cell.text for cell in row] for row in rows]


def test_a_site_that_was_asked_nothing_yet_says_so(
    tmp_path: Path, metrics: ClientMetrics
) -> None:
    view = site_view(local_config(tmp_path), metrics.registry, NOW)

    assert panel(view, "run").note == "No round was asked of this site yet."
    assert not panel(view, "losses").tables[0].rows
    assert view.alerts == []


def test_losses_over_the_steps(reported: SiteConfig, metrics: ClientMetrics) -> None:
    view = site_view(reported, metrics.registry, NOW)

    assert [row for row in texts(view, "losses") if row[0] == "moma"] == [
        ["moma", "classification", "0.2500", "40", ""],
        ["moma", "contrastive", "2.0000", "40", ""],
        ["moma", "total", "2.2500", "40", ""],
    ]
    spark = panel(view, "losses").tables[0].rows[0][4].spark
    assert spark is not None
    assert spark.points == [(10, 1.0), (20, 0.5), (40, 0.25)]


def test_the_newest_losses_before_any_were_kept(
    tmp_path: Path, metrics: ClientMetrics
) -> None:
    metrics.loss.labels(term="total").set(1.5)

    view = site_view(local_config(tmp_path), metrics.registry, NOW)

    assert texts(view, "losses") == [["moma", "total", "1.5000", "", ""]]


def test_figures_have_their_interval_and_number(
    reported: SiteConfig, metrics: ClientMetrics
) -> None:
    rows = texts(site_view(reported, metrics.registry, NOW), "figures")

    assert {tuple(row[:3]) for row in rows} >= {
        ("moma", "validation", "accuracy"),
        ("ce", "validation", "macro_f1"),
    }
    assert {row[6] for row in rows} == {"2"}
    assert all(int(row[5]) > 0 for row in rows)
    intervals = {tuple(row[:3]): row[4] for row in rows}
    assert intervals["moma", "validation", "accuracy"] == "0.250 to 0.750"
    low, high = wilson_interval(1 / 3, 6)  # every draw of the six patients is alike
    assert intervals["ce", "validation", "accuracy"] == f"{low:.3f} to {high:.3f}"


def test_wait_and_cache_are_of_this_program(
    reported: SiteConfig, metrics: ClientMetrics
) -> None:
    metrics.step_seconds.labels(phase="step").observe(4.0)
    metrics.teacher_wait_seconds.inc(6.0)  # a cache is filled before the steps
    metrics.patches.labels(source="bank").inc(30)
    metrics.patches.labels(source="teacher").inc(10)

    facts = panel(site_view(reported, metrics.registry, NOW), "run").facts

    said = {fact.label: fact.value.replace("\N{NO-BREAK SPACE}", " ") for fact in facts}
    assert said["Time of all steps"] == "4 s"
    assert said["Waited for teachers, in steps and before"] == "6 s"
    assert said["From the teacher cache"] == "30 of 40 patches (75 %)"
    assert said["Rounds reported"] == "3"
    assert said["State"] == "finished"


def test_no_folder_and_no_patient_is_shown(
    reported: SiteConfig, metrics: ClientMetrics
) -> None:
    view = site_view(reported, metrics.registry, NOW)

    shown = " ".join(all_texts(view))
    assert "Meier" not in shown
    assert str(reported.state_dir) not in shown


def test_alerts_are_those_of_a_sites_prometheus(
    tmp_path: Path, metrics: ClientMetrics
) -> None:
    metrics.count_mismatch("fork")
    metrics.count_mismatch("signature")

    view = site_view(local_config(tmp_path), metrics.registry, NOW)

    assert [(a.severity, a.name) for a in view.alerts] == [
        ("critical", "MomaSiteAuditMismatch"),
        ("warning", "MomaSiteForgedCheckpoint"),
    ]

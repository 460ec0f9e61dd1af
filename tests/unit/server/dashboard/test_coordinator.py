"""What a coordinator's dashboard shows, held against what its status says."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from moma_core.dashboard.view import Cell, Panel, View
from moma_server.config.server import ServerConfig
from moma_server.dashboard.view import server_view
from moma_server.federation.run.metrics import RoundMetrics
from moma_server.federation.run.records import RecordFile
from moma_server.federation.run.state import STATE_FILE
from moma_server.metrics.metrics import FederationMetrics
from moma_server.state import run_folder
from moma_server.status import server_status
from tests.support.federation.shown_run import REASON, RUN, coordinator_folder
from tests.support.machine.dashboards import all_texts, unknown_words

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def config(tmp_path: Path) -> ServerConfig:
    return coordinator_folder(tmp_path / "c", now=NOW.timestamp())


def registry_of(config: ServerConfig) -> CollectorRegistry:
    registry = CollectorRegistry()
    assert config.coordinator is not None
    records = run_folder(config, config.coordinator) / "records.jsonl"
    RoundMetrics(RecordFile(records), FederationMetrics(registry)).update()
    return registry


def panel(view: View, key: str) -> Panel:
    (found,) = [panel for panel in view.panels if panel.key == key]
    return found


def texts(row: tuple[Cell, ...]) -> list[str]:
    return [cell.text for cell in row]


def test_the_run_and_who_is_waited_for_since_when(config: ServerConfig) -> None:
    view = server_view(config, registry_of(config), NOW)

    facts = {fact.label: fact.value for fact in panel(view, "run").facts}
    assert facts["Run"] == RUN
    assert facts["Rounds"] == "4 of 10 completed"
    assert facts["State"] == "running"
    assert facts["Waiting for"] == "1 of 2 sites, waiting for 1 (since 12:00 UTC)"
    assert facts["Not connected"] == "b-b"


def test_sites_and_rounds_and_figures_over_the_rounds(config: ServerConfig) -> None:
    view = server_view(config, registry_of(config), NOW)

    (sites,) = panel(view, "sites").tables
    assert [texts(row) for row in sites.rows] == [
        [
            "a-a",
            "connected",
            "took part",
            "4 of 4",
            "120",
            "2026-03-01 12:00 UTC (0 s ago)",
        ],
        [
            "b-b",
            "not connected",
            "took part",
            "2 of 4",
            "120",
            "2026-03-01 11:59 UTC (60 s ago)",
        ],
    ]
    (rounds,) = panel(view, "rounds").tables
    assert [row[0].text for row in rounds.rows] == ["4", "3", "2", "1"]
    assert rounds.rows[1][1].text == "missed quorum"
    assert rounds.rows[1][5].text == f"b-b (refused: {REASON})"
    (figures,) = panel(view, "figures").tables
    first = figures.rows[0]
    assert texts(first)[:6] == [
        "a-a",
        "validation_accuracy",
        "0.620",
        "0.530",
        "0.620",
        "4",
    ]
    assert first[6].spark is not None
    assert [round(y, 2) for _, y in first[6].spark.points] == [0.53, 0.56, 0.59, 0.62]


def test_alerts_have_the_names_of_prometheus(config: ServerConfig) -> None:
    later = datetime.fromtimestamp(NOW.timestamp() + 90_000, UTC)

    alerts = server_view(config, registry_of(config), later).alerts

    assert [(a.severity, a.name) for a in alerts] == [
        ("warning", "MomaSiteSilent"),
        ("warning", "MomaSiteSilent"),
        ("info", "MomaSitesOffline"),
    ]


def ended_run(config: ServerConfig, outcome: str, phase: str) -> None:
    """Writes the end of the run as a coordinator does that still looks."""
    assert config.coordinator is not None
    folder = run_folder(config, config.coordinator)
    records = RecordFile(folder / "records.jsonl")
    values = {"kind": "run", "outcome": outcome, "sites": {}}
    records.append(records.read()[-1].model_copy(update=values))
    path = folder / STATE_FILE
    state = json.loads(path.read_text())
    state["waiting"] |= {"phase": phase}
    path.write_text(json.dumps(state))


def test_a_run_that_has_stopped_is_an_alert_whatever_the_day(
    config: ServerConfig,
) -> None:
    ended_run(config, "stopped", "stopped")
    later = datetime.fromtimestamp(NOW.timestamp() + 90_000, UTC)

    view = server_view(config, registry_of(config), later)

    assert [(a.severity, a.name) for a in view.alerts] == [
        ("warning", "MomaRoundsFail")
    ]
    facts = {fact.label: fact for fact in panel(view, "run").facts}
    assert (facts["State"].value, facts["State"].tone) == ("stopped", "bad")
    assert "goes on with it by a restart" in facts["What next"].value


def test_nobody_is_missed_once_a_run_is_over(config: ServerConfig) -> None:
    ended_run(config, "finished", "over")

    view = server_view(config, registry_of(config), NOW)

    facts = {fact.label: fact for fact in panel(view, "run").facts}
    assert view.alerts == []
    assert (facts["Not connected"].value, facts["Not connected"].tone) == ("b-b", "")
    (sites,) = panel(view, "sites").tables
    assert [row[1].tone for row in sites.rows] == ["good", ""]


def test_of_thirty_sites_the_page_says_how_many_and_names_some(tmp_path: Path) -> None:
    names = [f"hospital-with-a-long-name-{number:02d}" for number in range(30)]
    config = coordinator_folder(tmp_path / "c", now=NOW.timestamp(), sites=names)

    view = server_view(config, registry_of(config), NOW)

    (rounds,) = panel(view, "rounds").tables
    first = texts(rounds.rows[0])
    assert first[4].startswith("30 of 30: hospital-with-a-long-name-00, ")
    assert first[4].endswith(" more")
    (alert,) = view.alerts
    assert alert.text.endswith(" more.")


def test_a_server_that_never_ran_says_so(config: ServerConfig) -> None:
    assert config.coordinator is not None
    other = config.coordinator.model_copy(update={"run": "run-2"})
    config = config.model_copy(update={"coordinator": other})

    view = server_view(config, CollectorRegistry(), NOW)

    assert panel(view, "run").note == "The run has never started."


def test_a_damaged_record_is_a_sentence_on_the_page(config: ServerConfig) -> None:
    assert config.coordinator is not None
    path = run_folder(config, config.coordinator) / "records.jsonl"
    path.write_bytes(b'{"kind": "nonsense"}\n')

    view = server_view(config, CollectorRegistry(), NOW)

    assert "damaged record" in panel(view, "run").note


# of the page's own sentences; no value of anybody
_OWN = frozenset(
    re.findall(
        r"\w+",
        "running connected not took part took_part missed quorum completed nobody "
        "refused late away failed never ago UTC s min h days of yet asked independent",
    )
)


def test_it_shows_nothing_that_metrics_and_status_do_not(config: ServerConfig) -> None:
    config.state_dir.joinpath("tokens.json").write_text('{"canary-token": "x"}')
    config.state_dir.joinpath("approved.json").write_text('{"canary-pin": "x"}')
    registry = registry_of(config)
    known = json.dumps(server_status(config)) + generate_latest(registry).decode()

    shown = list(all_texts(server_view(config, registry, NOW)))

    assert unknown_words(shown, known, _OWN) == []
    assert "canary" not in " ".join(shown)

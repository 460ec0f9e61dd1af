"""What a teacher's dashboard shows of budgets, denials and its log."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from moma_core.dashboard.view import Panel, View
from moma_core.end_to_end.signatures import SigningKey
from moma_core.runtime.clock import utc_now
from moma_server.cli.init import ServerSetup, init_server
from moma_server.cli.main import main
from moma_server.config.server import ServerConfig
from moma_server.dashboard.view import server_view
from moma_server.metrics.metrics import ServiceMetrics
from moma_server.state import open_ledger
from moma_server.status import server_status
from tests.support.machine.dashboards import all_texts, unknown_words
from tests.support.teacher.audit_log import ask, query

_EVIL = "<img src=x>"


@pytest.fixture(autouse=True)
def tls12_is_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a fresh program: here another test may have imported grpc before."""
    monkeypatch.setenv("GRPC_SSL_CIPHER_SUITES", "ECDHE-RSA-AES256-GCM-SHA384")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    setup = ServerSetup(roles=("teacher",), name="teacher-a")
    init_server(tmp_path / "t", setup)
    return tmp_path / "t" / "server.yaml"


@pytest.fixture
def config(path: Path) -> ServerConfig:
    config = ServerConfig.from_yaml(path)
    assert config.teacher is not None
    with open_ledger(config, config.teacher) as ledger:
        ask(ledger, query(1), query(2), query(3, site="site-b"))
    return config


class Own(ServiceMetrics):
    """A teacher's metrics, with the registry that they are in."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        super().__init__(self.registry)


@pytest.fixture
def metrics() -> Own:
    return Own()


def shown(config: ServerConfig, metrics: Own, late: float = 0) -> View:
    registry = metrics.registry
    return server_view(config, registry, utc_now() + timedelta(seconds=late))


def panel(view: View, key: str) -> Panel:
    (found,) = [panel for panel in view.panels if panel.key == key]
    return found


def texts(view: View, key: str, table: int = 0) -> list[list[str]]:
    rows = panel(view, key).tables[table].rows
    return [[cell.text for cell in row] for row in rows]


def test_budget_and_coverage_by_site(config: ServerConfig, metrics: Own) -> None:
    own = metrics.teacher
    own.budget.labels("site-a", "teacher-a").set(1000)
    own.budget_remaining.labels("site-a", "teacher-a").set(0.05)
    own.unique.labels("site-a", "teacher-a").set(700)
    own.coverage.labels("site-a", "teacher-a").set(0.6)
    own.coverage_limit.labels("teacher-a").set(0.5)

    view = shown(config, metrics)

    nbsp = "\N{NO-BREAK SPACE}"
    assert texts(view, "teacher") == [
        ["site-a", "1,000", "50", f"5{nbsp}%", "700", f"60{nbsp}%", f"50{nbsp}%"]
    ]
    assert [(alert.severity, alert.name) for alert in view.alerts] == [
        ("critical", "MomaCoverageOverPolicy"),
        ("warning", "MomaBudgetLow"),
    ]


def test_queries_and_denials_by_reason(config: ServerConfig, metrics: Own) -> None:
    own = metrics.teacher
    own.requests.labels("site-a", "teacher-a", "answered").inc(12)
    own.requests.labels("site-a", "teacher-a", "denied").inc(3)
    own.denied.labels("site-a", "teacher-a", "budget").inc(3)
    own.denied.labels("", "teacher-a", "auth").inc(1)

    view = shown(config, metrics)

    assert texts(view, "queries") == [["site-a", "12", "3", "0", "0", "0"]]
    assert texts(view, "queries", table=1) == [
        ["nobody known", "auth", "1"],
        ["site-a", "budget", "3"],
    ]


def test_the_head_of_the_log_is_what_status_says(
    config: ServerConfig, metrics: Own
) -> None:
    audit = server_status(config)["audit"]

    facts = {f.label: f.value for f in panel(shown(config, metrics), "audit").facts}

    assert facts["Root of the newest checkpoint"] == audit["root"]
    assert facts["Entries"] == str(audit["entries"])
    assert facts["Last verification"].startswith("never: moma-server audit verify")


def test_a_verification_is_remembered(
    path: Path, config: ServerConfig, metrics: Own
) -> None:
    assert main(["audit", "verify", "--config", str(path)]) == 0

    facts = {f.label: f.value for f in panel(shown(config, metrics), "audit").facts}

    today = datetime.now(UTC).date().isoformat()
    assert facts["Last verification"].startswith(f"verified on {today}")
    assert (
        f"{server_status(config)['audit']['entries']} entries"
        in (facts["Last verification"])
    )


def test_one_that_failed_is_remembered_too(
    path: Path, config: ServerConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    other = str(SigningKey.create().public)
    assert main(["audit", "verify", "--config", str(path), "--key", other]) == 1
    capsys.readouterr()

    assert server_status(config)["audit"]["verification"]["outcome"] == "failed"
    assert main(["status", "--config", str(path)]) == 0
    assert "failed on" in capsys.readouterr().out


def test_a_log_that_signs_nothing_is_an_alert(
    config: ServerConfig, metrics: Own
) -> None:
    metrics.audit.checkpoint_time.set(utc_now().timestamp())
    metrics.audit.mismatches.inc(2)

    assert [a.name for a in shown(config, metrics).alerts] == ["MomaAuditMismatch"]
    late = shown(config, metrics, late=1000)
    assert {a.name for a in late.alerts} == {"MomaAuditMismatch", "MomaCheckpointStale"}


def test_looking_holds_back_no_writer_and_writes_nothing(
    config: ServerConfig, metrics: Own
) -> None:
    assert config.teacher is not None
    with open_ledger(config, config.teacher) as ledger:

        def while_written(_database: object) -> View:
            return shown(config, metrics)

        view = ledger.alter(while_written)  # in a transaction that has the lock

    assert panel(view, "audit").facts


def test_a_database_that_does_not_answer_is_a_sentence(
    config: ServerConfig, metrics: Own
) -> None:
    assert config.teacher is not None
    gone = config.teacher.model_copy(update={"database": "sqlite:////no/such/folder/x"})
    view = shown(config.model_copy(update={"teacher": gone}), metrics)

    assert "does not answer" in panel(view, "audit").note


# of the page's own sentences; no value of anybody
_OWN = frozenset(
    re.findall(
        r"\S+",
        "none not known measured serving yet nobody never ago UTC s min h days renews "
        "it there is moma-server audit verify --config server.yaml verified on",
    )
)


def test_it_shows_nothing_that_metrics_and_status_do_not(
    path: Path, config: ServerConfig, metrics: Own
) -> None:
    config.state_dir.joinpath("approved.json").write_text('{"canary-pin": "x"}')
    assert main(["audit", "verify", "--config", str(path)]) == 0
    own = metrics.teacher
    own.budget.labels("site-a", "teacher-a").set(1000)
    own.budget_remaining.labels("site-a", "teacher-a").set(0.05)
    own.requests.labels("site-a", "teacher-a", "answered").inc(12)
    own.denied.labels("site-a", "teacher-a", "budget").inc(3)
    own.inflight.set(2)
    known = json.dumps(server_status(config))
    known += generate_latest(metrics.registry).decode()

    texts_shown = list(all_texts(shown(config, metrics)))

    assert unknown_words(texts_shown, known, _OWN) == []
    assert "canary" not in " ".join(texts_shown)


def test_an_entry_of_a_strange_site_stays_text(
    config: ServerConfig, metrics: Own
) -> None:
    metrics.teacher.requests.labels(_EVIL * 100, "teacher-a", "answered").inc()

    ((name, *_),) = texts(shown(config, metrics), "queries")

    assert len(name) <= 200

"""A coordinator's report on its run."""

import json
import re
from pathlib import Path

import pytest

from moma_server.cli.main import main
from moma_server.config.server import ServerConfig, read_yaml, write_yaml
from moma_server.federation.run.records import RecordFile, RoundRecord, SiteEntry
from moma_server.federation.run.state import STATE_FILE, StateFile
from moma_server.state import run_folder
from tests.support.site.tiny_site import write_teacher

RUN = "run-1-0123456789ab"


@pytest.fixture(autouse=True)
def tls12_is_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a fresh program: here another test may have imported grpc before."""
    monkeypatch.setenv("GRPC_SSL_CIPHER_SUITES", "ECDHE-RSA-AES256-GCM-SHA384")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A coordinator whose run has three rounds, the second of them tried twice."""
    return _with_rounds(tmp_path, "coordinator")


def _with_rounds(tmp_path: Path, roles: str) -> Path:
    line = ["init", str(tmp_path / "hub"), "--roles", roles]
    assert main([*line, "--host", "localhost", "--rounds", "3"]) == 0
    path = tmp_path / "hub" / "server.yaml"
    config = ServerConfig.from_yaml(path)
    assert config.coordinator is not None
    folder = run_folder(config, config.coordinator)
    folder.mkdir(parents=True)
    plan = config.coordinator.plan
    state = StateFile(run=RUN, plan=plan, registered=["site-a", "site-b"])
    (folder / STATE_FILE).write_text(state.model_dump_json())
    records = RecordFile(folder / "records.jsonl")
    records.append(_round(1, {"site-a": _part(0.5), "site-b": _part(0.4)}))
    away = SiteEntry(state="away", reason="not <connected>")
    records.append(_round(2, {"site-a": away, "site-b": away}, "missed_quorum"))
    records.append(_round(2, {"site-a": _part(0.6), "site-b": away}))
    records.append(_round(3, {"site-a": _part(0.75), "site-b": _part(0.7)}))
    return path


def _part(figure: float) -> SiteEntry:
    return SiteEntry(
        state="took_part", patches=120, metrics={"validation_accuracy": figure}
    )


def _round(
    number: int, sites: dict[str, SiteEntry], outcome: str = "completed"
) -> RoundRecord:
    return RoundRecord.model_validate(
        {
            "kind": "train",
            "run": RUN,
            "round": number,
            "attempt": 1 + (number == 2 and outcome == "completed"),
            "outcome": outcome,
            "started_at": 1_800_000_000.0 + 100 * number,
            "seconds": 90.0,
            "sites": {name: entry.model_dump() for name, entry in sites.items()},
        }
    )


def _written(config: Path, out: Path) -> str:
    assert main(["report", "--config", str(config), "--out", str(out)]) == 0
    return (out / "report.html").read_text("utf-8")


def test_it_says_who_took_part_in_which_round(config: Path, tmp_path: Path) -> None:
    text = " ".join(_written(config, tmp_path / "out").split())

    assert "site-a took part in 3 of 3 rounds." in text
    assert "site-b took part in 2 of 3 rounds; 1 time away." in text
    assert "1 try missed the quorum" in text
    assert "3 of 3 rounds are completed" in text
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert found["took_part"]["site-b"]["away"] == 1
    assert (tmp_path / "out" / "participation.png").exists()


def test_it_shows_the_figures_that_were_disclosed(config: Path, tmp_path: Path) -> None:
    text = _written(config, tmp_path / "out")

    shown = dict(re.findall(r"value='([^']+)' data-key='([^']+)'", text))
    assert {key: float(value) for value, key in shown.items()} == {
        "site-a.validation_accuracy": 0.75,
        "site-b.validation_accuracy": 0.7,
    }
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert found["figures"]["validation_accuracy"]["site-a"] == [
        [1, 0.5],
        [2, 0.6],
        [3, 0.75],
    ]


def test_figures_are_named_in_words_and_the_last_ones_stand_in_short(
    config: Path, tmp_path: Path
) -> None:
    text = " ".join(_written(config, tmp_path / "out").split())

    short = text[text.index("<h2>In short") : text.index("<h2>Rounds")]
    assert "Last disclosed, accuracy on validation patches: site-a 0.750, site-b 0" in (
        short
    )
    assert "a coordinator is not told" in short
    assert "<th>accuracy on validation patches</th>" in text
    assert "<h3>Accuracy on validation patches</h3>" in text
    assert "The run run-1" not in text


def test_a_server_with_the_teacher_names_it_and_its_task(tmp_path: Path) -> None:
    path = _with_rounds(tmp_path, "coordinator,teacher")
    teacher = ServerConfig.from_yaml(path).teacher
    assert teacher is not None
    write_teacher(teacher.card.parent).save(teacher.card)

    text = _written(path, tmp_path / "out")

    assert "the teacher teacher-a, too: organ colon, task stain." in text


def test_what_a_site_wrote_is_text_and_nothing_else(
    config: Path, tmp_path: Path
) -> None:
    text = _written(config, tmp_path / "out")

    assert "not &lt;connected&gt;" in text
    assert "<script" not in text


def test_it_does_not_claim_to_know_what_was_asked(config: Path, tmp_path: Path) -> None:
    assert "This server is no teacher" in _written(config, tmp_path / "out")


def test_a_run_that_has_not_begun_has_no_report(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["init", str(tmp_path / "hub"), "--host", "localhost"]) == 0
    path = tmp_path / "hub" / "server.yaml"

    line = ["report", "--config", str(path), "--out", str(tmp_path / "out")]
    assert main(line) == 1

    assert "has not begun: no report yet" in caplog.text
    assert not (tmp_path / "out").exists()


def test_a_server_without_rounds_has_none_to_report(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    line = ["init", str(tmp_path / "teacher"), "--roles", "teacher"]
    assert main([*line, "--host", "localhost"]) == 0
    path = tmp_path / "teacher" / "server.yaml"
    write_yaml(path, read_yaml(path))

    report = ["report", "--config", str(path), "--out", str(tmp_path / "out")]
    assert main(report) == 1

    assert "coordinates no rounds" in caplog.text

"""Both programs as an operator calls them, in this process."""

import json
import logging
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moma_client.cli.main import main as client
from moma_client.site.app import stop_on_signals
from moma_core.data.sources.demo_tissue import CLASS_NAMES
from moma_server.cli.commands import card_lines
from moma_server.cli.main import main as server
from moma_server.config.server import read_yaml, write_yaml
from moma_server.demo.report import DemoReport
from tests.support.teacher.sealed import TEACHER_KEY
from tests.support.teacher.teacher_server import CARD

_NO_CARD = re.compile(
    r"cannot read the teacher card .*/server/teacher/card\.json: No such file or "
    r"directory; it is the card\.json that was made with the teacher's weights"
)

Main = Callable[[list[str]], int]


def _change(path: Path, **sections: Any) -> None:
    values = read_yaml(path)
    assert isinstance(values, dict)
    for key, value in sections.items():
        mine = values.get(key)
        merges = isinstance(mine, dict) and isinstance(value, dict)
        values[key] = {**mine, **value} if merges else value
    write_yaml(path, values)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A server and a site, as `init` makes them."""
    assert server(["init", str(tmp_path / "server"), "--host", "localhost"]) == 0
    key = ("--teacher-key", TEACHER_KEY)
    assert client(["init", str(tmp_path / "site"), "--name", "site-a", *key]) == 0
    return tmp_path


def test_check_accepts_what_init_wrote(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served = place / "hub" / "server.yaml"  # without a teacher, which is to be made
    site = place / "site" / "config.yaml"
    assert server(["init", str(served.parent), "--roles", "coordinator"]) == 0
    capsys.readouterr()

    assert server(["--config", str(served), "--check"]) == 0
    assert client(["--site", str(site), "--check"]) == 0

    assert capsys.readouterr().out == f"{served} is valid\n{site} is valid\n"


def test_check_says_that_a_fresh_servers_teacher_is_to_be_made(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert server(["--config", str(place / "server" / "server.yaml"), "--check"]) == 1

    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert _NO_CARD.fullmatch(record.getMessage())


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("federatoin", "moma", "unknown key federatoin; did you mean federation?"),
        (
            "metrics",
            {"port": "many"},
            "metrics.port is 'many': write a whole number",
        ),
        ("federation", "No Name", "federation is 'No Name': it should be of the form"),
        ("state_dir", None, "state_dir is None: write a path"),
    ],
)
@pytest.mark.parametrize("which", ["server", "site"])
def test_a_broken_rule_is_one_line_with_the_keys_path_and_status_1(
    place: Path,
    caplog: pytest.LogCaptureFixture,
    which: str,
    key: str,
    value: Any,
    rule: str,
) -> None:
    names = {"server": ("server.yaml", "--config"), "site": ("config.yaml", "--site")}
    name, flag = names[which]
    program = server if which == "server" else client
    path = place / which / name
    _change(path, **{key: value})

    status = program([flag, str(path), "--check"])

    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    head, only = record.getMessage().splitlines()
    assert status == 1
    assert head == f"{path} is not valid:"
    assert only.strip().startswith(rule)
    assert not record.exc_info


@pytest.mark.parametrize("program", [server, client])
def test_a_missing_file_is_named_and_ends_with_status_1(
    program: Main, caplog: pytest.LogCaptureFixture
) -> None:
    flag = "--config" if program is server else "--site"

    assert program([flag, "nowhere.yaml", "--check"]) == 1
    assert "cannot read nowhere.yaml" in caplog.text


@pytest.mark.parametrize("program", [server, client])
@pytest.mark.parametrize("line", [[], ["--nonsense"], ["nonsense"]])
def test_wrong_usage_ends_with_status_2(
    program: Main, line: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        program(line)

    assert ended.value.code == 2
    assert "usage: moma-" in capsys.readouterr().err


def test_a_second_init_is_refused(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert server(["init", str(place / "server")]) == 1
    assert client(["init", str(place / "site"), "--name", "site-b"]) == 1
    assert "a server is made once" in caplog.text
    assert "a site is made once" in caplog.text


@pytest.mark.parametrize(
    ("program", "line", "key"),
    [
        (server, ["init", "x", "--roles", "cook"], "roles.0"),
        (server, ["init", "x", "--name", "No Name"], "name"),
        (server, ["init", "x", "--host", "teacher.org:8444"], "hosts.0"),
        (client, ["init", "x", "--name", "No Name"], "site"),
        (client, ["init", "x", "--name", "a-b", "--coordinator", "x"], "coordinator"),
    ],
)
def test_init_names_the_value_that_it_does_not_take(
    program: Main,
    line: list[str],
    key: str,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    line = [str(tmp_path / word) if word == "x" else word for word in line]

    assert program(line) == 1
    assert caplog.records[-1].getMessage().startswith(key)
    assert not list(tmp_path.iterdir())


def test_a_site_is_admitted_listed_and_revoked(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ("--config", str(place / "server" / "server.yaml"))
    site = place / "site"
    request = ("--csr", str(site / "site.csr"), "--node-key", str(site / "node.pub"))
    out = site / "site.pem"

    admitted = server(
        ["admit", *config, "--site", "site-a", *request, "--out", str(out)]
    )
    capsys.readouterr()
    server(["sites", *config, "--json"])
    rows = json.loads(capsys.readouterr().out)
    revoked = server(["revoke", *config, "site-a"])
    server(["sites", *config])

    assert (admitted, revoked) == (0, 0)
    assert out.read_bytes().startswith(b"-----BEGIN CERTIFICATE")
    assert ("site", "site-a", "admitted") in [
        (row["kind"], row["name"], row["state"]) for row in rows
    ]
    assert "site site-a: revoked" in capsys.readouterr().out


def test_a_request_that_cannot_be_read_ends_with_status_1(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = ("--config", str(place / "server" / "server.yaml"))
    wanted = ("--csr", str(place / "none"), "--out", str(place / "out"))

    assert server(["admit", *config, "--site", "site-a", *wanted]) == 1
    assert "cannot read the request" in caplog.text


def test_status_of_a_server_that_never_ran(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ("--config", str(place / "server" / "server.yaml"))
    _change(place / "server" / "server.yaml", state_dir="state")
    capsys.readouterr()

    assert server(["status", *config, "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert server(["status", *config]) == 0

    assert status == {
        "federation": "moma",
        "run": None,
        "budgets": {},
        "audit": None,
    }
    assert "run: never started" in capsys.readouterr().out


def test_a_teacher_is_trained_and_its_figures_are_printed(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = place / "server" / "recipe.yaml"
    _change(
        recipe,
        data={"kind": "embedded", "part": "teacher", "path": None},
        views="geometry_only",
        view_size_px=32,
        model={"architecture": "test_efficientnet", "weights": "random"},
        epochs=1,
        training={"batch_size": 32, "threads": 1, "accelerator": "cpu"},
    )
    values = read_yaml(recipe)
    assert isinstance(values, dict)
    del values["data"]["path"]
    write_yaml(recipe, values)
    out = place / "server" / "teacher"
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    capsys.readouterr()

    try:
        line = ["teacher", "train", "--recipe", str(recipe), "--out", str(out)]
        assert server([*line, "--json"]) == 0
        made = json.loads(capsys.readouterr().out)
        assert server(line) == 0  # all is done already: it says the same
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])

    card = json.loads((out / "card.json").read_text())
    accuracy = made["figures"]["validation_accuracy"]
    assert made["digest"] == card["digest"]
    assert tuple(card["class_names"]) == CLASS_NAMES
    assert f"validation_accuracy {accuracy:.3f}" in capsys.readouterr().out


def test_a_site_that_never_ran_has_nothing_to_evaluate(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = place / "site" / "config.yaml"

    assert client(["evaluate", "--site", str(site)]) == 1
    assert "there is no run in" in caplog.text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_client_hears_a_stop(number: signal.Signals) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    try:
        stop = stop_on_signals()
        signal.raise_signal(number)
        heard = stop.wait(5)
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])

    assert heard


def _detail(patches: int, low: float, high: float) -> dict[str, object]:
    figure = {"value": 0.5, "low": low, "high": high, "patches": patches}
    return {"patches": patches, "figures": {"accuracy": figure}}


def test_the_demos_report_shows_every_figure_it_has() -> None:
    figures = {
        split: {"accuracy": 0.5, "macro_f1": 0.25} for split in ("validation", "unseen")
    }
    report = DemoReport(
        dataset="a set",
        claim="a claim",
        seconds=12.3,
        sites={"site-a": {"moma": figures, "ce": figures}},
        teacher=figures,
        queries={"site-a": 344},
        budget_left={"site-a": 0.5},
        rounds=[
            {
                "kind": "train",
                "round": 1,
                "outcome": "completed",
                "seconds": 3.0,
                "took_part": ["site-a"],
            }
        ],
        scenario={"site-a": "same"},
        checks=["nothing was found"],
        out="/out",
        details={"site-a moma": {"unseen": _detail(72, 0.375, 0.625)}},
    )

    text = "\n".join(report.lines())

    assert json.loads(report.to_json())["queries"] == {"site-a": 344}
    for row in ("site-a moma", "site-a ce", "teacher"):
        lines = [line for line in text.splitlines() if line.startswith(row)]
        assert [line.count("0.500") for line in lines] == [1, 1]
        assert [line.count("0.250") for line in lines] == [1, 1]
    assert "site-a moma        72  0.500  0.375 to 0.625" in text
    assert "site-a asked 344 patches, 50% of its budget left" in text
    assert "train 1: completed in 3 s, took part: site-a" in text


@pytest.mark.parametrize("words", [["--help"], ["token", "create", "--help"]])
def test_help_loads_nothing_that_only_a_command_needs(words: list[str]) -> None:
    heavy = ("torch", "grpc", "sqlalchemy", "numpy", "cryptography", "pydantic")
    program = (
        "import sys; from moma_server.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        f"finally: assert not set({heavy}) & set(sys.modules), set(sys.modules)"
    )

    ended = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, check=False
    )

    assert (ended.returncode, ended.stderr) == (0, b"")


def test_a_card_reads_as_sentences_where_something_is_not_said() -> None:
    full = replace(CARD, mpp=0.5, default_grant_patches=0, membership_advantage=0.25)

    bare, said = (
        {line[:15].rstrip(): line[16:] for line in card_lines(card)}
        for card in (CARD, full)
    )

    assert bare["patches"].endswith(" px, microns a pixel: not said")
    assert bare["budget"] == "patches a site by default: not said"
    assert said["patches"].endswith(" px, microns a pixel: 0.5")
    assert said["budget"] == "patches a site by default: 0"
    assert said["membership"] == "advantage 0.25 (0 guesses, 1 is always right)"

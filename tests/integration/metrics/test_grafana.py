"""The dashboards, held against what Prometheus can parse and the programs show."""

import json
import re
import subprocess
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from moma_server.config.server import read_yaml, write_yaml
from tests.support.machine.exposed_metrics import of_the_client, of_the_server
from tests.support.machine.needs import needs_program

_DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
_BOARDS = {
    "server": (_DEPLOY / "grafana/dashboards/server/moma-server.json", of_the_server),
    "site": (_DEPLOY / "grafana/dashboards/site/moma-site.json", of_the_client),
}
_RULES = {"server": ("recording.yml",), "site": ("site.yml",)}

_NAME = re.compile(r"\bmoma(?:_[a-z_]+|:[a-z_]+:[a-z0-9_]+)\b")
_VARIABLE = re.compile(r"\$\{?(\w+)\}?")
_OF_GRAFANA = {"__rate_interval": "5m"}
_COLUMNS = 24


def _board(whose: str) -> dict[str, Any]:
    path, _ = _BOARDS[whose]
    board: dict[str, Any] = json.loads(path.read_text())
    return board


def _variables(board: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in board["templating"]["list"]}


def _expressions(board: dict[str, Any]) -> Iterator[str]:
    """Yields what is asked of Prometheus, by panels and by variables."""
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"]
    for variable in _variables(board).values():
        if variable["type"] == "query":
            asked = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"])
            assert asked is not None, variable["definition"]
            assert variable["query"]["query"] == variable["definition"]
            yield f"count by ({asked[2]}) ({asked[1]})"


def _recorded(whose: str) -> set[str]:
    return {
        rule["record"]
        for name in _RULES[whose]
        for group in read_yaml(_DEPLOY / "prometheus/rules" / name)["groups"]
        for rule in group["rules"]
        if "record" in rule
    }


@pytest.mark.parametrize("whose", _BOARDS)
def test_prometheus_can_parse_all_that_a_dashboard_asks(
    whose: str, tmp_path: Path
) -> None:
    (promtool,) = needs_program("promtool")
    board = _board(whose)
    values = {**dict.fromkeys(_variables(board), ".*"), **_OF_GRAFANA}
    rules = [
        {
            "record": f"panel:expression:{number}",
            "expr": _VARIABLE.sub(lambda found: values[found[1]], expression),
        }
        for number, expression in enumerate(_expressions(board))
    ]
    path = tmp_path / "rules.yml"
    write_yaml(path, {"groups": [{"name": "dashboard", "rules": rules}]})

    done = subprocess.run(
        [promtool, "check", "rules", path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout


@pytest.mark.parametrize("whose", _BOARDS)
def test_a_dashboard_looks_at_what_its_program_shows_and_its_rules_record(
    whose: str,
) -> None:
    _, shown = _BOARDS[whose]
    asked = {n for text in _expressions(_board(whose)) for n in _NAME.findall(text)}

    assert asked
    assert asked <= shown() | _recorded(whose)


def test_no_institution_looks_at_a_hospitals_own_figures() -> None:
    other = of_the_client() - of_the_server()

    assert all(name not in json.dumps(_board("server")) for name in other)


@pytest.mark.parametrize("whose", _BOARDS)
def test_all_panels_ask_the_prometheus_that_the_operator_chooses(whose: str) -> None:
    board = _board(whose)
    source = {"type": "prometheus", "uid": "${datasource}"}

    assert _variables(board)["datasource"]["type"] == "datasource"
    for panel in board["panels"]:
        for part in (panel, *panel.get("targets", [])):
            assert part.get("datasource", source) == source


@pytest.mark.parametrize("whose", _BOARDS)
def test_panels_have_numbers_titles_and_places_of_their_own(whose: str) -> None:
    panels = _board(whose)["panels"]
    places = [panel["gridPos"] for panel in panels]

    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["title"] for panel in panels)
    assert all(place["x"] + place["w"] <= _COLUMNS for place in places)
    assert not any(_overlap(*pair) for pair in combinations(places, 2))


def _overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return all(
        one[start] < other[start] + other[length]
        and other[start] < one[start] + one[length]
        for start, length in (("x", "w"), ("y", "h"))
    )


def test_dashboards_have_names_of_their_own() -> None:
    boards = [_board(whose) for whose in _BOARDS]

    assert len({board["uid"] for board in boards}) == len(boards)
    assert len({board["title"] for board in boards}) == len(boards)


def test_what_is_provisioned_is_read_only_and_comes_from_loopback() -> None:
    folder = _DEPLOY / "grafana/provisioning"
    (source,) = read_yaml(folder / "datasources/moma.yml")["datasources"]
    (provider,) = read_yaml(folder / "dashboards/moma.yml")["providers"]

    assert source["url"].startswith("http://127.0.0.1:")
    assert (source["type"], source["editable"]) == ("prometheus", False)
    assert provider["allowUiUpdates"] is False
    assert provider["options"]["path"].endswith("/dashboards/server")

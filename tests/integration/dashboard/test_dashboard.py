"""A real coordinator's dashboard: its data, and its page in a real browser.

`MOMA_SCREENSHOTS=folder` keeps what the browser showed.
"""

import json
import os
import re
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from moma_server.config.server import ServerConfig
from moma_server.federation.run.records import RecordFile
from moma_server.state import run_folder
from tests.support.e2e.programs import LOOPBACK, Program, command, ended
from tests.support.federation.shown_run import coordinator_folder
from tests.support.machine.accessibility import accessibility_faults
from tests.support.machine.chromium import Scheme, Tab, open_tab
from tests.support.machine.waiting import wait_for

_EVIL_REASON = "<b>epochs</b>"
_LOOKS = [(w, s) for w in (1280, 390) for s in ("light", "dark")]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ServerConfig:
    folder = tmp_path_factory.mktemp("coordinator") / "c"
    return coordinator_folder(folder, now=time.time() - 60)


@pytest.fixture(scope="module")
def program(config: ServerConfig) -> Iterator[Program]:
    path = config.state_dir.parent / "server.yaml"
    log = config.state_dir.parent / "log"
    line = command("moma-server", "--config", path)
    program = Program("coordinator", log, config.metrics.port, line)
    program.shows("moma_site_metric{")
    yield program
    program.cleared()


@pytest.fixture(scope="module")
def url(config: ServerConfig, program: Program) -> str:
    assert config.dashboard is not None
    return f"http://{LOOPBACK}:{config.dashboard.port}/"


@pytest.fixture(scope="module")
def tab(url: str) -> Iterator[Tab]:
    with open_tab() as tab:
        yield tab


def fetched(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - of ours
        text: bytes = answer.read()
    return text.decode()


def test_the_page_of_a_running_coordinator_is_its_metrics_and_status(
    url: str, program: Program, config: ServerConfig
) -> None:
    page = fetched(url)
    path = config.state_dir.parent / "server.yaml"
    status = json.loads(
        ended("moma-server", "status", "--config", path, "--json").stdout
    )

    assert status["run"]["run"] in page
    for labels, value in re.findall(r"moma_site_metric\{(.*)\} (\S+)", program.page()):
        site, metric = re.findall(r'"([^"]*)"', labels)[::-1]
        assert {site, metric} <= set(re.findall(r">([^<>]+)</t[hd]>", page))
        assert f">{float(value):.3f}<" in page
    assert _EVIL_REASON not in page
    assert "&lt;b&gt;epochs" in page


@pytest.mark.parametrize(("width", "scheme"), _LOOKS)
def test_it_is_readable_and_accessible(
    tab: Tab, url: str, width: int, scheme: Scheme
) -> None:
    tab.show(url, width=width, scheme=scheme)
    if folder := os.environ.get("MOMA_SCREENSHOTS"):
        shot = Path(folder) / f"coordinator-{width}-{scheme}.png"
        shot.write_bytes(tab.picture())

    assert tab.run("document.documentElement.scrollWidth") <= width
    assert tab.complaints == []
    paper = tab.run("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 23, 26)"}[scheme]
    assert accessibility_faults(tab) == []


def test_the_keyboard_reaches_the_content_and_each_wide_table(
    tab: Tab, url: str
) -> None:
    tab.show(url)

    tab.press("Tab")
    assert tab.run("document.activeElement.className") == "skip"
    tab.press("Enter")
    assert tab.run("location.hash") == "#content"
    reached = []
    for _ in range(8):
        tab.press("Tab")
        reached.append(tab.run("document.activeElement.id"))
    assert {"site-table", "round-table", "figure-table"} <= set(reached)


def test_a_new_round_comes_in_by_itself_and_the_focus_stays(
    tab: Tab, url: str, config: ServerConfig
) -> None:
    assert config.coordinator is not None
    records = RecordFile(run_folder(config, config.coordinator) / "records.jsonl")
    tab.show(url, width=390)
    alerts = "document.getElementById('alerts').dataset.sentence"
    wait_for(lambda: tab.run(alerts) == "No alerts.")  # it has just started
    tab.show(url, width=390)
    tab.run("document.getElementById('round-table').focus()")
    tab.run("document.getElementById('round-table').scrollLeft = 40")
    before = tab.run("document.getElementById('made').textContent")

    newest = records.read()[-1]
    records.append(newest.model_copy(update={"round": newest.round + 1}))

    first = "document.querySelector('#round-table tbody th').textContent"
    wait_for(lambda: tab.run(first) == str(newest.round + 1))
    assert tab.run("document.activeElement.id") == "round-table"
    assert tab.run("document.getElementById('round-table').scrollLeft") == 40
    assert tab.run("document.getElementById('made').textContent") != before
    assert tab.run("document.getElementById('spoken').textContent") == ""
    assert tab.complaints == []


def test_who_pauses_is_shown_nothing_new(tab: Tab, url: str) -> None:
    tab.show(url)
    tab.run("document.getElementById('pause').focus()")
    tab.press("Enter")

    assert tab.run("document.getElementById('pause').textContent") == "Go on"
    assert "Paused" in tab.run("document.getElementById('state').textContent")


def test_without_scripts_the_page_reloads_itself(tab: Tab, url: str) -> None:
    tab.show(url, scripts=False)
    made = "document.getElementById('made')?.textContent"  # none while it reloads
    before = tab.run(made)

    wait_for(lambda: tab.run(made) not in (None, before))
    assert tab.run("document.getElementById('pause').hidden")

"""What an open page does while its program changes, ends and comes back."""

import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from moma_core.dashboard.config import DashboardSection
from moma_core.dashboard.server import DashboardServer
from moma_core.dashboard.view import Cell, Column, Fact, Panel, Table, View
from moma_core.runtime.files import write_private
from tests.support.machine.chromium import Tab, open_tab
from tests.support.machine.dashboards import TOKEN, view, with_token
from tests.support.machine.ports import free_port
from tests.support.machine.waiting import wait_for

_STATE = "document.getElementById('state').textContent"
_SPOKEN = "document.getElementById('spoken').textContent"
_LINKS = "[...document.querySelectorAll('nav a')].map(one => one.textContent)"
_ROUNDS = "document.querySelector('#run dd').textContent"
# somebody comes back to the page, and from here on it is counted what it asks
_COME_BACK = """
const ask = window.fetch;
window.asked = 0;
window.fetch = (...what) => { asked += 1; return ask(...what); };
document.dispatchEvent(new Event("visibilitychange"));
0"""
_SELDOM = 3600  # nothing is renewed by itself within a test


class Shown:
    """Panels that a test changes while a page is open."""

    def __init__(self) -> None:
        self.panels: list[Panel] = []
        self.rounds(1)

    def rounds(self, number: int) -> None:
        self.panels = [Panel("run", "Run", (Fact("Rounds", str(number)),))]

    def __call__(self) -> View:
        return view(*self.panels)


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    with open_tab() as tab:
        yield tab


@pytest.fixture
def shown() -> Shown:
    return Shown()


def served(shown: Shown, section: DashboardSection) -> DashboardServer:
    """Returns a server that makes its page anew for each request."""
    return DashboardServer(section, shown, clock=count(step=10).__next__)


def section_of(seconds: int) -> DashboardSection:
    return DashboardSection(port=free_port(), refresh_seconds=seconds)


def test_a_part_that_comes_later_can_be_reached(tab: Tab, shown: Shown) -> None:
    section = section_of(2)
    with served(shown, section):
        tab.show(f"{section.url}/")
        assert tab.run(_LINKS) == ["Alerts", "Run"]
        tab.run("document.getElementById('to-run').focus()")

        shown.panels.append(Panel("sites", "Sites <b>"))

        wait_for(lambda: tab.run(_LINKS) == ["Alerts", "Run", "Sites <b>"])
        assert tab.run("document.activeElement.id") == "to-run"
        tab.run("document.getElementById('to-sites').click()")
        assert tab.run("location.hash") == "#sites"


def test_a_program_that_ends_and_comes_back_is_told_and_read_out(
    tab: Tab, shown: Shown
) -> None:
    section = section_of(2)
    with served(shown, section):
        tab.show(f"{section.url}/")

    wait_for(lambda: "does not answer" in tab.run(_STATE))
    old = "The program does not answer: what is shown is of 2026-03-01 12:00:00 UTC."
    assert tab.run(_STATE) == tab.run(_SPOKEN) == old

    shown.rounds(2)
    with served(shown, section):
        wait_for(lambda: tab.run(_STATE) == "Renewed every 2 seconds.")
        assert tab.run(_SPOKEN) == "The program answers. Renewed every 2 seconds."
        assert tab.run(_ROUNDS) == "2"


def test_who_pauses_a_page_is_not_told_that_the_program_answers(
    tab: Tab, shown: Shown
) -> None:
    section = section_of(2)
    with served(shown, section):
        tab.show(f"{section.url}/")
    wait_for(lambda: "does not answer" in tab.run(_STATE))

    tab.run("document.getElementById('pause').click()")

    assert tab.run(_STATE) == "Paused: nothing is renewed."
    assert "The program answers" not in tab.run(_SPOKEN)


def test_who_goes_on_or_comes_back_is_shown_the_present_at_once(
    tab: Tab, shown: Shown
) -> None:
    section = section_of(_SELDOM)
    with served(shown, section):
        tab.show(f"{section.url}/")
        tab.run("document.getElementById('pause').click()")
        shown.rounds(2)
        tab.run("document.getElementById('pause').click()")
        wait_for(lambda: tab.run(_ROUNDS) == "2")

        shown.rounds(3)
        tab.run("document.dispatchEvent(new Event('visibilitychange')); 0")
        wait_for(lambda: tab.run(_ROUNDS) == "3")
        assert tab.run(_STATE) == f"Renewed every {_SELDOM} seconds."


def test_a_page_whose_token_was_replaced_asks_no_more(
    tab: Tab, shown: Shown, tmp_path: Path
) -> None:
    given = with_token(tmp_path)
    section = given.model_copy(update={"port": free_port(), "refresh_seconds": 2})
    assert section.token_file is not None
    with served(shown, section):
        tab.show(f"{section.url}/", token=TOKEN.decode())

        write_private(section.token_file, b"f" * 32)
        tab.run(_COME_BACK)

        wait_for(lambda: "The token is another one now" in tab.run(_STATE))
        time.sleep(section.refresh_seconds + 0.5)
        assert tab.run("asked") == 1


def test_a_table_that_is_wider_than_the_screen_scrolls_by_the_keyboard(
    tab: Tab, shown: Shown
) -> None:
    columns = [Column(f"Column number {n}") for n in range(12)]
    cells = [Cell("some text") for _ in columns]
    table = Table("wide-table", "Wide", columns, [cells], "none")
    shown.panels = [Panel("run", "Run", tables=(table,))]
    left = "document.getElementById('wide-table').scrollLeft"
    section = section_of(_SELDOM)
    with served(shown, section):
        tab.show(f"{section.url}/", width=390)
        tab.run("document.getElementById('wide-table').focus()")
        assert tab.run(left) == 0

        tab.press("ArrowRight")

        wait_for(lambda: tab.run(left) > 0)
        assert tab.run("document.documentElement.scrollWidth") <= 390

"""Shows the dashboards of a real run to a real browser, and keeps what it showed.

make screenshots

Every institution's page, at both widths, light and dark, goes to `build/screenshots`;
the ones that the docs show are copied to `docs/images`. A page that axe-core finds
something wrong with, or that is wider than its window, ends it.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from tests.support.e2e.programs import LOOPBACK
from tests.support.e2e.world import SITES, World, make_tiny_teacher
from tests.support.machine.accessibility import accessibility_faults
from tests.support.machine.chromium import Tab, open_tab
from tests.support.machine.ports import free_port
from tests.support.machine.waiting import wait_for

_PROJECT = Path(__file__).resolve().parent.parent
_OUT = _PROJECT / "build" / "screenshots"
_SHOWN = ("coordinator-1280-light.png", "teacher-1280-dark.png", "site-a-390-light.png")
_RUN_SECONDS = 900.0


def main() -> None:
    _OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_tiny_teacher(folder / "teacher")
        world = World(folder / "world", folder / "teacher", plan={"rounds": 12})
        try:
            _take(world)
        finally:
            world.close()
    for name in _SHOWN:
        shutil.copy(_OUT / name, _PROJECT / "docs" / "images" / name)


def _take(world: World) -> None:
    shown = (SITES[0], "coordinator", "teacher")  # a site's page ends with the run
    ports = {name: free_port() for name in shown}
    for name, port in ports.items():
        world.configure(name, dashboard={"port": port})
    world.serve_both()
    for site in SITES:
        world.take_part(site)
    wait_for(lambda: len(world.rounds()) > 2, _RUN_SECONDS)
    with open_tab() as tab:
        for name, port in ports.items():
            _take_all(tab, name, f"http://{LOOPBACK}:{port}/")


def _take_all(tab: Tab, name: str, url: str) -> None:
    for width in (1280, 390):
        for scheme in ("light", "dark"):
            tab.show(url, width=width, scheme="dark" if scheme == "dark" else "light")
            (_OUT / f"{name}-{width}-{scheme}.png").write_bytes(tab.picture())
            faults = accessibility_faults(tab)
            if tab.run("document.documentElement.scrollWidth") > width:
                faults.append("wider than its window")
            if faults:
                sys.exit(f"{name}'s page, {width} px, {scheme}: {faults}")


if __name__ == "__main__":
    main()

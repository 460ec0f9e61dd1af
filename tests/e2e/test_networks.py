"""Whole programs in networks as hospitals have them: behind proxies, and with ports
that are mixed up; a site that comes when its run is over, and one that trains from
whole slides."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from moma_client.cli.main import main
from moma_core.runtime.files import write_private
from tests.support.e2e.programs import LOOPBACK, ended
from tests.support.e2e.world import RUN_SECONDS, World, as_json
from tests.support.machine.connect_proxy import ConnectProxy, connect_proxy
from tests.support.slides.annotated import SLIDES, annotated_slides

pytestmark = pytest.mark.timeout(1800)  # of the whole run, on a busy machine

_CREDENTIALS = "hospital:secret word"


@dataclass
class Networks:
    """A run that is over; coordinator and teacher still serve.

    Args:
        world: The federation.
        named: The proxy of site-a, by its URL and with credentials.
        variable: That of site-b, by its environment.
        teachers: That of the teacher.
        said: What each site said of its run.
        statuses: How the sites ended.
    """

    world: World
    named: ConnectProxy
    variable: ConnectProxy
    teachers: ConnectProxy
    said: dict[str, str]
    statuses: list[int]

    def place(self, port: str) -> str:
        return f"{LOOPBACK}:{self.world.ports[port]}"


@pytest.fixture(scope="module")
def networks(
    tmp_path_factory: pytest.TempPathFactory, teacher: Path
) -> Iterator[Networks]:
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("networks")
        world = World(folder, teacher, plan={"rounds": 1})
        stack.callback(world.close)
        named = stack.enter_context(connect_proxy(credentials=_CREDENTIALS))
        variable = stack.enter_context(connect_proxy())
        teachers = stack.enter_context(connect_proxy())
        write_private(folder / "proxy", f"{_CREDENTIALS}\n".encode())
        file = str(folder / "proxy")
        world.configure(
            "site-a", network={"proxy": named.url, "proxy_credentials_file": file}
        )
        world.configure("site-b", network={"proxy": "environment"})
        world.replace("site-b", "data", annotated_slides(folder / "site-b"))
        world.configure("teacher", network={"proxy": teachers.url})
        with pytest.MonkeyPatch.context() as patch:
            _set(patch, variable.url)  # all programs have it, one obeys
            world.serve_both()
            sites = [world.take_part(site) for site in world.names]
            statuses = [site.status(seconds=RUN_SECONDS) for site in sites]
            said = {site.name: site.said() for site in sites}
            yield Networks(world, named, variable, teachers, said, statuses)


def _set(patch: pytest.MonkeyPatch, url: str) -> None:
    for name in ("HTTPS_PROXY", "https_proxy"):
        patch.setenv(name, url)
    for name in ("ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        patch.delenv(name, raising=False)


def test_every_link_of_a_site_goes_through_its_proxy(networks: Networks) -> None:
    links = {networks.place(port) for port in ("edge", "enrol", "teach")}

    assert networks.statuses == [0, 0], networks.said
    assert set(networks.named.asked) == links
    assert set(networks.variable.asked) == links
    assert set(networks.teachers.asked) == {networks.place("enrol")}
    assert "secret word" not in "".join(networks.said.values())


def test_a_site_trains_from_its_slides_and_names_none_of_them(
    networks: Networks,
) -> None:
    world = networks.world
    (record,) = world.rounds()
    card = json.loads((world.student_folder("site-b") / "student.json").read_text())
    servers = [world.folder / "coordinator", world.folder / "teacher"]
    files = [path for each in servers for path in each.rglob("*") if path.is_file()]

    assert record.took_part == ["site-a", "site-b"]
    assert "patches: 140 labelled and 0 unlabelled" in networks.said["site-b"]
    assert card["resolution_mpp"] == pytest.approx(2.0)  # 64 px at 1.0, shown as 32
    for path in (*files, *world.folder.glob("[ct]*.log")):
        content = path.read_bytes()
        for slide in SLIDES:
            assert f"{slide}.ome".encode() not in content, path
            assert f"patient {slide}".encode() not in content, path


def test_doctor_goes_the_same_way_and_says_so(
    networks: Networks, capfd: pytest.CaptureFixture[str]
) -> None:
    config = networks.world.folder / "site-a" / "config.yaml"
    before = len(networks.named.asked)

    main(["doctor", "--site", str(config)])

    looked = capfd.readouterr()
    assert "links go through the proxy" in looked.out
    assert len(networks.named.asked) > before
    assert "secret word" not in looked.out + looked.err


def test_a_site_that_comes_when_its_run_is_over_is_told_and_ends_well(
    networks: Networks,
) -> None:
    site = networks.world.take_part("site-a")

    assert site.status(seconds=120) == 0
    assert "run-1 is over: the coordinator's owner starts another by" in site.said()
    status = ended(
        *("moma-server", "status", "--json", "--config"),
        networks.world.folder / "coordinator" / "server.yaml",
    )
    assert "run-1 is over" in as_json(status.stdout)["run"]["waiting"]


def test_a_wrong_port_is_told_by_doctor_and_by_the_run(
    networks: Networks, capsys: pytest.CaptureFixture[str]
) -> None:
    world, folder = networks.world, networks.world.folder / "site-b"
    right = (folder / "config.yaml").read_text()
    enrol, teach = networks.place("enrol"), networks.place("teach")
    try:
        world.configure("site-b", coordinator={"address": enrol})
        status = main(["doctor", "--site", str(folder / "config.yaml")])
        world.configure("site-b", coordinator={"address": teach})
        tried = ended("moma-client", "--site", folder / "config.yaml")
    finally:
        (folder / "config.yaml").write_text(right)

    assert status != 0
    assert f"{enrol} is the coordinator's port for enrolment" in capsys.readouterr().out
    assert tried.returncode in (1, 3)
    last = tried.stderr.splitlines()[-1]
    assert "is the teacher teacher-a and no coordinator" in last
    assert "patches:" not in tried.stderr  # nothing was read or asked before

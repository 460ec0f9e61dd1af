"""What was told outlives a kill at any moment, and the log tears one line at most."""

import json
import multiprocessing
import os
import signal
import stat
import time
from pathlib import Path

import pytest

from moma_client.egress.disclosed import (
    DisclosedCohort,
    DisclosureFile,
    DisclosureState,
)
from moma_client.egress.log import EgressLog, entry_line, log_entries
from moma_core.errors import ConfigError

COHORT = DisclosedCohort(digest="a" * 64, counted="12 patients", values={"x": 0.5})


def tell_for_ever(folder: Path) -> None:
    """Is a site that is killed: tells a larger number each time, and notes it."""
    file, log = DisclosureFile(folder / "told.json"), EgressLog(folder / "log", 4096)
    for number in range(1, 1_000_000):
        told = DisclosureState(
            cohorts={"validation": COHORT}, evaluations={"run": number}
        )
        file.write(told)
        log.add("coordinator", "sent", f"report {number}")
        (folder / "handed-over").write_text(str(number))


def test_what_was_told_is_there_after_a_restart(tmp_path: Path) -> None:
    told = DisclosureState(cohorts={"unseen": COHORT}, blocked={"range": 2})

    DisclosureFile(tmp_path / "state" / "told.json").write(told)

    assert DisclosureFile(tmp_path / "state" / "told.json").read() == told


def test_what_was_told_is_the_owners_alone(tmp_path: Path) -> None:
    DisclosureFile(tmp_path / "told.json").write(DisclosureState())
    EgressLog(tmp_path / "log").add("teacher", "sent", "patches")

    modes = [stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()]

    assert modes == [0o600, 0o600]


def test_nothing_told_is_nothing(tmp_path: Path) -> None:
    assert DisclosureFile(tmp_path / "none").read() == DisclosureState()


@pytest.mark.parametrize("content", [b"", b"{", b'{"cohorts": 3}', b'{"more": 1}'])
def test_a_site_that_cannot_know_what_it_told_tells_nothing(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "told.json"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match="says what was told"):
        DisclosureFile(path).read()


def test_an_operator_may_let_other_people_be_told_of(tmp_path: Path) -> None:
    file = DisclosureFile(tmp_path / "told.json")
    file.write(DisclosureState(cohorts={"unseen": COHORT}, evaluations={"run": 3}))

    assert file.forget_cohorts() == ["unseen"]

    assert file.read() == DisclosureState(evaluations={"run": 3})


@pytest.mark.parametrize("after_reports", [1, 5, 20])
def test_a_kill_loses_nothing_of_what_left(tmp_path: Path, after_reports: int) -> None:
    handed_over = tmp_path / "handed-over"
    process = multiprocessing.get_context("spawn").Process(
        target=tell_for_ever, args=(tmp_path,)
    )
    process.start()
    end = time.monotonic() + 200
    while not handed_over.exists() or int(handed_over.read_text() or 0) < after_reports:
        assert time.monotonic() < end
        time.sleep(0.001)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join(60)

    told = DisclosureFile(tmp_path / "told.json").read()
    noted = [str(entry["item"]) for entry in log_entries(tmp_path / "log")]

    left = int(handed_over.read_text() or 0)
    assert told.evaluations["run"] >= left
    assert told.cohorts == {"validation": COHORT}
    assert int(noted[-1].split()[-1]) >= left


def test_a_torn_line_takes_no_other_with_it(tmp_path: Path) -> None:
    log = EgressLog(tmp_path / "log")
    log.add("teacher", "sent", "first")
    with (tmp_path / "log").open("ab") as file:
        file.write(b'{"time": "20')

    log.add("teacher", "sent", "second")

    items = [entry["item"] for entry in log_entries(tmp_path / "log")]
    assert items == ["first", "second"]


def test_a_log_is_bounded_and_keeps_its_newest_lines(tmp_path: Path) -> None:
    log = EgressLog(tmp_path / "log", largest_bytes=2000)

    for number in range(200):
        log.add("coordinator", "sent", f"report {number}", rule=None)

    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    items = [entry["item"] for entry in log_entries(tmp_path / "log")]
    assert len(sizes) == 2
    assert max(sizes) <= 2000
    assert items == [f"report {number}" for number in range(200 - len(items), 200)]


def test_a_torn_line_is_passed_over(tmp_path: Path) -> None:
    log = EgressLog(tmp_path / "log")
    log.add("teacher", "sent", "patches", patches=3)
    with (tmp_path / "log").open("a") as file:
        file.write('{"time": "2026\n[]\n')
    log.add("teacher", "sent", "weights")

    assert [e["item"] for e in log_entries(tmp_path / "log")] == ["patches", "weights"]


def test_a_line_is_readable(tmp_path: Path) -> None:
    EgressLog(tmp_path / "log").add(
        "coordinator", "blocked", "unseen_ece", rule="patients", figures=[]
    )

    (line,) = map(entry_line, log_entries(tmp_path / "log"))

    assert line.endswith("coordinator  blocked  unseen_ece  rule patients")


def test_a_log_that_cannot_be_written_lets_nothing_leave(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()

    with pytest.raises(ConfigError, match="cannot write"):
        EgressLog(tmp_path / "log").add("teacher", "sent", "patches")


def _note(path: Path, number: int) -> None:
    log = EgressLog(path, largest_bytes=100_000)
    for _ in range(50):
        log.add("teacher", "sent", str(number))


def test_processes_of_one_site_write_whole_lines(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=_note, args=(tmp_path / "log", n)) for n in (1, 2)]

    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)

    lines = (tmp_path / "log").read_text().splitlines()
    assert sorted(json.loads(line)["item"] for line in lines) == ["1"] * 50 + ["2"] * 50

"""What holds when a run is over, whatever was done to it on the way."""

from pathlib import Path

import torch

from tests.support.e2e.programs import until
from tests.support.e2e.sums import (
    SitesWord,
    TeachersWord,
    assert_all_agree,
    charged_once,
    fetch,
    reserved,
)
from tests.support.e2e.world import World

_SETTLE_SECONDS = 120.0
# Of a weight after a few hundred steps. The teacher batches both sites' patches as they
# come, and a patch's embedding differs in its last bits by its neighbours: two runs in
# peace were 1.5e-3 apart, with a view bank as well; variances of 20 were 0.02 apart.
_SAME = 1e-2
_SAME_SHARE = 5e-3


def assert_ended_like(world: World, calm: World) -> None:
    """Holds a run that was disturbed against the same run in peace.

    All of its rounds are there, nobody printed a traceback, log, budget and receipts
    agree, no patch was charged twice, and the students are the same.

    Args:
        world: Its servers serve.
        calm: Need not run.
    """
    completed = [record.outcome for record in world.rounds()].count("completed")
    assert completed == len(calm.rounds())
    for log in world.folder.glob("*.log"):
        assert "Traceback" not in log.read_text("utf-8", "replace"), log.name
    assert_nothing_lost_or_charged_twice(world)
    for site in world.names:
        _assert_same_student(world.student_folder(site), calm.student_folder(site))


def assert_nothing_lost_or_charged_twice(world: World) -> None:
    """Holds what teacher and sites say of every query against each other."""
    until(lambda: not reserved(world), seconds=_SETTLE_SECONDS, what="all is settled")
    for site in world.names:
        fetch(world, site)
    teachers = TeachersWord.of(world)
    told = {site: SitesWord.of(world, site) for site in world.names}
    assert_all_agree(teachers, told)
    assert charged_once(teachers)


def last_words(world: World) -> str:
    """Returns the end of each program's log, for the message of a failed test."""
    return "\n".join(
        f"--- {log.name}\n{log.read_text('utf-8', 'replace')[-1500:]}"
        for log in sorted(world.folder.glob("*.log"))
    )


def _assert_same_student(struck: Path, calm: Path) -> None:
    mine, other = (
        torch.load(folder / "checkpoint.pt", weights_only=True)
        for folder in (struck, calm)
    )
    assert mine["step"] == other["step"]
    assert mine["distiller"].keys() == other["distiller"].keys()
    for name, tensor in mine["distiller"].items():
        expected = other["distiller"][name]
        torch.testing.assert_close(
            tensor, expected, rtol=_SAME_SHARE, atol=_SAME, msg=name
        )

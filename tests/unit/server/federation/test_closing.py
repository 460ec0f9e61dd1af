"""A run that is over is told to everybody, to those who come late as well."""

from typing import Literal

from moma_server.federation.run.closing import FinalDelivery
from moma_server.federation.run.records import (
    Outcome,
    RoundRecord,
    SiteEntry,
    SiteState,
)


def record(
    kind: Literal["train", "close", "run"], outcome: Outcome, **states: SiteState
) -> RoundRecord:
    return RoundRecord(
        kind=kind,
        run="r1",
        round=1,
        outcome=outcome,
        started_at=1.0,
        seconds=2.0,
        sites={site: SiteEntry(state=state) for site, state in states.items()},
    )


FINISHED = record("run", "finished")


def closing(*records: RoundRecord) -> FinalDelivery:
    seen = FinalDelivery()
    for entry in records:
        seen.take_note(entry)
    return seen


def test_who_was_away_or_late_is_asked_again_when_online() -> None:
    seen = closing(
        record("train", "completed", a="took_part", b="took_part"),
        record("close", "completed", a="took_part", b="away", c="late", d="refused"),
        FINISHED,
    )

    assert seen.untold(["a", "b", "c", "d", "new"]) == ["b", "c", "new"]
    assert seen.untold(["a", "d"]) == []


def test_nobody_is_closed_before_the_end() -> None:
    assert closing(record("close", "completed", a="away")).untold(["a"]) == []
    assert closing(record("run", "stopped")).untold(["a"]) == []


def test_a_later_record_settles_it() -> None:
    seen = closing(FINISHED, record("close", "completed", a="took_part"))

    assert seen.untold(["a"]) == []


def test_a_site_that_fails_again_and_again_is_left_alone() -> None:
    failing = record("close", "completed", a="failed")

    assert closing(FINISHED, *[failing] * 4).untold(["a"]) == ["a"]
    assert closing(FINISHED, *[failing] * 5).untold(["a"]) == []

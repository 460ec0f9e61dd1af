"""A run that is over is told to everybody, to those who come late as well."""

from typing import Literal

from moma_server.federation.run.records import (
    FinalDelivery,
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
        seen.add(entry)
    return seen


def test_who_was_away_or_late_is_asked_again_when_online() -> None:
    seen = closing(
        record("train", "completed", a="took_part", b="took_part"),
        record("close", "completed", a="took_part", b="away", c="late", d="refused"),
        FINISHED,
    )

    assert seen.missed(["a", "b", "c", "d", "new"]) == ["b", "c", "new"]
    assert seen.missed(["a", "d"]) == []


def test_nobody_is_closed_before_the_end() -> None:
    assert closing(record("close", "completed", a="away")).missed(["a"]) == []
    assert closing(record("run", "stopped")).missed(["a"]) == []


def test_a_later_record_settles_it() -> None:
    seen = closing(FINISHED, record("close", "completed", a="took_part"))

    assert seen.missed(["a"]) == []


def test_a_site_that_fails_again_and_again_is_left_alone() -> None:
    failing = record("close", "completed", a="failed")

    assert closing(FINISHED, *[failing] * 4).missed(["a"]) == ["a"]
    assert closing(FINISHED, *[failing] * 5).missed(["a"]) == []


def test_where_no_student_is_made_by_all_a_newcomer_has_none_to_get() -> None:
    seen = FinalDelivery(reaches_newcomers=False)
    for entry in (record("train", "completed", a="late", b="away"), FINISHED):
        seen.add(entry)

    assert seen.missed(["a", "b", "new"]) == ["a"]

"""What a coordinator hands on of logs that it cannot judge: a little of each site."""

import logging
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from moma_core.audit.checkpoint import MOST_CHECKPOINTS, Checkpoint, TreeHead
from moma_core.end_to_end.signatures import SigningKey
from moma_server.federation.run.gossip import MOST_OF_A_TEACHER, SeenCheckpoints
from moma_server.federation.run.metrics import RoundMetrics
from moma_server.federation.run.records import RecordFile, RoundRecord, SiteEntry
from moma_server.metrics.metrics import FederationMetrics
from tests.support.teacher.sealed import TEACHER, key_of

KEY = key_of(TEACHER)


def shown(
    size: int, root: int = 0, teacher: str = TEACHER, key: SigningKey = KEY
) -> Checkpoint:
    head = TreeHead(f"moma/{teacher}/1", size, bytes([root]) * 32, 1)
    return Checkpoint.sign(head, key)


def record(**checkpoints: Checkpoint) -> RoundRecord:
    return RoundRecord(
        kind="train",
        run="r1",
        round=1,
        outcome="completed",
        started_at=1.0,
        seconds=2.0,
        sites={
            site.replace("_", "-"): SiteEntry(state="took_part", checkpoint=each)
            for site, each in checkpoints.items()
        },
    )


def test_each_site_is_told_the_newest_that_the_others_saw() -> None:
    seen = SeenCheckpoints()
    seen.take(record(a=shown(3), b=shown(4)))
    seen.take(record(a=shown(7)))

    assert set(seen.handed_on(2)) == {shown(7), shown(4)}


def test_one_state_is_handed_on_once() -> None:
    seen = SeenCheckpoints()
    seen.take(record(a=shown(3), b=shown(3), c=shown(3)))

    assert seen.handed_on(2) == (shown(3),)


def test_what_is_handed_on_is_bounded_and_no_site_is_left_out_for_ever() -> None:
    seen = SeenCheckpoints()
    seen.take(record(**{f"s{n:02}": shown(n + 1) for n in range(50)}))
    for teacher in range(9):
        name = f"teacher-{teacher}"
        seen.take(record(**{f"x{teacher}{n}": shown(1, n, name) for n in range(9)}))

    rounds = [seen.handed_on(number) for number in range(200)]

    assert {len(checkpoints) for checkpoints in rounds} == {MOST_CHECKPOINTS}
    for checkpoints in rounds:
        keepers = [each.keeper for each in checkpoints]
        assert max(map(keepers.count, keepers)) <= MOST_OF_A_TEACHER
    assert len({each for checkpoints in rounds for each in checkpoints}) == 50 + 9 * 9


def test_two_roots_of_one_size_that_one_key_signed_are_named() -> None:
    seen = SeenCheckpoints()
    seen.take(record(a=shown(3)))

    (sentence,) = seen.take(record(b=shown(3, root=1)))

    assert "a and b were shown two logs moma/teacher-a/1" in sentence
    assert str(KEY.public) in sentence


def test_a_site_cannot_accuse_a_teacher_whose_key_it_does_not_have() -> None:
    seen = SeenCheckpoints()
    seen.take(record(a=shown(3)))
    forged = shown(3).model_copy(update={"root": "11" * 32})

    assert seen.take(record(b=forged)) == []
    assert seen.take(record(c=shown(3, root=2, key=SigningKey.create()))) == []
    assert seen.take(record(d=shown(4, root=3))) == []


def test_the_coordinators_operator_reads_of_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records = RecordFile(tmp_path / "records.jsonl")
    records.append(record(a=shown(3), b=shown(3, root=1)))

    with caplog.at_level(logging.WARNING):
        RoundMetrics(records, FederationMetrics(CollectorRegistry())).update()

    assert "were shown two logs" in caplog.text

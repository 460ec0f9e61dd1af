"""What a site is told while it waits: counts and times, one sentence, no name."""

from datetime import datetime, timedelta, timezone

import pytest

from moma_core.errors import FederationError
from moma_core.federation.run_state import RunState

HERE = timezone(timedelta(hours=2), "CEST")
NOW = datetime(2026, 3, 14, 12, 15, tzinfo=HERE)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (
            {"phase": "gathering", "here": 1, "wanted": 2, "waited_seconds": 720},
            "1 of 2 sites, waiting for 1 (since 12:03 CEST)",
        ),
        (
            {"phase": "gathering", "here": 0, "wanted": 2, "waited_seconds": 86_400},
            "0 of 2 sites, waiting for 2 (since 2026-03-13 12:15 CEST)",
        ),
        (
            {"phase": "gathering", "here": 2, "wanted": 2},
            "2 of 2 sites, all are here (since 12:15 CEST)",
        ),
        (
            {"phase": "round", "round": 2, "rounds": 3, "here": 1, "wanted": 3},
            "round 2 of 3: 1 of 3 sites are done, waiting for 2 (since 12:15 CEST)",
        ),
        (
            {
                "phase": "round",
                "round": 2,
                "rounds": 3,
                "here": 1,
                "wanted": 3,
                "left_seconds": 3600,
                "own": {"became": "refused", "may_return": True},
            },
            "round 2 of 3: 1 of 3 sites are done, waiting for 2 (since 12:15 CEST), "
            "until 13:15 CEST at the latest; this site refused the round, its own log "
            "says why: mended, it is asked again when it connects anew, as by a start; "
            "up to three times a round",
        ),
        (
            {
                "phase": "round",
                "round": 2,
                "rounds": 3,
                "here": 2,
                "wanted": 3,
                "own": {"became": "failed", "may_return": False},
            },
            "round 2 of 3: 2 of 3 sites are done, waiting for 1 (since 12:15 CEST); "
            "this site failed the round, its own log says why: it is not asked again "
            "in this round",
        ),
        (
            {"phase": "over"},
            "run-1 is over: the coordinator's owner starts another by "
            "`coordinator.run`",
        ),
        ({"phase": "closing"}, "run-1 is over: its last task is on the way"),
    ],
)
def test_a_wait_is_one_sentence(state: dict[str, object], said: str) -> None:
    found = RunState.model_validate({"run": "run-1", **state})

    assert found.sentence(NOW) == said
    assert RunState.from_json(found.to_json()) == found


def test_the_time_alone_is_nothing_new() -> None:
    first = RunState(run="run-1", phase="gathering", here=1, wanted=2)
    later = first.model_copy(update={"waited_seconds": 60.0, "left_seconds": 5.0})
    other = later.model_copy(update={"here": 2})

    assert later.is_like(first)
    assert not other.is_like(later)
    assert not first.is_like(None)


def test_what_a_later_release_adds_is_left_unread() -> None:
    assert RunState.from_json(b'{"run": "r", "phase": "over", "more": 1}').run == "r"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"run": "two\\nlines", "phase": "over"}',
        b'{"run": "r", "phase": "elsewhere"}',
        b'{"run": "r", "phase": "round", "here": 1' + b"0" * 3000 + b"}",
        b'{"run": "r", "phase": "round", "waited_seconds": 1e300}',
    ],
)
def test_what_is_none_is_refused(content: bytes) -> None:
    with pytest.raises(FederationError, match="cannot be read"):
        RunState.from_json(content)

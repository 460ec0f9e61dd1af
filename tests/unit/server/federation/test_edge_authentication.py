"""A time that a key has signed is taken once; a refusal says what it means."""

from typing import get_args

import pytest

from moma_server.federation.edge import authentication
from moma_server.federation.edge.authentication import _UsedTimes
from moma_server.federation.edge.refusal import EdgeRefusedError, Reason


def test_times_are_taken_once_and_in_any_order() -> None:
    used = _UsedTimes()

    taken = [used.use(at, horizon=0.0) for at in (5.0, 3.0, 5.0, 4.0, 3.0)]

    assert taken == [True, True, False, True, False]


def test_what_is_forgotten_is_never_taken_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(authentication, "_KEPT_TIMES", 3)
    used = _UsedTimes()
    for at in (1.0, 2.0, 3.0, 4.0, 5.0):
        assert used.use(at, horizon=0.0)

    again = [used.use(at, horizon=0.0) for at in (1.0, 2.0, 1.5)]

    assert again == [False, False, False]
    assert len(used._times) == 3


def test_times_beyond_the_window_are_forgotten() -> None:
    used = _UsedTimes()
    used.use(1.0, horizon=0.0)

    used.use(400.0, horizon=95.0)

    assert used._times == {400.0}
    assert not used.use(1.0, horizon=95.0)


@pytest.mark.parametrize("reason", get_args(Reason))
def test_a_refusal_has_a_status_and_a_meaning(reason: Reason) -> None:
    refused = EdgeRefusedError(reason, "site-a")

    assert 400 <= refused.status < 600
    assert len(refused.meaning) > len(reason)

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moma_core.policy.token_bucket import TokenBucket
from tests.support.machine.clock import SecondsClock


def test_a_site_may_act_so_often_at_once_and_then_waits() -> None:
    clock = SecondsClock()
    rate = TokenBucket(3, clock)

    taken = [rate.take("site-a") for _ in range(4)]
    clock.seconds = 20

    assert taken == [0, 0, 0, pytest.approx(20)]
    assert rate.take("site-a") == 0
    assert rate.take("site-a") == pytest.approx(20)
    assert rate.take("site-b") == 0


def test_a_rate_below_one_a_minute_lets_one_through() -> None:
    rate = TokenBucket(0.5, SecondsClock())

    assert rate.take("site-a") == 0
    assert rate.take("site-a") == pytest.approx(120)


@given(st.floats(0.1, 1000), st.lists(st.floats(0, 100), min_size=1, max_size=50))
def test_over_any_time_no_more_is_let_through_than_the_rate_and_one_burst(
    per_minute: float, pauses: list[float]
) -> None:
    clock = SecondsClock()
    rate = TokenBucket(per_minute, clock)

    allowed = 0
    for pause in pauses:
        clock.seconds += pause
        allowed += rate.take("site-a") == 0

    assert allowed <= max(1, per_minute) + clock.seconds * per_minute / 60 + 1e-6


def test_no_rate_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="a rate must be > 0"):
        TokenBucket(0, SecondsClock())

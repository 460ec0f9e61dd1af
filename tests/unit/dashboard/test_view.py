"""How values are said and drawn."""

from datetime import UTC, datetime

import pytest

from moma_core.dashboard.view import Spark, ago, length, listed, moment, short
from tests.support.machine.dashboards import view

_NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_a_chart_is_drawn_from_edge_to_edge_and_said_in_words() -> None:
    chart = Spark([(1, 0.5), (2, 1.0), (3, 0.0)], "accuracy")

    assert chart.line() == "3.0,18.0 80.0,3.0 157.0,33.0"
    assert chart.text() == (
        "accuracy: 0.5 at first, 0 now, lowest 0, highest 1, 3 points"
    )


def test_a_chart_of_equal_values_is_a_line_in_the_middle() -> None:
    assert Spark([(1, 7.0), (2, 7.0)], "x").line() == "3.0,18.0 157.0,18.0"


def test_a_long_run_is_drawn_by_its_newest_part() -> None:
    chart = Spark([(i, float(i)) for i in range(10_000)], "x")

    assert len(chart.line().split()) == 200


def test_a_loss_that_is_not_finite_is_left_out_and_counted() -> None:
    chart = Spark([(1, 1.0), (2, float("nan")), (3, 3.0)], "loss")

    assert chart.line() == "3.0,33.0 157.0,3.0"
    assert chart.text().endswith("highest 3, 2 points, 1 not finite")
    none = Spark([(1, float("inf"))], "loss")
    assert (none.line(), none.text()) == ("", "loss: no finite value")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-5, "0 s"), (61, "61 s"), (600, "10 min"), (7200, "2 h"), (200_000, "2 days")],
)
def test_a_length_of_time_is_said_in_one_unit(seconds: float, said: str) -> None:
    assert length(seconds) == said


def test_a_time_is_said_with_its_age() -> None:
    assert ago(_NOW.timestamp() - 120, _NOW) == "2026-03-01 11:58 UTC (2 min ago)"
    assert ago(_NOW.timestamp() + 5, _NOW) == "2026-03-01 12:00 UTC (0 s ago)"
    assert (ago(0, _NOW), moment(0)) == ("never", "not known")


def test_a_time_that_is_to_come_tells_of_a_wrong_clock() -> None:
    said = ago(_NOW.timestamp() + 3600, _NOW)

    assert said == "2026-03-01 13:00 UTC (in the future: a clock was wrong)"


def test_a_huge_name_is_cut() -> None:
    assert len(short("x" * 100_000)) == 200
    assert short("site-a") == "site-a"


def test_many_names_are_cut_between_two_and_the_others_counted() -> None:
    names = [f"a-hospital-with-a-long-name-{number}" for number in range(30)]

    said = listed(names)

    assert listed(names[:2]) == f"{names[0]}, {names[1]}"
    assert said == f"{', '.join(names[:6])} and 24 more"
    assert listed(["x" * 500, "y"]).endswith("… and 1 more")
    assert listed([]) == ""


def test_no_alert_is_said_too() -> None:
    assert view().alert_sentence() == "No alerts."

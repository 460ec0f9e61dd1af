"""The soak of `make soak`, for seconds: nobody is failed, and nothing is left open."""

from pathlib import Path

from benchmarks.soak.trials import Plan, growth

SITES = 3
FEW = 8  # handles and threads that come and go


def test_a_few_sites_ask_for_seconds_and_the_teacher_holds_no_more_afterwards(
    tmp_path: Path,
) -> None:
    first, *_, last = growth(Plan(sites=SITES, seconds=3.0, periods=3), tmp_path)

    for row in (first, last):
        assert row["serving"]
        assert (row["faults"], row["fault"]) == (0, "")
        assert int(str(row["answered"])) >= SITES
    for held in ("handles", "threads"):
        assert int(str(last[held])) <= int(str(first[held])) + FEW
    assert int(str(last["entries"])) > int(str(first["entries"]))

"""How many times as long a modest site waits beside each neighbour."""

from benchmarks.soak.__main__ import slowdowns


def line(part: str, key: str, p50_ms: float) -> dict[str, str]:
    return {"part": part, "key": key, "p50_ms": str(p50_ms)}


def test_medians_are_compared_within_their_own_part() -> None:
    lines = [
        line("fairness", "beside a modest one/0", 10.0),
        line("fairness", "beside a greedy one/0", 15.0),
        *(line("floods", f"beside a modest one/{n}", 20.0 + n) for n in range(3)),
        *(line("floods", f"beside one that floods/{n}", 42.0) for n in range(3)),
        line("overload", "a modest one", 500.0),
    ]

    assert list(slowdowns(lines)) == [
        "fairness: beside a greedy one a modest site waits 1.50 times as long",
        "floods: beside one that floods a modest site waits 2.00 times as long",
    ]


def test_without_the_modest_neighbour_nothing_is_said() -> None:
    assert list(slowdowns([line("floods", "beside one that floods/0", 42.0)])) == []

import numpy as np
import pytest

from moma_server.teacher.inference.fair_queue import PassSize


class _Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_who_asks_alone_has_whole_passes() -> None:
    clock = _Clock()
    size = PassSize(256, clock)

    alone = size.patches({"a": 256})
    size.note({"b": 1})
    shared = size.patches({"a": 256})
    clock.now += 6.0

    assert (alone, size.patches({"a": 256})) == (None, None)
    assert shared is not None


def test_who_waits_for_long_is_still_one_that_asks() -> None:
    clock = _Clock()
    size = PassSize(256, clock)

    for _ in range(10):
        assert size.patches({"a": 256, "b": 1}) is not None
        clock.now += 4.0
    clock.now += 100.0

    assert size.patches({"a": 256, "b": 1}) is not None


def test_no_pass_is_smaller_than_the_smallest_query() -> None:
    size = PassSize(256, _Clock())
    size.learn(1, 0.1)

    found = {size.patches({"a": 65, "b": 80}) for _ in range(9)}

    assert found == {65, 256}  # the larger one, once, to see what it does


_MODELS = pytest.mark.parametrize(
    ("own", "each", "least", "most"),
    [
        (0.0004, 0.002, 1, 1),  # a long pass does no more for its time
        (0.008, 1e-4, 100, 256),  # a short one does less than two thirds as much
        (0.0003, 1e-5, 100, 256),  # what fits 2.5 ms
    ],
)


def _learned(
    size: PassSize, clock: _Clock, own: float, each: float, *, noise: float = 0.0
) -> float:
    """Returns the median of the last sizes, of a small site beside a large one."""
    random, found = np.random.default_rng(0), list[int]()
    for _ in range(8000):
        patches = size.patches({"a": 1, "b": 200}) or 0
        found.append(patches)
        if random.random() < 1 / 3:
            patches = 1  # nothing else waited
        slower = 1 + noise * random.exponential()
        seconds = (own + patches * each) * slower
        size.learn(patches, seconds)
        clock.now += seconds
    return float(np.median(found[-50:]))


@_MODELS
@pytest.mark.parametrize("noise", [0.0, 0.5])
@pytest.mark.parametrize("first", [(1, 5.0), (64, 2.0), (256, 2.0), (64, 0.0002)])
def test_a_pass_is_as_short_as_the_model_does_well(
    own: float,
    each: float,
    least: int,
    most: int,
    noise: float,
    first: tuple[int, float],
) -> None:
    clock = _Clock()
    size = PassSize(256, clock)
    size.learn(*first)  # a network's is slow, and a cache's quick

    assert least <= _learned(size, clock, own, each, noise=noise) <= most


def _settled(
    size: PassSize, clock: _Clock, waiting: dict[str, int], own: float, each: float
) -> float:
    """Returns the median of the last sizes, of passes that hold what waits at most."""
    found = list[int]()
    for _ in range(2000):
        found.append(size.patches(waiting) or 0)
        patches = min(found[-1], sum(waiting.values()))
        clock.now += own + patches * each
        size.learn(patches, own + patches * each)
    return float(np.median(found[-50:]))


@_MODELS
@pytest.mark.parametrize("first", [(8, 1.0), (64, 1.0), (128, 1.0)])
def test_sites_of_one_size_have_passes_that_do_well(
    own: float, each: float, least: int, most: int, first: tuple[int, float]
) -> None:
    clock = _Clock()
    size = PassSize(256, clock)
    size.learn(*first)

    found = _settled(size, clock, {f"site-{n}": 16 for n in range(16)}, own, each)

    assert max(16, least) <= found <= max(16, most)


@pytest.mark.parametrize("each", [0.002, 0.04])
@pytest.mark.parametrize("known", [(100, 0.2), (256, 0.3)])
def test_a_size_that_never_comes_is_not_waited_for(
    known: tuple[int, float], each: float
) -> None:
    clock = _Clock()
    size = PassSize(256, clock)
    for _ in range(8):
        size.learn(*known)  # of a site that asked alone, the machine then being quicker

    assert _settled(size, clock, {"a": 1, "b": 100}, 0.0004, each) == 1


def test_a_machine_that_becomes_slower_gets_short_passes() -> None:
    clock = _Clock()
    size = PassSize(256, clock)
    assert _learned(size, clock, 1e-5, 1e-5) > 100

    assert _learned(size, clock, 0.002, 0.002) <= 2


def test_no_pass_is_larger_than_the_model_takes() -> None:
    clock = _Clock()

    assert 60 <= _learned(PassSize(100, clock), clock, 0.1, 1e-5) <= 100


def test_a_size_between_those_that_came_may_be_asked_for() -> None:
    size = PassSize(256, _Clock())
    size.learn(64, 0.1)

    found = {size.patches({"a": 32, "b": 32}) for _ in range(4)}

    assert found == {32, 64, 128}

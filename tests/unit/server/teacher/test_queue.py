import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moma_core.teacher.query import Pixels
from moma_server.teacher.inference.backend import ModelOutput
from moma_server.teacher.inference.fair_queue import FairQueue, Job, QueueBounds


def job(site: str, patches: int = 1, dtype: type = np.uint8) -> Job:
    pixels = np.zeros((patches, 2, 2, 3), dtype)
    return Job(site, pixels, output=asyncio.Future(loop=LOOP))


LOOP = asyncio.new_event_loop()
LOOP.close()


def queue_of(*jobs: Job, bounds: QueueBounds | None = None) -> FairQueue:
    queue = FairQueue(bounds or QueueBounds())
    for waiting in jobs:
        assert queue.push(waiting)
    return queue


def test_sites_take_turns_whatever_they_queued() -> None:
    queue = queue_of(*[job("a") for _ in range(4)], job("b"), job("c"), job("b"))

    batch = queue.take(max_patches=100)

    assert [taken.job.site for taken in batch] == ["a", "b", "c", "a", "b", "a", "a"]


def test_a_turn_is_kept_from_one_batch_to_the_next() -> None:
    queue = queue_of(*[job("a") for _ in range(3)], job("b"))

    batches = [queue.take(max_patches=1) for _ in range(4)]

    assert [batch[0].job.site for batch in batches] == ["a", "b", "a", "a"]


def test_a_batch_has_one_pixel_format() -> None:
    queue = queue_of(job("a"), job("b", dtype=np.float32), job("a"))

    batches = [queue.take(max_patches=100) for _ in range(3)]

    assert [[taken.job.site for taken in batch] for batch in batches] == [
        ["a"],
        ["b"],
        ["a"],
    ]


def test_a_job_of_a_copy_comes_alone() -> None:
    def copy(pixels: Pixels) -> ModelOutput:
        raise NotImplementedError

    copies = [job("b"), job("c"), job("b")]
    for asked in copies:
        asked.model = copy
    queue = queue_of(job("a"), *copies, job("a"), job("d"), job("a"))

    batches = [queue.take(max_patches=100) for _ in range(6)]

    assert [[taken.job.site for taken in batch] for batch in batches] == [
        ["a"],
        ["b"],
        ["c"],
        ["d", "a"],
        ["b"],
        ["a"],
    ]


def test_a_job_larger_than_a_batch_comes_alone() -> None:
    queue = queue_of(job("a", patches=9), job("b"))

    batch = queue.take(max_patches=4)

    assert [len(taken.pixels) for taken in batch] == [9]


def test_a_removed_job_is_never_taken() -> None:
    gone, kept = job("a"), job("a")
    queue = queue_of(gone, kept)

    queue.discard(gone)

    assert [taken.job for taken in queue.take(max_patches=10)] == [kept]
    assert queue.patches == 0


@pytest.mark.parametrize(
    ("bounds", "jobs"),
    [
        (QueueBounds(site_requests=1), [job("a")]),
        (QueueBounds(site_bytes=30), [job("a", patches=2)]),
        (QueueBounds(site_requests=1, total_requests=1), [job("b")]),
        (QueueBounds(site_bytes=30, total_bytes=30), [job("b", patches=2)]),
    ],
    ids=["requests of a site", "bytes of a site", "requests", "bytes"],
)
def test_what_exceeds_a_bound_is_not_taken_in(
    bounds: QueueBounds, jobs: Sequence[Job]
) -> None:
    queue = queue_of(*jobs, bounds=bounds)

    taken = queue.push(job("a"))

    assert not taken
    assert len(queue) == 1


def test_a_full_queue_takes_in_who_waits_with_less() -> None:
    bounds, dropped = QueueBounds(site_requests=4, total_requests=4), list[Job]()
    queue = FairQueue(bounds, dropped.append)
    greedy = [job("a") for _ in range(4)]
    assert all(queue.push(one) for one in greedy)

    found = [queue.push(one) for one in (job("b"), job("a"), job("b"), job("b"))]

    assert found == [True, False, True, False]
    assert dropped == [greedy[3], greedy[2]]
    assert len(queue) == 4
    assert [each.job.site for each in queue.take(100)] == ["a", "b", "a", "b"]


def test_a_query_that_the_model_has_begun_makes_no_room() -> None:
    dropped = list[Job]()
    queue = FairQueue(QueueBounds(site_bytes=144, total_bytes=144), dropped.append)
    assert queue.push(job("a", patches=12))
    queue.take(100, shared=3)

    assert not queue.push(job("b"))
    assert dropped == []


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 5)), max_size=30),
    st.integers(1, 8),
)
def test_every_job_is_taken_once_in_its_sites_order(
    pushed: list[tuple[str, int]], max_patches: int
) -> None:
    jobs = [job(site, patches) for site, patches in pushed]
    queue = queue_of(*jobs)

    batches = []
    while queue:
        batches.append(queue.take(max_patches))

    taken = [one.job for batch in batches for one in batch]
    assert all(
        len(batch) == 1 or sum(len(one.pixels) for one in batch) <= max_patches
        for batch in batches
    )
    for site in "abc":
        assert [one for one in taken if one.site == site] == [
            one for one in jobs if one.site == site
        ]
    assert (len(queue), queue.patches) == (0, 0)


def test_a_large_job_comes_in_parts_that_fill_a_short_batch() -> None:
    large = job("a", patches=10)
    queue = queue_of(large, *[job("b") for _ in range(6)])

    batches = [queue.take(100, shared=4) for _ in range(4)]

    found = [[(each.job.site, len(each.pixels)) for each in b] for b in batches]
    assert found == [
        [("a", 4)],
        [("b", 1), ("a", 3)],
        [("b", 1), ("a", 3)],
        [("b", 1)] * 4,
    ]
    assert (len(queue), queue.patches) == (0, 0)


def test_a_job_of_up_to_half_a_short_batch_is_not_parted() -> None:
    queue = queue_of(job("a", patches=3), job("b", patches=2), job("c", patches=3))

    batches = [queue.take(100, shared=4) for _ in range(3)]

    found = [[len(each.pixels) for each in batch] for batch in batches]
    assert found == [[3], [2, 2], [1]]


def test_who_asks_seldom_has_its_turn_before_who_asks_always() -> None:
    queue = queue_of(job("a", patches=10))
    queue.take(100, shared=2)
    queue.push(job("b"))
    queue.push(job("c", patches=8))

    batches = [queue.take(100, shared=2) for _ in range(3)]

    found = [[(each.job.site, len(each.pixels)) for each in b] for b in batches]
    assert found == [[("b", 1), ("c", 1)], [("a", 2)], [("c", 2)]]


def test_a_copys_job_is_never_parted() -> None:
    def copy(pixels: Pixels) -> ModelOutput:
        raise NotImplementedError

    asked = job("a", patches=10)
    asked.model = copy
    queue = queue_of(asked, job("b"))

    batch = queue.take(100, shared=4)

    assert [len(each.pixels) for each in batch] == [10]


def test_the_rest_of_a_job_whose_caller_went_away_is_dropped() -> None:
    gone, kept = job("a", patches=10), job("b", patches=3)
    queue = queue_of(gone, kept)
    queue.take(100, shared=3)

    queue.discard(gone)

    assert (len(queue), queue.patches) == (1, 3)
    assert [each.job for each in queue.take(100)] == [kept]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 9)), max_size=30),
    st.integers(1, 12),
    st.integers(1, 5),
)
def test_parts_make_up_every_job_in_its_sites_order(
    pushed: list[tuple[str, int]], max_patches: int, shared: int
) -> None:
    jobs = [job(site, patches) for site, patches in pushed]
    queue = queue_of(*jobs)

    taken = []
    while queue:
        batch = queue.take(max_patches, shared)
        patches = sum(len(each.pixels) for each in batch)
        assert patches <= shared
        assert patches <= max_patches or len(batch) == 1
        taken += batch

    for one in jobs:
        parts = [(each.begin, each.end) for each in taken if each.job is one]
        assert parts[0][0] == 0
        assert parts[-1][1] == len(one.pixels)
        assert [end for _, end in parts[:-1]] == [begin for begin, _ in parts[1:]]
    for site in "abc":
        order = [each.job for each in taken if each.is_last and each.job.site == site]
        assert order == [one for one in jobs if one.site == site]

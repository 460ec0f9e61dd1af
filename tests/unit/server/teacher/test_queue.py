import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moma_core.teacher.query import Pixels
from moma_server.teacher.inference.batcher import (
    FairQueue,
    Job,
    ModelOutput,
    QueueBounds,
)


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

    assert [taken.site for taken in batch] == ["a", "b", "c", "a", "b", "a", "a"]


def test_a_turn_is_kept_from_one_batch_to_the_next() -> None:
    queue = queue_of(*[job("a") for _ in range(3)], job("b"))

    batches = [queue.take(max_patches=1) for _ in range(4)]

    assert [batch[0].site for batch in batches] == ["a", "b", "a", "a"]


def test_a_batch_has_one_pixel_format() -> None:
    queue = queue_of(job("a"), job("b", dtype=np.float32), job("a"))

    batches = [queue.take(max_patches=100) for _ in range(3)]

    assert [[taken.site for taken in batch] for batch in batches] == [
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

    assert [[taken.site for taken in batch] for batch in batches] == [
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

    queue.remove(gone)

    assert queue.take(max_patches=10) == [kept]
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


@pytest.mark.parametrize(
    "values", [{"site_requests": 0}, {"site_requests": 9, "total_requests": 8}]
)
def test_bounds_that_contradict_themselves_are_a_mistake(
    values: dict[str, int],
) -> None:
    with pytest.raises(ValueError, match="bounds"):
        QueueBounds(**values)


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

    taken = [one for batch in batches for one in batch]
    assert all(
        len(batch) == 1 or sum(len(one.pixels) for one in batch) <= max_patches
        for batch in batches
    )
    for site in "abc":
        assert [one for one in taken if one.site == site] == [
            one for one in jobs if one.site == site
        ]
    assert (len(queue), queue.patches) == (0, 0)

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from moma_core.data.batch import Batch
from moma_core.errors import TeacherUnavailableError
from moma_core.teacher.cache.cached_teacher import CachedTeacher
from moma_core.teacher.cache.store import TeacherCache
from moma_core.teacher.local import AbsentTeacher
from moma_core.teacher.protocol import Teacher
from tests.support.site.teacher_caches import (
    ROWS,
    VIEWS,
    ArithmeticTeacher,
    all_batches,
    assert_true,
    open_cache,
    truth,
    view_batch,
)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[TeacherCache]:
    with closing(open_cache(tmp_path)) as cache:
        yield cache


def _nobody() -> Teacher:
    raise AssertionError("nobody must be asked")


def test_a_full_cache_asks_nobody(cache: TeacherCache) -> None:
    for batch in all_batches():
        cache.write(batch, truth(batch))
    found: list[int] = []

    followed = list(
        CachedTeacher(cache, _nobody, found.append).answer_batches(all_batches())
    )

    assert len(followed) == len(list(all_batches()))
    assert sum(found) == ROWS * VIEWS
    for batch, answer in followed:
        assert_true(batch, answer)


def test_only_what_is_missing_is_asked_and_then_kept(cache: TeacherCache) -> None:
    known = view_batch([1, 4], 0)
    cache.write(known, truth(known))
    teacher, found = ArithmeticTeacher(), list[int]()
    cached = CachedTeacher(cache, lambda: teacher, found.append)
    batches = [view_batch([1, 4], 0), view_batch([4, 2, 1, 3], 0), view_batch([2], 0)]

    followed = list(cached.answer_batches(batches))
    again = list(CachedTeacher(cache, _nobody, found.append).answer_batches(batches))

    assert teacher.asked == [2, 0]  # nothing of the last one
    assert found[:3] == [2, 2, 1]
    for batch, answer in [*followed, *again]:
        assert_true(batch, answer)


def test_a_loop_reads_no_further_ahead_than_the_one_who_is_asked(
    cache: TeacherCache,
) -> None:
    taken: list[int] = []

    def counted() -> Iterator[Batch]:
        for batch in all_batches():
            taken.append(batch.step)
            yield batch

    cached = CachedTeacher(cache, ArithmeticTeacher, lambda _: None)
    ahead = [
        len(taken) - used for used, _ in enumerate(cached.answer_batches(counted()))
    ]

    assert max(ahead) == 1


def test_a_missing_view_without_a_teacher_is_an_error(cache: TeacherCache) -> None:
    cached = CachedTeacher(cache, AbsentTeacher, lambda _: None)

    with pytest.raises(TeacherUnavailableError, match="nobody answers"):
        list(cached.answer_batches(all_batches()))

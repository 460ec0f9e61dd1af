"""Several teachers beside each other: batches once, and to each its own rows."""

from collections.abc import Iterable, Iterator

import numpy as np
import pytest
import torch

from moma_core.data.batch import Batch
from moma_core.data.view_mask import ViewMask
from moma_core.errors import TeacherUnavailableError
from moma_core.teacher.local import AbsentTeacher
from moma_core.teacher.protocol import TeacherOutput
from moma_core.teacher.several import OneOfSeveral, SeveralTeachers

SIZE, STEPS = 4, 5


class Ahead:
    """Says the patches' rows; reads so many batches before it answers the first.

    Args:
        ahead: Batches at most that it holds.
    """

    def __init__(self, ahead: int) -> None:
        self._ahead = ahead
        self.shown: list[int] = []
        self.is_closed = False

    def answer_batches(
        self, batches: Iterable[Batch]
    ) -> Iterator[tuple[Batch, TeacherOutput]]:
        held: list[Batch] = []
        try:
            for batch in batches:
                self.shown += batch.rows.tolist()
                held.append(batch)
                if len(held) == self._ahead:
                    yield self._answered(held.pop(0))
            while held:
                yield self._answered(held.pop(0))
        finally:
            self.is_closed = True

    def _answered(self, batch: Batch) -> tuple[Batch, TeacherOutput]:
        rows = batch.rows.unsqueeze(1).float()
        return batch, TeacherOutput(rows, rows)


def _batches(read: list[int]) -> Iterator[Batch]:
    for step in range(STEPS):
        read.append(step)
        rows = torch.arange(step * SIZE, (step + 1) * SIZE)
        views = torch.zeros(SIZE, 3, 2, 2, dtype=torch.uint8)
        yield Batch(views, views, rows * 0, step, rows, rows % 2)


def test_each_batch_is_read_once_however_far_the_teachers_read_ahead() -> None:
    read: list[int] = []
    teachers = [OneOfSeveral(Ahead(1), None), OneOfSeveral(Ahead(3), None)]

    pairs = list(SeveralTeachers(teachers).answer_batches(_batches(read)))

    assert read == [batch.step for batch, _ in pairs] == list(range(STEPS))
    for batch, said in pairs:
        for output, places in zip(*said, strict=True):
            assert places.tolist() == list(range(SIZE))
            assert output.embedding[:, 0].tolist() == batch.rows.tolist()


def test_a_teacher_is_shown_the_views_of_its_own_mask_and_no_others() -> None:
    masks = np.zeros(SIZE * STEPS, np.uint64)
    masks[[0, 1, 5]] = 1, 1, 0b10  # of row 1 the batch shows view 1
    few, every = Ahead(2), Ahead(1)
    teachers = [OneOfSeveral(few, ViewMask(masks)), OneOfSeveral(every, None)]

    pairs = list(SeveralTeachers(teachers).answer_batches(_batches([])))

    assert few.shown == [0, 5]
    assert len(every.shown) == SIZE * STEPS
    assert [said.places[0].tolist() for _, said in pairs] == [[0], [1], [], [], []]
    assert pairs[1][1].outputs[0].embedding.tolist() == [[5.0]]


def test_both_are_closed_when_the_loop_ends_early() -> None:
    first, second = Ahead(1), Ahead(3)
    teachers = [OneOfSeveral(first, None), OneOfSeveral(second, None)]

    pairs = SeveralTeachers(teachers).answer_batches(_batches([]))
    next(pairs)
    pairs.close()  # type: ignore[attr-defined]  # a generator

    assert first.is_closed
    assert second.is_closed


def test_one_that_is_no_teacher_at_all_is_an_error() -> None:
    teachers = [OneOfSeveral(Ahead(1), None), OneOfSeveral(AbsentTeacher(), None)]  # type: ignore[arg-type]

    with pytest.raises(TeacherUnavailableError, match="absent"):
        next(SeveralTeachers(teachers).answer_batches(_batches([])))

"""Several teachers of one student: each answers the views that are its own."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import tee
from typing import NamedTuple

import torch
from torch import Tensor

from moma_core.data.batch import Batch
from moma_core.data.view_mask import ViewMask
from moma_core.errors import TeacherUnavailableError
from moma_core.teacher.cache.cached_teacher import part_of
from moma_core.teacher.protocol import SeveralOutputs, Teacher


class OneOfSeveral(NamedTuple):
    """A teacher beside others.

    Args:
        teacher: Answers what it is shown.
        views: The views that it is shown; None: every one.
    """

    teacher: Teacher
    views: ViewMask | None


class SeveralTeachers:
    """Reads each batch once, and shows each teacher its own rows of it.

    A teacher that has no view of a patch, since its budget ended or it was away, says
    nothing of that row, and the others do.

    Args:
        teachers: None of them is updated from the student: some read ahead.
    """

    def __init__(self, teachers: Sequence[OneOfSeveral]) -> None:
        self._teachers = tuple(teachers)

    def answer_batches(
        self, batches: Iterable[Batch]
    ) -> Iterator[tuple[Batch, SeveralOutputs]]:
        """Yields every batch once, in order, with what each teacher says of it.

        Raises:
            TeacherError: A teacher refused, or cannot be reached any more.
        """
        whole, *copies = tee(batches, 1 + len(self._teachers))
        with ExitStack() as open_streams:
            streams = []
            for one, copy in zip(self._teachers, copies, strict=True):
                stream = one.teacher.answer_batches(_parts(copy, one.views))
                if isinstance(stream, Generator):
                    open_streams.enter_context(closing(stream))
                streams.append(stream)
            for batch, *answers in zip(whole, *streams, strict=True):
                outputs = []
                for _, output in answers:
                    if output is None:
                        raise TeacherUnavailableError("one of the teachers is absent")
                    outputs.append(output)
                places = [places_of(batch, one.views) for one in self._teachers]
                yield batch, SeveralOutputs(tuple(outputs), tuple(places))


def places_of(batch: Batch, views: ViewMask | None) -> Tensor:
    """Returns (M,) long, the rows of a batch that show a view of a mask."""
    everything = torch.arange(len(batch.rows))
    if views is None:
        return everything
    pairs = zip(batch.rows.tolist(), batch.view_numbers.tolist(), strict=True)
    return everything[torch.tensor([views.has(*pair) for pair in pairs])]


def _parts(batches: Iterable[Batch], views: ViewMask | None) -> Iterator[Batch]:
    for batch in batches:
        places = places_of(batch, views)
        yield batch if len(places) == len(batch.rows) else part_of(batch, places)

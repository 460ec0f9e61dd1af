"""What the training loop asks of any teacher, remote, local or absent."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from torch import Tensor

from moma_core.data.batch import Batch


class TeacherAnswer(NamedTuple):
    """What a teacher says to N views.

    Args:
        embedding: (N, D) float, no gradient.
        logits: (N, C) float over the teacher's classes, no gradient.
    """

    embedding: Tensor
    logits: Tensor


class Teacher(Protocol):
    """Pairs each batch with the teacher's answer to its views, in order.

    A teacher may read ahead of the loop (a remote one keeps requests in flight);
    one that moves with the student must not.
    """

    def follow(
        self, batches: Iterable[Batch]
    ) -> Iterator[tuple[Batch, TeacherAnswer | None]]:
        """Yields every batch once, in order, with its answer; None: no teacher.

        Raises:
            TeacherError: The teacher refused, or cannot be reached any more.
        """
        ...

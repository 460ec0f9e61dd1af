"""What the training loop needs of any teacher, remote, local or absent."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from moma_core.data.batch import Batch


class TeacherOutput(NamedTuple):
    """A teacher's outputs for N views.

    Args:
        embedding: (N, D) float, no gradient.
        logits: (N, C) float over the teacher's classes, no gradient.
        maps: (N, channels, H, W) each, from the first stage to the last, no gradient;
            only of a teacher whose weights are here, for a method that needs them.
    """

    embedding: Tensor
    logits: Tensor
    maps: tuple[Tensor, ...] = ()

    def to(self, device: torch.device) -> "TeacherOutput":
        """Returns the outputs on a device, without waiting for the copy."""
        return TeacherOutput(
            self.embedding.to(device, non_blocking=True),
            self.logits.to(device, non_blocking=True),
            tuple(stage.to(device, non_blocking=True) for stage in self.maps),
        )


class SeveralOutputs(NamedTuple):
    """What several teachers say of a batch of N views, each of the rows it answered.

    Args:
        outputs: One a teacher, of M <= N rows.
        places: (M,) long, one a teacher: the rows of the batch that its output is of,
            in their order.
    """

    outputs: tuple[TeacherOutput, ...]
    places: tuple[Tensor, ...]

    def to(self, device: torch.device) -> "SeveralOutputs":
        """Returns the outputs on a device, without waiting for the copies."""
        return SeveralOutputs(
            tuple(output.to(device) for output in self.outputs),
            tuple(places.to(device, non_blocking=True) for places in self.places),
        )


AnyOutput = TeacherOutput | SeveralOutputs
_Output = TypeVar("_Output", bound=AnyOutput, covariant=True)


class OutputSource(Protocol[_Output]):
    """Pairs each batch with what one or several teachers say of it, in order.

    A teacher may read ahead of the loop (a remote one keeps requests in flight);
    one that is updated from the student must not.
    """

    def answer_batches(
        self, batches: Iterable[Batch]
    ) -> Iterator[tuple[Batch, _Output | None]]:
        """Yields every batch once, in order, with its outputs; None: no teacher.

        Raises:
            TeacherError: The teacher refused, or cannot be reached any more.
        """
        ...


class Teacher(OutputSource[TeacherOutput], Protocol):
    """One teacher: pairs each batch with its outputs for the batch's views."""

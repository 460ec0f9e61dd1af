"""A site's private copy of the teacher's network, which follows the site's student."""

from collections.abc import Mapping

from torch import Tensor

from moma_core.models.ema import (
    MomentumState,
    MomentumTerms,
    ema_update,
    relative_distance,
    share_after,
    update_teacher,
    updated_weights,
)
from moma_core.models.encoder import Encoder
from moma_server.teacher.inference.queue import Model


class SessionModel:
    """Answers as the copy stands; used by the model's thread alone.

    Args:
        teacher: The teacher's own network; only read.
        encoder: Its copy; moves in place.
        answer: Asks the copy.
        terms: How it moves.
    """

    def __init__(
        self, teacher: Encoder, encoder: Encoder, answer: Model, terms: MomentumTerms
    ) -> None:
        self.encoder = encoder
        self.answer = answer
        self._teacher = teacher
        self._terms = terms

    def distance_to(self, mean: Mapping[str, Tensor]) -> float:
        """Returns how far a site's weights are from the teacher's own, relatively."""
        return relative_distance(self._teacher, mean, self._terms)

    def move_to(self, state: MomentumState) -> None:
        """Puts the copy where single updates would have put it, from the start."""
        ema_update(self.encoder, self._teacher, 0)
        share = share_after(self._terms.decay, state.steps)
        update_teacher(self.encoder, state.mean, self._terms, share)


def update_shape(teacher: Encoder, terms: MomentumTerms) -> dict[str, Tensor]:
    """Returns the tensors that an update of such a copy must resemble."""
    return updated_weights(teacher, terms)


def copy_bytes(teacher: Encoder) -> int:
    """Returns what a copy holds."""
    tensors = (*teacher.parameters(), *teacher.buffers())
    return sum(tensor.nbytes for tensor in tensors)

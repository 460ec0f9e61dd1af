"""One step with several teachers: cross-entropy once, and each teacher's own terms.

    total = CE + sum over teachers of w_i (contrast_i + KL_i), each term by its weight

A row that a teacher did not answer adds nothing to that teacher's terms: they are the
sums over its rows divided by all rows of the batch.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from moma_core.distillation.memory_bank import Keys
from moma_core.distillation.step import Distiller, ExtraLosses
from moma_core.models.encoder import Encoder, Features
from moma_core.teacher.protocol import SeveralOutputs, TeacherOutput

_FEWEST_ROWS = 2  # of one patch alone, some methods compare nothing


class SeveralDistillers(Distiller):
    """A method with a distiller a teacher: adapter, heads, memory bank, class order.

    Args:
        student: Its parameters learn.
        distillers: One a teacher, of one method, by the teacher's name; they give
            their student up, so that a checkpoint holds it once.
        weights: Of each teacher's terms.
    """

    distils = True

    def __init__(
        self,
        student: Encoder,
        distillers: Mapping[str, Distiller],
        weights: Mapping[str, float],
    ) -> None:
        own = [each.settings for each in distillers.values()]
        # A teacher that withholds its embeddings has no contrast; the others do.
        contrastive = max(settings.contrastive_weight for settings in own)
        settings = own[0].model_copy(update={"contrastive_weight": contrastive})
        super().__init__(student, settings)
        if distillers.keys() != weights.keys():
            raise ValueError(f"weights of {[*weights]}, distillers of {[*distillers]}")
        for each in distillers.values():
            del each.student
        self.teachers = nn.ModuleDict(distillers)
        self._distillers, self._weights = tuple(distillers.values()), dict(weights)

    def extra_losses(
        self,
        features: Features,
        labels: Tensor,
        output: TeacherOutput | SeveralOutputs,
        rows: Tensor | None,
    ) -> ExtraLosses:
        """Returns the weighted sums of the teachers' terms.

        Raises:
            ValueError: It is the output of one teacher.
        """
        if isinstance(output, TeacherOutput):
            raise ValueError("one output, and several teachers")
        none = features.logits.new_zeros(())
        contrastive, distillation, keys = none, none, list[Keys | None]()
        parts = zip(self._weights.values(), self._distillers, *output, strict=True)
        for weight, distiller, own, places in parts:
            extra = _extra_losses(distiller, features, labels, own, places, rows)
            if extra is None:
                keys.append(None)
                continue
            share = weight * len(places) / len(labels)
            if distiller.settings.contrastive_weight:
                contrastive = contrastive + share * extra.contrastive
            distillation = distillation + share * extra.distillation
            keys.append(extra.new_keys)
        return ExtraLosses(contrastive, distillation, _joined(keys))

    def update_memory(self, new_keys: Keys) -> None:
        """Gives each teacher's distiller the keys that are of its teacher."""
        each = (new_keys._replace(others=()), *new_keys.others)
        for distiller, keys in zip(self._distillers, each, strict=True):
            if len(keys.features):
                distiller.update_memory(keys)

    def moved_by_forward(self) -> Iterator[Tensor]:
        """Yields what the student and every teacher's part change in place."""
        yield from (each for each in self.student.buffers() if each.dim() < 2)
        for distiller in self._distillers:
            yield from distiller.moved_by_forward()


def _extra_losses(
    distiller: Distiller,
    features: Features,
    labels: Tensor,
    output: TeacherOutput,
    places: Tensor,
    rows: Tensor | None,
) -> ExtraLosses | None:
    """Returns a teacher's terms, means over its rows; None: they are too few."""
    if len(places) < _FEWEST_ROWS:
        return None
    if len(places) < len(labels):
        features = Features(features.embedding[places], features.logits[places])
        labels = labels[places]
        rows = None if rows is None else rows[places]
    return distiller.extra_losses(features, labels, output, rows)


def _joined(keys: list[Keys | None]) -> Keys | None:
    """Returns the keys of all teachers as those of the first, and of the others."""
    if all(each is None for each in keys):
        return None
    nothing = Keys(torch.empty(0, 0), torch.empty(0, dtype=torch.long))
    first, *others = (each or nothing for each in keys)
    return first._replace(others=tuple(others))

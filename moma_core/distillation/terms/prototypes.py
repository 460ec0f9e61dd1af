"""Classes of a teacher's keys by the class centres of the memory bank.

A site's few labels give each class a centre among the keys of its labelled patches;
the keys of the others move it. What a key is nearest to says its class, whatever
classes the teacher itself was made for.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from moma_core.data.patch import NO_LABEL
from moma_core.distillation.memory_bank import Keys

TEMPERATURE = 0.1
"""Of a key's similarity to the centres."""


def prototype_loss(
    student_logits: Tensor, key: Tensor, labels: Tensor, bank: Keys
) -> Tensor:
    """Returns the mean cross-entropy in nats to the classes of the nearest centres.

    It is 0 while the bank holds no key of a labelled patch, and for a row whose own
    class has no key there yet. Ours; the centres are the prototypes of Snell et al.
    (https://arxiv.org/abs/1703.05175), refined once by keys without a label as in Ren
    et al., section 3.1.1 (https://arxiv.org/abs/1803.00676).

    Args:
        student_logits: (N, C), carries the gradient.
        key: (N, D), the teacher's, no gradient.
        labels: (N,), class index, NO_LABEL where a patch has none.
        bank: K keys with the student's classes, NO_LABEL where a patch has none.
    """
    # half precision rounds a cosine, and the temperature makes that ten times as much
    with torch.autocast(key.device.type, enabled=False):
        held = Keys(bank.features.float(), bank.classes)
        target = prototype_classes(key.float(), held, student_logits.shape[1])
    has_centre = torch.isin(labels, bank.classes) | (labels == NO_LABEL)
    found = (target * F.log_softmax(student_logits, dim=1)).sum(dim=1)
    return -(found * has_centre).mean()


def prototype_classes(key: Tensor, bank: Keys, classes: int) -> Tensor:
    """Returns (N, C) probabilities of each key's class; 0 without a labelled key.

    Args:
        key: (N, D).
        bank: As in `prototype_loss`.
        classes: C, of the student.
    """
    known = bank.classes.unsqueeze(1) == torch.arange(classes, device=key.device)
    weights = known.to(key.dtype)  # (K, C), a row of zeros where nobody knows
    middle = bank.features.mean(dim=0) if len(bank.features) else 0.0
    held = F.normalize(bank.features - middle, dim=1)
    absent = ~known.any(dim=0)  # (C,), no label so far
    centres = F.normalize(weights.T @ held, dim=1)
    guessed = _nearest(held, centres, absent)
    weights = torch.where(known.any(dim=1, keepdim=True), weights, guessed)
    centres = F.normalize(weights.T @ held, dim=1)
    found = _nearest(F.normalize(key - middle, dim=1), centres, absent)
    return found * (~absent.all()).to(found.dtype)


def _nearest(rows: Tensor, centres: Tensor, absent: Tensor) -> Tensor:
    """Returns (N, C) probabilities by the cosine to each centre that there is."""
    similarity = rows @ centres.T / TEMPERATURE
    lowest = torch.finfo(similarity.dtype).min
    return similarity.masked_fill(absent, lowest).softmax(dim=1)

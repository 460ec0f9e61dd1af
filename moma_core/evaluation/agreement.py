"""How far a teacher's outputs agree with a site's labels, and what share that gives it.

0 is what chance gives, 1 is no error. It is the lower end of an interval: of few
patches, an output that says nothing is not taken for one that says a little.
"""

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from moma_core.data.patch import UNKNOWN_PATIENT
from moma_core.evaluation.statistics import Integers
from moma_core.teacher.protocol import TeacherOutput

By = Literal["logits", "embeddings"]

FLOOR = 0.05
"""Agreement that every teacher has at least, before shares are taken."""

NEIGHBOURS = 10

_ONE_SIDED_95 = 1.645


class Agreement(NamedTuple):
    """What a teacher's outputs say of labelled patches.

    Args:
        value: From 0, chance or less, to 1.
        by: Its logits, where the classes match; else the neighbours of embeddings.
        patches: On how many patches it was measured.
    """

    value: float
    by: By
    patches: int


def measure_agreement(
    output: TeacherOutput,
    labels: Tensor,
    patients: Tensor,
    class_order: Tensor | None,
) -> Agreement:
    """Returns how far outputs agree with labels.

    Args:
        output: Of N labelled patches.
        labels: (N,) long, class indices.
        patients: (N,) long; a patch's neighbours are of other patients, so that a
            slide does not vouch for itself. UNKNOWN_PATIENT: each another one.
        class_order: (C,) long, the teacher's logit of each class; None: it has none
            of these classes, and its embeddings are measured.
    """
    by: By = "embeddings" if class_order is None else "logits"
    if class_order is None:
        said = _of_neighbours(output.embedding, labels, patients)
    else:
        said = output.logits[:, class_order].argmax(dim=1)
    value = above_chance(said.numpy(), labels.numpy())
    return Agreement(value, by, len(labels))


def shares(agreements: Mapping[str, Agreement | None]) -> dict[str, float]:
    """Returns the teachers' weights, 1 together, by name.

    Args:
        agreements: By name; None: nothing is known of it, so it has no share, unless
            nothing is known of any.
    """
    values = {
        name: 0.0 if each is None else max(FLOOR, each.value)
        for name, each in agreements.items()
    }
    total = sum(values.values())
    if not total:
        return dict.fromkeys(values, 1 / len(values))
    return {name: value / total for name, value in values.items()}


def _of_neighbours(embeddings: Tensor, labels: Tensor, patients: Tensor) -> Tensor:
    """Returns (N,) long, the class of most of the nearest patches of other patients."""
    rows = F.normalize(embeddings.double(), dim=1)
    similarity = rows @ rows.T  # (N, N)
    known = patients != UNKNOWN_PATIENT
    own = (patients.unsqueeze(1) == patients) & known.unsqueeze(1)
    own |= torch.eye(len(labels), dtype=torch.bool)
    similarity[own] = -math.inf
    count = min(NEIGHBOURS, max(1, len(labels) - 1))
    nearest = similarity.topk(count, dim=1)
    votes = torch.zeros(len(labels), int(labels.max()) + 1)
    is_other = nearest.values.isfinite().float()
    votes.scatter_add_(1, labels[nearest.indices], is_other)
    # A patch without a neighbour, all being of one patient, is no hit.
    return torch.where(votes.sum(dim=1) > 0, votes.argmax(dim=1), -1)


def above_chance(said: Integers, labels: Integers) -> float:
    """Returns the mean recall above chance, at the lower end of its interval.

    Of a class with n patches and k hits the variance is that of (k + 1) / (n + 2).

    Args:
        said: (N,) class indices.
        labels: (N,) class indices.
    """
    recalls, variance = [], 0.0
    classes = sorted(set(labels.tolist()))
    if len(classes) < 2:
        return 0.0
    for label in classes:
        hits = said[labels == label] == label
        recalls.append(float(hits.mean()))
        smoothed = (float(hits.sum()) + 1) / (len(hits) + 2)
        variance += smoothed * (1 - smoothed) / len(hits)
    chance = 1 / len(classes)
    lowest = chance * (sum(recalls) - _ONE_SIDED_95 * math.sqrt(variance))
    return max(0.0, (lowest - chance) / (1 - chance))

"""Is a teacher worth its queries: a linear probe on its embeddings says before a run.

The probe is fitted on patches whose classes the site knows and judged on patients that
it did not see, and so is the same probe on the embeddings of the student as it starts.
What the teacher has in advance of that start is what there is to distil; where it has
nothing, the student had better learn from the labels alone.
"""

from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moma_core.errors import DataError
from moma_core.evaluation.comparison import Difference, paired_difference
from moma_core.evaluation.figures import count_of_groups
from moma_core.evaluation.grouping import Grouping
from moma_core.evaluation.metrics import SplitOutputs
from moma_core.models.probe import fit_probe

_MOST_FOLDS, _FEWEST_FOLDS = 5, 3

WorthName = Literal["worth it", "not shown", "not worth it"]


class TeacherWorth(NamedTuple):
    """What a probe found.

    Args:
        patches: That were asked about.
        groups: Patients among them, or slides, or patches.
        counted: What a group is.
        teacher: Macro-F1 of the probe on the teacher's embeddings.
        own: Macro-F1 of the probe on those of the student's start.
        gain: The first minus the second.
    """

    patches: int
    groups: int
    counted: str
    teacher: float
    own: float
    gain: Difference

    @property
    def outcome(self) -> WorthName:
        """Whether the interval of the gain lies above 0, holds it, or lies below."""
        if not self.gain.is_decided:
            return "not shown"
        return "worth it" if self.gain.value > 0 else "not worth it"


class LabelledPatches(NamedTuple):
    """Of which patches the embeddings are.

    Args:
        rows: (N,) of the source.
        labels: (N,) class indices.
        grouping: Of the patches, by patient.
        class_names: By label.
    """

    rows: NDArray[np.int64]
    labels: Tensor
    grouping: Grouping
    class_names: tuple[str, ...]


def teacher_worth(
    teacher: Tensor, own: Tensor, patches: LabelledPatches, *, seed: int = 0
) -> TeacherWorth:
    """Returns what the teacher's embeddings have in advance of the student's start.

    Args:
        teacher: (N, D), the teacher's embeddings.
        own: (N, D'), those of the student as it starts.
        patches: Which they are.
        seed: Of the folds and of the probes' first weights.

    Raises:
        DataError: They are of too few patients, or too few for a figure.
        ConfigError: An embedding is not finite.
    """
    folds = _folds(patches, seed)
    one, other = (_held_out(each, folds, patches, seed) for each in (teacher, own))
    first, second = (each.measure().values().get("macro_f1") for each in (one, other))
    gain = paired_difference(one, other, "macro_f1")
    if gain is None or first is None or second is None:
        raise DataError(
            f"{len(patches.labels)} patches say nothing of a teacher: ask more, of two "
            f"classes at least"
        )
    return TeacherWorth(
        len(patches.labels),
        len(np.unique(patches.grouping.codes)),
        patches.grouping.counted,
        first,
        second,
        gain,
    )


def _folds(patches: LabelledPatches, seed: int) -> NDArray[np.int64]:
    """Returns (N,) the fold of each patch: whole patients, classes spread over all."""
    codes = patches.grouping.codes
    names, first = np.unique(codes, return_index=True)
    count = min(_MOST_FOLDS, len(names))
    if count < _FEWEST_FOLDS:
        whole = count_of_groups(len(names), patches.grouping.counted)
        raise DataError(
            f"the patches are of {whole}: a probe "
            f"needs {_FEWEST_FOLDS} at least, to be judged on those it did not see"
        )
    order = np.random.default_rng(seed).permutation(len(names))
    by_class = order[np.argsort(patches.labels.numpy()[first[order]], kind="stable")]
    fold_of = np.empty(len(names), dtype=np.int64)
    fold_of[by_class] = np.arange(len(names)) % count
    found: NDArray[np.int64] = fold_of[np.searchsorted(names, codes)]
    return found


def _held_out(
    embedding: Tensor, folds: NDArray[np.int64], patches: LabelledPatches, seed: int
) -> SplitOutputs:
    """Returns what probes say of the patches of the folds that they did not see.

    The next fold chooses a probe's weight decay, the others train it.
    """
    classes, count = len(patches.class_names), int(folds.max()) + 1
    logits = torch.zeros(len(embedding), classes, dtype=torch.float64)
    embedding, labels = embedding.float(), patches.labels
    for fold in range(count):
        tested = torch.from_numpy(folds == fold)
        choosing = torch.from_numpy(folds == (fold + 1) % count)
        rest = ~(tested | choosing)
        probe = fit_probe(
            (embedding[rest], labels[rest]),
            (embedding[choosing], labels[choosing]),
            classes=classes,
            seed=seed,
        )
        logits[tested] = probe(embedding[tested]).double()
    return SplitOutputs(
        logits, labels, patches.rows, patches.grouping, patches.class_names, False
    )

"""Two pathologists' labels of the same patches: how far they agree themselves."""

import re
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from moma_client.config.site import SiteConfig
from moma_core.data.patch import UNSEEN
from moma_core.data.sources.factory import PresetSection, open_pictures
from moma_core.evaluation.figures import Evaluation, Figure
from moma_core.evaluation.metrics import SplitOutputs

_READER = re.compile(r"/patho_\d/|_class_\d+\.\w+$")


class ReaderKappa(NamedTuple):
    """Kappa on the patches that both readers labelled.

    Args:
        name: Of the figure: `kappa_quadratic`, or `kappa_unweighted`.
        patches: How many there are.
        own: Student against the reader whose labels the config takes.
        other: Student against the other one.
        between: Reader against reader.
        reader: Number of the config's reader.
    """

    name: str
    patches: int
    own: Figure
    other: Figure
    between: Figure
    reader: int


def reader_kappa(config: SiteConfig, outputs: SplitOutputs) -> ReaderKappa | None:
    """Returns kappa against each reader and between them; None: there is one reader.

    Args:
        config: Settings of this site.
        outputs: Of the student on the unseen split.

    Raises:
        DataError: The other reader's patches are not there or cannot be listed.
    """
    section = config.data
    if not isinstance(section, PresetSection) or section.name != "usz":
        return None
    labels = torch.from_numpy(_other_labels(section)[outputs.rows])
    both = torch.nonzero(labels >= 0).flatten()
    if not len(both):
        return None
    codes = outputs.grouping.codes[both.numpy()]
    grouping = replace(outputs.grouping, codes=codes)
    kept = outputs._replace(
        logits=outputs.logits[both],
        labels=outputs.labels[both],
        rows=outputs.rows[both.numpy()],
        grouping=grouping,
    )
    said = _as_logits(labels[both], len(outputs.class_names))
    name = "kappa_quadratic" if outputs.is_ordered else "kappa_unweighted"
    found: list[Evaluation] = [
        kept.measure(),
        kept._replace(labels=labels[both]).measure(),
        kept._replace(logits=said).measure(),
    ]
    own, other, between = (each.figures[name] for each in found)
    return ReaderKappa(name, len(both), own, other, between, section.reader)


def _other_labels(section: PresetSection) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Returns the other reader's label of each row, -1 where there is none."""
    own = open_pictures(section)
    second = section.model_copy(update={"reader": 3 - section.reader})
    other = open_pictures(second)
    if own is None or other is None:
        raise TypeError("a preset is of files")
    labels = {
        _READER.sub("/", other.path_of(int(row))): int(other.index.labels[row])
        for row in other.index.rows(UNSEEN, labelled=True)
    }
    found = np.full(len(own.index), -1, np.int64)
    for row in own.index.rows(UNSEEN, labelled=True):
        found[row] = labels.get(_READER.sub("/", own.path_of(int(row))), -1)
    return found


def _as_logits(labels: Tensor, classes: int) -> Tensor:
    """Returns (N, C): a reader who is as sure as can be."""
    return torch.nn.functional.one_hot(labels, classes).double()

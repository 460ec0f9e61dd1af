"""`python -m benchmarks.study.worth PATCHES WEIGHTS`: a linear probe on a teacher.

What `moma-client plan --probe` says, of a network on this disk and any patches.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.quality.training import Rows
from benchmarks.study.teachers import read_network
from moma_core.data.loader import evaluation_batches
from moma_core.data.patch import SPLITS, PatchSource
from moma_core.data.sources.factory import open_source
from moma_core.evaluation.grouping import grouping_of
from moma_core.evaluation.teacher_worth import (
    LabelledPatches,
    TeacherWorth,
    teacher_worth,
)
from moma_core.models.backbone import Backbone, Normalise

START = "tf_efficientnet_lite0"


def worth_on(
    source: PatchSource,
    teacher: tuple[Backbone, Normalise],
    start: tuple[Backbone, Normalise],
    *,
    size_px: int,
    per_class: int,
    split: str | None = None,
) -> TeacherWorth:
    """Returns what a teacher's embeddings have in advance of a student's start.

    Args:
        source: The patches.
        teacher: With what brings uint8 views to its range.
        start: The student as it starts, likewise.
        size_px: Side of the views.
        per_class: Patches of each class at most, drawn with seed 0.
        split: Whose patches; None: of all.
    """
    index = source.index
    labelled = np.flatnonzero(index.labels >= 0)
    if split is not None:
        labelled = index.rows(split, labelled=True)
    drawn = np.random.default_rng(0).permutation(labelled)
    labels = index.labels[drawn]
    rows = np.sort(
        np.concatenate([drawn[labels == one][:per_class] for one in np.unique(labels)])
    )
    theirs, own = (
        _embeddings(source, rows, *each, size_px) for each in (teacher, start)
    )
    known = torch.from_numpy(index.labels[rows].astype(np.int64))
    grouping = grouping_of(index, rows)
    return teacher_worth(
        theirs, own, LabelledPatches(rows, known, grouping, source.class_names)
    )


@torch.no_grad()
def _embeddings(
    source: PatchSource, rows: Rows, network: Backbone, normalise: Normalise, size: int
) -> Tensor:
    batches = evaluation_batches(source, rows, view_size_px=size, batch_size=8)
    network.eval()
    return torch.cat([network(normalise(views)).embedding for views, _ in batches])


def main(argv: Sequence[str] | None = None) -> int:
    """Prints it."""
    parser = argparse.ArgumentParser(prog="benchmarks.study.worth", description=__doc__)
    parser.add_argument("patches", type=Path, help="a folder of classes, or a manifest")
    parser.add_argument("weights", type=Path, help="timm's, a safetensors file")
    parser.add_argument("--architecture", default="densenet121")
    parser.add_argument("--outputs", type=int, default=9, help="of the teacher")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--per-class", type=int, default=40)
    parser.add_argument("--split", choices=SPLITS, help="default: all")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    teacher = Backbone(options.architecture, options.outputs)
    read_network(teacher, options.weights)
    start = Backbone.create(START, options.outputs, "packaged")
    found = worth_on(
        open_source(options.patches),
        (teacher, Normalise((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))),
        (start, Normalise(start.mean, start.std)),
        size_px=options.size,
        per_class=options.per_class,
        split=options.split,
    )
    print(found.outcome, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The weights of several teachers in a round: as the config has them, or measured.

runs/RUN/teachers/NNNNNN.json   each teacher's weight in the round, and why

They are fixed before the round trains, so that a killed round goes on with the same.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from moma_client.cache.folder import CacheFolder
from moma_client.cache.views import view_settings
from moma_client.student.factory import SiteTeacher
from moma_client.teacher.local_teacher import local_teacher
from moma_core.data.loader import view_batches
from moma_core.data.patch import TRAIN, PatchIndex, PatchSource
from moma_core.data.view_mask import ViewMask
from moma_core.errors import CheckpointError
from moma_core.evaluation.agreement import Agreement, measure_agreement, shares
from moma_core.federation.task import RoundTask
from moma_core.runtime.canonical_json import parsed_json
from moma_core.runtime.files import make_folder, write_private
from moma_core.teacher.protocol import Teacher, TeacherOutput

_logger = logging.getLogger(__name__)

MOST_PATCHES = 2048
"""Labelled training patches that an agreement is measured on."""


def with_weights(
    teachers: Sequence[SiteTeacher],
    views: Mapping[str, ViewMask],
    source: PatchSource,
    folder: Path,
    task: RoundTask,
) -> tuple[SiteTeacher, ...]:
    """Returns the teachers with their weights in a round.

    Args:
        teachers: One, whose weight is 1, or several.
        views: Of each teacher whose outputs are cached, by name: what is cached.
        source: Patches of the site.
        folder: Folder of the run.
        task: The round.

    Raises:
        DataError: Patches cannot be read.
        CheckpointError: The weights that were kept are damaged.
    """
    if len(teachers) == 1:
        return tuple(teachers)
    path = folder / "teachers" / f"{task.round:06}.json"
    if not path.exists():
        found = _reasons(teachers, views, source)
        for name, each in found.items():
            text = ", ".join(f"{key} {value}" for key, value in each.items())
            _logger.info("teacher %s in round %d: %s", name, task.round, text)
        make_folder(path.parent)
        write_private(path, json.dumps(found).encode())
    weights = read_weights(folder, task.round)
    if weights.keys() != {each.card.name for each in teachers}:
        raise _damaged(path)
    return tuple(replace(each, weight=weights[each.card.name]) for each in teachers)


def read_weights(folder: Path, round_number: int) -> dict[str, float]:
    """Returns each teacher's weight in a round; empty: the round has none.

    Raises:
        CheckpointError: What was kept of the round is damaged.
    """
    path = folder / "teachers" / f"{round_number:06}.json"
    if not path.exists():
        return {}
    try:
        found = parsed_json(path.read_bytes())
        return {name: float(each["weight"]) for name, each in found.items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise _damaged(path) from None


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path} is damaged or of other teachers, and holds what each one counts in a "
        "round: delete it, and that is measured anew"
    )


def _reasons(
    teachers: Sequence[SiteTeacher],
    views: Mapping[str, ViewMask],
    source: PatchSource,
) -> dict[str, dict[str, object]]:
    """Returns each teacher's weight, with what it comes from, by name."""
    given = {each.card.name: each.config.teacher.weight for each in teachers}
    numbers = {name: n for name, n in given.items() if not isinstance(n, str)}
    if len(numbers) == len(given):
        total = sum(numbers.values())
        return {name: {"weight": round(n / total, 6)} for name, n in numbers.items()}
    measured = {
        each.card.name: _agreement(each, views.get(each.card.name), source)
        for each in teachers
    }
    return {
        name: {"weight": round(share, 6), **_reason(measured[name])}
        for name, share in shares(measured).items()
    }


def _reason(agreement: Agreement | None) -> dict[str, object]:
    if agreement is None:
        return {"agreement": None, "patches": 0}
    value = round(agreement.value, 6)
    return {"agreement": value, "by": agreement.by, "patches": agreement.patches}


def _agreement(
    teacher: SiteTeacher, views: ViewMask | None, source: PatchSource
) -> Agreement | None:
    """Returns a teacher's agreement with labels of the training split; None: no output.

    One view of a patch: the first that is cached, or, of a teacher on this disk, 0.
    """
    order = teacher.scenario.class_order
    if order is None and "embedding" not in teacher.card.outputs:
        return None
    found, output = cached_outputs(teacher, views, source)
    if not len(found):
        return None
    index = source.index
    labels = torch.from_numpy(index.labels[found].astype(np.int64))
    patients = torch.from_numpy(index.patients[found].astype(np.int64))
    return measure_agreement(output, labels, patients, order)


def cached_outputs(
    teacher: SiteTeacher, views: ViewMask | None, source: PatchSource
) -> tuple[NDArray[np.int64], TeacherOutput]:
    """Returns labelled training rows, 2048 at most, and a teacher's outputs of them.

    One view of a patch: the first that is cached, or, of a teacher on this disk, 0.
    No patch is queried.

    Args:
        teacher: One whose outputs are cached, or one on this disk.
        views: What is cached; None: the teacher is on this disk.
        source: Patches of the site.

    Raises:
        DataError: Patches cannot be read.
    """
    rows = _rows(source.index, views, teacher.config.training.seed)
    if not len(rows):
        return rows, TeacherOutput(torch.empty(0, 0), torch.empty(0, 0))
    return _outputs(teacher, _pairs(rows, views), source)


def _rows(index: PatchIndex, views: ViewMask | None, seed: int) -> NDArray[np.int64]:
    rows = index.rows(TRAIN, labelled=True)
    if views is not None:
        rows = views.usable(rows)
    if len(rows) > MOST_PATCHES:
        rows = np.random.default_rng(seed).permutation(rows)[:MOST_PATCHES]
    return np.sort(rows)


def _pairs(rows: NDArray[np.int64], views: ViewMask | None) -> list[NDArray[np.int64]]:
    """Returns rows and view numbers, (n, 2) each, in batches."""
    numbers = [0 if views is None else views.number(row, 0) for row in rows.tolist()]
    pairs = np.stack([rows, np.array(numbers, np.int64)], axis=1)
    return [pairs[at : at + _BATCH] for at in range(0, len(pairs), _BATCH)]


_BATCH = 64


def _outputs(
    teacher: SiteTeacher, pairs: list[NDArray[np.int64]], source: PatchSource
) -> tuple[NDArray[np.int64], TeacherOutput]:
    """Returns the rows that have an output, and the outputs."""
    config, section, card = teacher.config, teacher.config.teacher, teacher.card
    batches = view_batches(source, pairs, view_settings(config))
    rows: list[NDArray[np.int64]] = []
    outputs: list[TeacherOutput] = []
    if not section.is_remote:
        local: Teacher = local_teacher(card, section)
        for batch, output in local.answer_batches(batches):
            if output is not None:
                rows.append(batch.rows.numpy())
                outputs.append(output)
    else:
        with closing(CacheFolder(config).open(card, len(source.index))) as cache:
            for batch in batches:
                found = cache.read(batch)
                here = np.setdiff1d(np.arange(len(batch.rows)), found.missing.numpy())
                rows.append(batch.rows.numpy()[here])
                embedding, logits, _ = found.output
                outputs.append(TeacherOutput(embedding[here], logits[here]))
    return np.concatenate(rows), TeacherOutput(
        torch.cat([output.embedding for output in outputs]),
        torch.cat([output.logits for output in outputs]),
    )

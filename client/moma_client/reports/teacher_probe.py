"""`moma-client plan --probe N`: is a teacher worth its queries, asked with N patches.

These queries are like any other: charged to the budget, kept in the teacher's log and
in the site's receipts. A teacher cache keeps their outputs, so that the run does not
ask about them again.
"""

import threading
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moma_client.cache.folder import CacheFolder
from moma_client.cache.views import view_settings
from moma_client.config.site import SiteConfig
from moma_client.config.teacher import LocalTeacherSection
from moma_client.context import RunContext
from moma_client.metrics import silent_metrics
from moma_client.reports.teacher_labels import look_at_labels
from moma_client.student.factory import make_backbone, scenario_of
from moma_client.teacher.connect import open_teacher
from moma_client.teacher.local_teacher import local_teacher
from moma_client.teacher.onboarding import verify_local, verify_remote
from moma_client.teacher.remote_teacher import PATCHES_PER_REQUEST
from moma_client.teacher.retry import FAIL_FAST
from moma_core.data.batch import Batch
from moma_core.data.loader import view_batches
from moma_core.data.patch import TRAIN, PatchSource
from moma_core.errors import BudgetSpentError, DataError
from moma_core.evaluation.grouping import grouping_of
from moma_core.evaluation.teacher_worth import (
    LabelledPatches,
    TeacherWorth,
    teacher_worth,
)
from moma_core.models.backbone import Normalise
from moma_core.runtime.finding import Finding
from moma_core.teacher.cache.cached_teacher import CachedTeacher
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.protocol import Teacher

_FEWEST_PATCHES = 20

Rows = NDArray[np.int64]


class Probe(NamedTuple):
    """A probe that is to be made.

    Args:
        config: Settings of this site, with one teacher.
        source: Patches of this site.
        rows: That will be asked about, spread over the classes.
    """

    config: SiteConfig
    source: PatchSource
    rows: Rows

    @property
    def notice(self) -> str:
        """What is said before anything is sent."""
        section, count = self.config.teacher, len(self.rows)
        if not section.is_remote:
            return f"{count} patches are shown to the teacher on this disk"
        return (
            f"{count} patches go to teacher {section.name} now, charged to the budget "
            f"and kept in its log, but for those that the teacher cache has"
        )


def plan_probe(config: SiteConfig, source: PatchSource, patches: int) -> Probe:
    """Returns a probe of so many labelled training patches, or of all there are.

    Raises:
        DataError: There are too few to say anything.
    """
    index = source.index
    rows = index.rows(TRAIN, labelled=True)
    if min(patches, len(rows)) < _FEWEST_PATCHES:
        raise DataError(
            f"--probe {patches} of {len(rows)} labelled patches says nothing: "
            f"{_FEWEST_PATCHES} are needed at least"
        )
    rows = np.random.default_rng(config.training.seed).permutation(rows)
    labels, turns = index.labels[rows], np.empty(len(rows), np.int64)
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        turns[own] = np.arange(len(own))
    chosen = rows[np.argsort(turns, kind="stable")[:patches]]
    # Not class by class, which the order of the queries would disclose.
    return Probe(config, source, np.sort(chosen))


def run_probe(probe: Probe) -> Iterator[Finding]:
    """Asks, and yields what the teacher is worth.

    Raises:
        BudgetSpentError: The budget does not cover it; no patch of the site was sent.
        TermsError: The terms are not accepted; no patch was sent.
        MismatchError: What answers is not the model of the card.
        TeacherError: The teacher does not answer, or refuses.
        DataError: Patches cannot be read, or are of too few patients.
        ConfigError: The student's weights are out of reach.
    """
    config, source = probe.config, probe.source
    classes = source.class_names
    student = make_backbone(config, len(classes)).eval()
    normalise = Normalise(student.mean, student.std)
    theirs, own, order = list[Tensor](), list[Tensor](), list[Tensor]()
    logits = list[Tensor]()
    with _teacher(probe) as (card, teacher, size):
        has_embeddings = "embedding" in card.outputs
        for batch, output in teacher.answer_batches(_batches(probe, size)):
            if output is None:
                raise DataError(f"teacher {card.name} says nothing of the patches")
            theirs.append(output.embedding if has_embeddings else output.logits)
            logits.append(output.logits)
            with torch.inference_mode():
                own.append(student(normalise(batch.views)).embedding)
            order.append(batch.rows)
    asked = torch.cat(order).numpy()
    places = scenario_of(config, card, classes).class_order
    if places is not None:
        said = torch.cat(logits)[:, places]
        yield from look_at_labels(card.name, said, asked, source)
    labels = torch.from_numpy(source.index.labels[asked].astype(np.int64))
    patches = LabelledPatches(asked, labels, grouping_of(source.index, asked), classes)
    worth = teacher_worth(
        torch.cat(theirs), torch.cat(own).clone(), patches, seed=config.training.seed
    )
    yield _finding(card, worth)


@contextmanager
def _teacher(probe: Probe) -> Iterator[tuple[TeacherCard, Teacher, int]]:
    """Yields a teacher that has shown to be the one of its card, and its limit."""
    config, section = probe.config, probe.config.teacher
    if isinstance(section, LocalTeacherSection):
        card = verify_local(section)
        yield card, local_teacher(card, section), PATCHES_PER_REQUEST
        return
    with open_teacher(config, retries=FAIL_FAST, ids_by_content=True) as remote:
        card, size = remote.describe(), remote.patches_per_request()
        granted, charged = remote.budget()
        if not section.caches:
            _check_budget(card, len(probe.rows), granted - charged)
            context = RunContext(config, threading.Event(), silent_metrics())
            verify_remote(context, card, FAIL_FAST)
            yield card, remote, size
            return
        cache = CacheFolder(config).open(card, len(probe.source.index))
        with closing(cache):
            missing = int((~cache.present(cache.slots(probe.rows, 0))).sum())
            _check_budget(card, missing, granted - charged)
            context = RunContext(config, threading.Event(), silent_metrics())
            verify_remote(context, card, FAIL_FAST)
            yield card, CachedTeacher(cache, lambda: remote, _pass_over), size
            cache.flush()


def _pass_over(_: int) -> None:
    """Counts nothing: a plan has no metrics."""


def _check_budget(card: TeacherCard, patches: int, left: int) -> None:
    wanted = patches + (card.golden is not None)
    if patches and wanted > left:
        raise BudgetSpentError(
            f"the probe needs {wanted} patches of the budget at teacher {card.name}, "
            f"{max(0, left)} are left: ask with fewer, or ask its owner for more"
        )


def _batches(probe: Probe, size: int) -> Iterable[Batch]:
    """Returns the views that a run shows first, no larger than a request."""
    rows = probe.rows
    pairs = np.stack([rows, np.zeros_like(rows)], axis=1)
    groups = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    return view_batches(probe.source, groups, view_settings(probe.config))


def _finding(card: TeacherCard, worth: TeacherWorth) -> Finding:
    gain = worth.gain
    interval = "no interval: too few patients"
    if gain.interval is not None:
        interval = "95 % {:+.3f} to {:+.3f}".format(*gain.interval)
    text = (
        f"{worth.outcome}: on {worth.patches} patches of {worth.groups} "
        f"{worth.counted} a linear probe on the embeddings of teacher {card.name} "
        f"reaches macro-F1 {worth.teacher:.3f}, on those of the student's start "
        f"{worth.own:.3f}: {gain.value:+.3f} ({interval})"
    )
    facts: dict[str, object] = {
        "teacher": card.name,
        "outcome": worth.outcome,
        "patches": worth.patches,
        "teacher_macro_f1": worth.teacher,
        "own_macro_f1": worth.own,
        "gain": gain.value,
        "interval": None if gain.interval is None else [*gain.interval],
    }
    if worth.outcome == "worth it":
        return Finding("probe", "ok", text, facts=facts)
    advice = (
        "the teacher is not shown to know what the student does not: train ce beside "
        "moma (baselines: [ce]) and keep the better one by validation, or probe with "
        "more patches"
    )
    return Finding("probe", "warning", text, more=(advice,), facts=facts)

"""What makes a student's run the run that it is: its digest, and the views it shows."""

import hashlib
from dataclasses import asdict

import numpy as np

from moma_client.cache.views import ViewSchedule
from moma_client.student.factory import (
    SiteTeacher,
    StudentJob,
    needs_teachers,
    uses_prototypes,
)
from moma_core.data.patch import PatchIndex, PatchSource
from moma_core.data.stain_normalisation import stain_target
from moma_core.data.view_mask import ViewMask
from moma_core.training.checkpoint import load_checkpoint
from moma_core.training.settings import former_defaults, run_digest
from moma_core.training.trainer import TrainingRun


def training_run(job: StudentJob, source: PatchSource) -> TrainingRun:
    """Returns a student's run, whose digest changes with all that makes it another.

    Args:
        job: What the student does.
        source: Patches of the site.
    """
    config = job.config
    epochs = job.task.rounds * job.task.local_epochs
    rest = {
        "method": job.method,
        "teacher": _teacher_identities(job) if job.has_teacher else [],
        "classes": source.class_names,
        "rows": _digest(source.index),
        "epochs": epochs,
        "student": config.student.model_dump(mode="json"),
        "distillation": _distillation(job),
        "baseline": _baseline_numbers(job),
        "views": [config.views, config.view_size_px],
        "bank": _cache_terms(job),
        **_stain_terms(job),
    }
    return TrainingRun(
        epochs,
        job.folder / "checkpoint.pt",
        run_digest(config.training, rest),
        run_digest(former_defaults(config.training), rest),
    )


def check_resumes(job: StudentJob, source: PatchSource) -> None:
    """Refuses to go on where a student's checkpoint is of another run.

    Args:
        job: What the student does.
        source: Patches of the site.

    Raises:
        CheckpointError: Config, patches or teacher changed since, or it is damaged.
    """
    run = training_run(job, source)
    load_checkpoint(run.checkpoint, run.run, run.former_run)


def _cache_terms(job: StudentJob) -> list[object]:
    """Of the teacher cache: how many views, how exact, and of which patches."""
    table = view_table(job)
    rows = table.row_digest() if table else ""
    terms: list[list[object]] = []
    for teacher in job.teachers:
        section = teacher.config.teacher
        if section.caches:
            terms.append([section.views, section.cache_precision, rows])
        else:
            terms.append([])
    return terms[0] if len(terms) == 1 else [*terms]


def _distillation(job: StudentJob) -> dict[str, object]:
    """What the method is told; what has no part in this student is left out."""
    chosen = job.config.distillation.without_added()
    chosen.pop("fallback", None)
    trained_as = job.trained_as
    has_prototypes = trained_as == "moma" and any(
        uses_prototypes(each.config, each.card, each.scenario) for each in job.teachers
    )
    if not has_prototypes:
        chosen.pop("prototype_weight", None)
        if chosen["other_classes"] == "prototypes":
            chosen["other_classes"] = "ignored"  # the default of the release before
    return chosen if trained_as == job.method else chosen | {"trained_as": trained_as}


def _stain_terms(job: StudentJob) -> dict[str, object]:
    """Of the colours that patches get; nothing where they keep theirs."""
    section = job.config.data.stain_normalisation
    return {} if section is None else {"stain": asdict(stain_target(section))}


def _baseline_numbers(job: StudentJob) -> dict[str, object]:
    if job.method == "moma":
        return {}
    return job.config.baseline_settings.without_added()


def _teacher_identities(job: StudentJob) -> list[object]:
    """Of one teacher, its identity; of several, a list of theirs."""
    if len(job.teachers) == 1:
        return [*_identity(job.teachers[0])]
    return [
        [each.card.name, *_identity(each), each.config.teacher.weight]
        for each in job.teachers
    ]


def _identity(teacher: SiteTeacher) -> list[str]:
    config, section, order = (
        teacher.config,
        teacher.config.teacher,
        teacher.scenario.class_order,
    )
    schedule = section.schedule if section.mode != "frozen" else ""
    identity = [teacher.card.digest, section.mode, schedule, teacher.scenario.name]
    if config.renamed_classes and order is not None:
        identity.append(str(order.tolist()))
    if section.is_remote and section.is_updated:
        identity += [section.batch_norm, str(section.sync_every_steps)]
    return identity


def _digest(index: PatchIndex) -> str:
    """Of labels, splits, patients and places on slides: others are another run."""
    digest = hashlib.sha256()
    for column in (index.labels, index.splits, index.patients):
        digest.update(np.ascontiguousarray(column).tobytes())
    digest.update(index.places.encode())  # nothing, where patches are pictures
    return digest.hexdigest()


def view_table(job: StudentJob) -> ViewMask | None:
    """Returns which views a patch may show; None where none are cached."""
    scenarios = [each.scenario for each in job.teachers]
    if not job.config.kept_views or not needs_teachers(job.config, scenarios):
        return None
    return ViewSchedule(job.folder.parent).of_round(job.task.round)

"""Which trials a study has, stage by stage, and what makes a line stale."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass
from typing import Literal, NamedTuple

from benchmarks.study.preset import Study
from moma_core.distillation.methods.names import need_of
from moma_core.distillation.settings import DistillationSettings

StudyStage = Literal["noise", "tuning", "final"]

REFERENCES = ("teacher", "probe", "head")
"""Rows without a student: the teacher itself; a linear probe, and a head with a hidden
layer, on its embeddings of the site's labelled patches."""

BY_RATE = ("ce", "ft")
TUNING_SEED, NOISE_SEED = 1000, 2000
_WEIGHTS = {"contrastive_weight", "distillation_weight"}
_OF_THE_SAME_CLASSES = {"simkd", "srrl"}
_NO_PART = {"data", "about", "expected_hours", "seeds", "repeats", "variants", "name"}


@dataclass(frozen=True, slots=True)
class StudyTrial:
    """One student, trained once and measured.

    Args:
        stage: Where in the protocol; only `final` reads the unseen centre.
        scenario: Of the study's teachers.
        student: Of the study's students.
        row: A method, a variant, or a reference.
        seed: Of division, teacher, student and order.
        repeat: The same trial once more, but for the last digits of its start.
        scale: Times the weight of all that the method adds to cross-entropy.
        rate: Learning rate.
    """

    stage: StudyStage
    scenario: str
    student: str
    row: str
    seed: int
    repeat: int
    scale: float
    rate: float

    @property
    def key(self) -> str:
        """Names the trial in the results."""
        return "/".join(map(str, astuple(self)))


class Tuned(NamedTuple):
    """What tuning found for a row."""

    scale: float
    rate: float


def rows_of(study: Study, scenario: str) -> list[str]:
    """Returns the rows that a scenario allows, what matters most first."""
    teacher = study.teachers[scenario]
    other_classes = bool(teacher.merged) or teacher.kind == "imagenet"
    methods = [
        name
        for name in study.methods
        if not (other_classes and name in _OF_THE_SAME_CLASSES)
    ]
    return [*methods, *study.variants]


def noise(study: Study) -> Iterator[StudyTrial]:
    """Yields the same trial again and again, of MoMA and of plain training."""
    scenario, student = next(iter(study.teachers)), next(iter(study.students))
    for repeat in range(study.repeats):
        for row in ("moma", "ce"):
            yield StudyTrial(
                "noise", scenario, student, row, NOISE_SEED, repeat, 1.0, study.rate
            )


def tuning(study: Study) -> Iterator[StudyTrial]:
    """Yields as many trials for each row: of its weight, or else of the rate."""
    student = next(iter(study.students))
    for scenario in study.teachers:
        for row in rows_of(study, scenario):
            for at in grid(study, row):
                yield StudyTrial("tuning", scenario, student, row, TUNING_SEED, 0, *at)


def grid(study: Study, row: str) -> list[Tuned]:
    """Returns what is tried for a row."""
    if row in BY_RATE:
        return [Tuned(1.0, rate) for rate in study.rates]
    variant = study.variants.get(row)
    if variant is not None and variant.changes.keys() >= _WEIGHTS:
        return [Tuned(1.0, study.rate)]  # it has its weights
    return [Tuned(scale, study.rate) for scale in study.scales]


def final(study: Study, tuned: Mapping[str, Tuned]) -> Iterator[StudyTrial]:
    """Yields the table, seed by seed, so that a run that is cut off is balanced."""
    for seed in range(study.seeds):
        for scenario in study.teachers:
            for student in study.students:
                for row in (*rows_of(study, scenario), *REFERENCES):
                    at = tuned.get(row, Tuned(1.0, study.rate))
                    yield StudyTrial("final", scenario, student, row, seed, 0, *at)


def study_fingerprint(study: Study, trial: StudyTrial) -> str:
    """Returns a digest of all that a trial's figures hang on, but where files lie."""
    chosen = study.model_dump(mode="json", exclude=_NO_PART)
    if method_of(trial.row, study) == "moma":  # what ships may change
        chosen["distillation"] = DistillationSettings().model_dump(mode="json")
    variant = study.variants.get(trial.row)
    chosen["variant"] = None if variant is None else variant.model_dump(mode="json")
    for name in ("methods", "rates", "scales"):
        del chosen[name]
    models = [teacher["model"] for teacher in chosen["teachers"].values()]
    for model in (*chosen["students"].values(), *models):
        model["weights_file"] = bool(model["weights_file"])
    text = json.dumps(chosen, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def method_of(row: str, study: Study) -> str:
    """Returns the registry's method of a row."""
    return "moma" if row in study.variants else row


def needs_maps(row: str, study: Study) -> bool:
    """Whether a row's method reads the teacher's feature maps."""
    return need_of(method_of(row, study)) == "maps"

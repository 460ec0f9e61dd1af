"""A site's students on its own labelled patches, after or during a run."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moma_client.config.site import SiteConfig
from moma_client.student.files import WEIGHTS, StudentCard, load_student
from moma_client.student.runs import find_run, find_student, students_of
from moma_core.data.patch import UNSEEN, VALIDATION, PatchSource
from moma_core.data.sources.factory import open_source
from moma_core.errors import ConfigError
from moma_core.evaluation.figures import Evaluation
from moma_core.evaluation.metrics import Evaluator, SplitOutputs
from moma_core.models.backbone import Normalise


@dataclass(frozen=True, slots=True, eq=False)
class StudentEvaluation:
    """What was measured of one student, and on which weights.

    Args:
        weights: File that was read.
        card: Card of the student.
        splits: What was measured, by split.
        outputs: What the student said of the patches, by split.
    """

    weights: Path
    card: StudentCard
    splits: Mapping[str, Evaluation]
    outputs: Mapping[str, SplitOutputs]

    @property
    def folder(self) -> Path:
        """Folder of the student."""
        return self.weights.parent

    def values(self) -> dict[str, float | None]:
        """Returns the figures, named `<split>_<figure>`; None: it has no value."""
        return {
            key: value
            for split, found in self.splits.items()
            for key, value in found.all_values(f"{split}_").items()
        }

    def details(self) -> dict[str, Any]:
        """Returns the rest, for JSON."""
        return {
            "weights": str(self.weights),
            "digest": self.card.digest,
            "steps": self.card.steps,
            "temperature": self.card.temperature,
            "kept": self.card.kept,
            **{split: found.as_json() for split, found in self.splits.items()},
        }

    def lines(self, method: str) -> Iterator[str]:
        """Yields it as a person reads it."""
        yield (
            f"{method}  read {self.weights}, the {self.card.kept} student, after step "
            f"{self.card.steps}, SHA-256 {self.card.digest[:16]}"
        )
        for split, found in self.splits.items():
            yield from (f"{method}  {line}" for line in found.lines(f"{split}_"))
            if found.intervals():
                yield (
                    f"{method}  {split}: intervals by drawing {found.groups} "
                    f"{found.counted}"
                )


def evaluate_students(
    config: SiteConfig, *, run: str | None, method: str | None, split: str | None
) -> dict[str, StudentEvaluation]:
    """Returns what was measured, by method.

    Args:
        config: Settings of this site.
        run: Name of the run, or of its folder; None for the newest.
        method: Name of the method; None for all.
        split: Name of the split; None for validation and unseen.

    Raises:
        ConfigError: There is no such run or student, or its classes differ.
        DataError: Patches cannot be read.
    """
    folder = find_run(config, run)
    methods = [method] if method else students_of(folder) or ["moma"]
    students = {name: find_student(folder, name) for name in methods}
    splits = [split] if split else [VALIDATION, UNSEEN]
    source = open_source(config.data)
    return {
        name: _evaluate(config, student, source, splits)
        for name, student in students.items()
    }


def _evaluate(
    config: SiteConfig, folder: Path, source: PatchSource, splits: list[str]
) -> StudentEvaluation:
    student, card = load_student(folder)
    if source.class_names != card.class_names:
        raise ConfigError(
            f"the student knows the classes {card.class_names}, the data have "
            f"{source.class_names}: evaluate it on data with its own classes"
        )
    evaluator = Evaluator(
        student,
        Normalise(card.mean, card.std),
        card.view_size_px,
        config.task.ordered,
    )
    outputs = {
        split: evaluator.outputs(source, split, stopped=lambda: False)
        for split in splits
    }
    found = {split: each.measure() for split, each in outputs.items()}
    return StudentEvaluation(folder / WEIGHTS, card, found, outputs)

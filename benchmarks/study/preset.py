"""A study as a YAML file: which patches, teachers, students, and for how long."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, model_validator

from moma_core.config import ConfigPath, Section, read_config_file, validated
from moma_core.data.sources.factory import CsvManifestSection, DataSection
from moma_core.distillation.methods.names import METHODS
from moma_core.distillation.settings import DistillationSettings
from moma_core.models.settings import ModelSection

Channels = tuple[float, float, float]


class TeacherPlan(Section):
    """Where a scenario's teacher comes from."""

    kind: Literal["trained", "imagenet", "file"] = Field(
        description="trained: on a share of the training centre; imagenet: knows none "
        "of it; file: somebody else's."
    )
    model: ModelSection = Field(description="Its network.")
    steps: int = Field(default=400, ge=1, description="trained: of its training.")
    rate: float = Field(default=0.02, gt=0, le=10, description="trained: its rate.")
    merged: Mapping[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="trained: the coarser classes that it knows, each with ours.",
    )
    class_names: tuple[str, ...] = Field(
        default=(), description="file: the classes of its logits, in order."
    )
    mean: Channels | None = Field(
        default=None, description="file: of its pixels in [0, 1]; null: timm's."
    )
    std: Channels | None = Field(default=None, description="file: likewise.")

    @model_validator(mode="after")
    def _file_is_named(self) -> Self:
        if self.kind == "file" and not (self.model.weights_file and self.class_names):
            raise ValueError("kind: file needs model.weights_file and class_names")
        return self


class Variant(Section):
    """A row of the table that is MoMA with other settings."""

    changes: Mapping[str, Any] = Field(description="To `distillation`.")
    course: Mapping[str, float] = Field(
        default_factory=dict, description="To the course: ema_decay, mixup."
    )


class Hours(Section):
    """What a whole study takes; an estimate, and not a measurement."""

    gpu: float = Field(gt=0, description="One GPU.")
    cores: float | None = Field(default=None, gt=0, description="Two cores.")


class Study(Section):
    """One study."""

    name: str = Field(pattern=r"[a-z0-9-]+", description="Of its results' file.")
    about: str = Field(description="Where its numbers come from.")
    data: DataSection = Field(description="The patches, as in site.yaml.")
    is_ordered: bool = Field(default=False, description="Whether classes are grades.")
    division: Literal["groups", "patches"] = Field(
        default="groups",
        description="How teacher, site and validation part the training centre: by "
        "patient or slide; or by patch, where a class has too few of those. Where no "
        "teacher is trained, its part is the others'.",
    )
    size_px: int = Field(ge=16, le=1024, description="Side of the views.")
    students: Mapping[str, ModelSection] = Field(
        min_length=1, description="Networks by name."
    )
    teachers: Mapping[str, TeacherPlan] = Field(
        min_length=1, description="Teachers by the scenario's name."
    )
    methods: tuple[str, ...] = Field(
        default=("moma", "ce", "kd", "hint", "ft"), description="Of the registry."
    )
    variants: Mapping[str, Variant] = Field(
        default_factory=dict, description="Further rows by name."
    )
    labels: int = Field(ge=1, description="Labelled patches of the site.")
    unlabelled: int = Field(ge=0, description="Unlabelled ones at most.")
    batch_size: int = Field(default=32, ge=2, le=4096, description="Patches a step.")
    steps: int = Field(ge=1, description="Of each student.")
    rate: float = Field(default=0.02, gt=0, le=10, description="Learning rate.")
    rates: tuple[float, ...] = Field(
        default=(0.005, 0.01, 0.02, 0.05),
        min_length=1,
        description="Tried for methods without a weight.",
    )
    scales: tuple[float, ...] = Field(
        default=(0.1, 0.3, 1.0, 3.0), min_length=1, description="Tried for the others."
    )
    views: int = Field(default=8, ge=1, description="Of a patch that a teacher sees.")
    evaluations: int = Field(
        default=1, ge=1, le=20, description="A figure is the mean of so many, the last."
    )
    seeds: int = Field(default=10, ge=1, description="Of the final table.")
    repeats: int = Field(default=4, ge=2, description="Of a trial, to measure noise.")
    expected_hours: Hours = Field(description="Of all stages.")

    @model_validator(mode="after")
    def _rows_are_known(self) -> Self:
        for name in self.methods:
            if name not in METHODS:
                raise ValueError(f"there is no method {name!r}, only {METHODS}")
        for name, variant in self.variants.items():
            if name in METHODS:
                raise ValueError(f"the variant {name!r} has the name of a method")
            DistillationSettings(**variant.changes)
        return self


def read_study(path: Path) -> Study:
    """Reads a study.

    Raises:
        ConfigError: It is missing, or breaks a rule.
    """
    values = read_config_file(path, yaml.safe_load, yaml.compose)
    return validated(Study, values, path)


def with_manifest(study: Study, manifest: Path, root: ConfigPath | None) -> Study:
    """Returns a study of other patches."""
    section = CsvManifestSection(
        kind="csv_manifest", path=manifest, root=root, cache="ram"
    )
    return study.model_copy(update={"data": section})

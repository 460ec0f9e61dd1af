"""The site's configuration file, `config.yaml`, and the only reader of YAML here."""

from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import ConfigDict, Field, model_validator

from moma_client.config.coordinator import SiteCoordinatorSection
from moma_client.config.teacher import TeacherSection
from moma_client.config.teacher_rules import check_alone, check_several
from moma_core.config import (
    ConfigPath,
    Section,
    read_config_file,
    validated,
)
from moma_core.dashboard.config import DashboardSection
from moma_core.data.augment.recipe import RecipeName
from moma_core.data.patch import MOST_CLASSES
from moma_core.data.sources.factory import DataSection
from moma_core.distillation.methods.names import BaselineName
from moma_core.distillation.methods.settings import BaselineSettings
from moma_core.distillation.settings import DistillationSettings
from moma_core.federation.disclosure import (
    COUNT_STEP,
    FigurePolicy,
    UnknownPatients,
    figure_name,
)
from moma_core.federation.task import METRIC_PATTERN
from moma_core.metrics_http.config import PageSection
from moma_core.models.settings import ModelSection
from moma_core.network.proxy import NetworkSection
from moma_core.pki.identity import FEDERATION_PATTERN, NAME_PATTERN
from moma_core.training.settings import TrainingSettings

_MOST_TEACHERS = 8
_NOBODY: Any = None

PUBLIC_SETS = frozenset({"embedded", "medmnist", "preset"})
"""Kinds of data that tell of nobody that a site must protect."""


class SiteIdentitySection(Section):
    """The site's own keys and certificates; made by `moma-client init`."""

    certificate: ConfigPath = Field(
        description="The site's certificate, signed by the federation's CA."
    )
    key: ConfigPath = Field(
        description="Private key of the certificate; made here, never leaves."
    )
    authority: ConfigPath = Field(description="The federation's CA certificate.")
    node_key: ConfigPath = Field(
        description="Private key for the rounds; made here, never leaves."
    )
    signing_key: ConfigPath = Field(
        description="Private key that signs every query; made here, never leaves."
    )
    passphrase_file: ConfigPath | None = Field(
        default=None,
        description="File with the passphrase of these keys; null: no passphrase.",
    )


class TaskSection(Section):
    """What the site trains for; with the teacher card it decides the scenario."""

    organ: str = Field(min_length=1, description="The tissue's organ, such as colon.")
    task: str = Field(
        min_length=1, description="What is classified, such as tissue types."
    )
    classes: dict[str, str] = Field(
        default_factory=dict,
        max_length=MOST_CLASSES,
        description="Site's name of a class: the teacher's, where they differ by more "
        "than case, blanks and hyphens.",
    )
    ordered: bool = Field(
        default=False,
        description="true: the classes are grades in the order of data.class_names; "
        "kappa then has quadratic weights.",
    )


class MetricsSection(PageSection):
    """Prometheus, for the site alone."""

    port: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="TCP port of the page; 0: none is opened.",
    )


class EgressSection(Section):
    """Which figures of a round may be disclosed to the coordinator."""

    metrics: tuple[Annotated[str, Field(pattern=METRIC_PATTERN)], ...] = Field(
        default=(
            "validation_accuracy",
            "validation_macro_f1",
            "unseen_accuracy",
            "unseen_macro_f1",
        ),
        description="Keys of the figures that may leave; a baseline's are prefixed, "
        "for example ce_.",
    )
    decimals: int = Field(
        default=3, ge=1, le=6, description="To so many decimals figures are rounded."
    )
    min_patients: int = Field(
        default=10, ge=1, description="With fewer, no figure on them is disclosed."
    )
    min_class_patients: int = Field(
        default=5, ge=1, description="With fewer, no figure on that class is disclosed."
    )
    unknown_patients: UnknownPatients | None = Field(
        default=None,
        description="Patches that name neither patient nor slide count as one patient, "
        "or as one each; null: each in embedded, medmnist and preset, else one.",
    )
    max_patches_told: int = Field(
        default=1_000_000,
        ge=COUNT_STEP,
        description="A larger count of patches is reported as this one.",
    )

    @model_validator(mode="after")
    def _figures_are_known(self) -> Self:
        unknown = [key for key in self.metrics if figure_name(key) is None]
        if unknown:
            raise ValueError(
                f"metrics: {unknown[0]!r} is no figure, write "
                f"[<baseline>_]<validation|unseen>_<accuracy, macro_f1, "
                f"kappa_quadratic, kappa_unweighted, auroc, ece or recall_<class>>"
            )
        return self

    def figure_policy(self) -> FigurePolicy:
        """Returns what figures must pass."""
        return FigurePolicy(
            allowed=frozenset(self.metrics),
            decimals=self.decimals,
            min_patients=self.min_patients,
            min_class_patients=self.min_class_patients,
        )

    def counted_as(self, data: DataSection) -> UnknownPatients:
        """Returns how patches count of which nobody knows the patient.

        Public sets name none, and tell of nobody that a site must protect.
        """
        public: UnknownPatients = "each" if data.kind in PUBLIC_SETS else "one"
        return self.unknown_patients or public


class SiteConfig(Section):
    """One hospital's side of the federation."""

    foreign_keys = dict.fromkeys(
        ("epochs", "rounds", "local_epochs", "local_steps"),
        "the coordinator's plan decides it (rounds, local_epochs, local_steps); a site "
        "sets the most that it trains (coordinator.max_epochs_per_round, "
        "coordinator.max_epochs_per_run)",
    )

    site: str = Field(pattern=NAME_PATTERN, description="Name of this site.")
    federation: str = Field(
        pattern=FEDERATION_PATTERN, description="Name of the federation."
    )
    state_dir: ConfigPath = Field(
        description="Folder of checkpoints, students, receipts and the teacher cache."
    )
    identity: SiteIdentitySection
    coordinator: SiteCoordinatorSection
    # Nobody beside `teachers`, and never else: code for one teacher takes it from a
    # config of `each_teacher`.
    teacher: TeacherSection = Field(
        default=_NOBODY,
        description="The site's teacher; where it has several: teachers.",
    )
    teachers: tuple[TeacherSection, ...] = Field(
        default=(),
        max_length=_MOST_TEACHERS,
        description="Several teachers in the place of `teacher`, each with its own "
        "budget, key, terms and weight.",
    )
    task: TaskSection
    data: DataSection
    views: RecipeName = Field(
        default="tissue",
        description="How patches are augmented; tissue_strong: the student's own copy "
        "more; geometry_only where labels are colour.",
    )
    view_size_px: int = Field(
        default=224, ge=16, le=1024, description="Side of the student's input."
    )
    student: ModelSection = ModelSection()
    baselines: tuple[BaselineName, ...] = Field(
        default=(),
        description="Methods trained beside moma, with the same steps and schedule.",
    )
    baseline_settings: BaselineSettings = BaselineSettings()
    distillation: DistillationSettings = DistillationSettings()
    training: TrainingSettings = TrainingSettings()
    egress: EgressSection = EgressSection()
    metrics: MetricsSection = MetricsSection()
    dashboard: DashboardSection | None = Field(
        default=None, description="Page on this site's own run; null: there is none."
    )
    network: NetworkSection = NetworkSection()

    @model_validator(mode="after")
    def _one_teacher_at_least(self) -> Self:
        if self.teachers and self.teacher is not None:
            raise ValueError("name the site's one teacher or its teachers, not both")
        if not self.teachers and self.teacher is None:
            raise ValueError("the key teacher is missing: who is the site's teacher?")
        if len(self.teachers) == 1:
            alone = {"teacher": self.teachers[0], "teachers": ()}
            return self.model_copy(update=alone)
        return self

    @model_validator(mode="after")
    def _batches_fit_the_bank(self) -> Self:
        if self.training.batch_size > self.distillation.bank_size:
            raise ValueError(
                f"training.batch_size {self.training.batch_size} does not fit "
                f"distillation.bank_size {self.distillation.bank_size}"
            )
        return self

    @model_validator(mode="after")
    def _the_site_is_no_partner_of_itself(self) -> Self:
        masked = self.coordinator.masked_weights
        if masked is not None and self.site in masked.partners:
            raise ValueError(
                f"coordinator.masked_weights.partners names {self.site}, which is this "
                f"site: list the others"
            )
        return self

    @model_validator(mode="after")
    def _ordered_classes_are_named(self) -> Self:
        if self.task.ordered and getattr(self.data, "class_names", ()) is None:
            named = getattr(self.data, "name", None)
            if named is None:
                raise ValueError(
                    "task.ordered: true needs data.class_names, from the lowest to the "
                    "highest: without it the classes are sorted by their names"
                )
        return self

    @model_validator(mode="after")
    def _teachers_fit_the_rest(self) -> Self:
        methods, devices = self.baselines, self.training.devices
        if self.teachers:
            check_several(self.teachers, methods, devices)
        else:
            check_alone(self.teacher, methods, devices)
        return self

    @property
    def each_teacher(self) -> tuple["SiteConfig", ...]:
        """This config once for each teacher, as if it were the site's only one."""
        if not self.teachers:
            return (self,)
        # Whether a run asks none of them hangs on all, and on no one alone.
        distillation = self.distillation.model_copy(update={"fallback": "none"})
        changes = {"teachers": (), "distillation": distillation}
        return tuple(
            self.model_copy(update={"teacher": section, **changes})
            for section in self.teachers
        )

    @property
    def renamed_classes(self) -> dict[str, str]:
        """The site's name of a class: that of its one teacher."""
        own = self.teacher.classes
        return self.task.classes if own is None else own

    @property
    def kept_views(self) -> int:
        """Views of each patch whose outputs are kept, V; 0: no teacher's are."""
        sections = self.teachers or (self.teacher,)
        return max(each.views if each.caches else 0 for each in sections)

    @classmethod
    def from_yaml(cls, path: Path) -> Self:
        """Reads and checks a config file.

        Raises:
            ConfigError: The file is missing, not YAML, or breaks a rule; the message
                has one line for each broken rule.
        """
        return validated(cls, _read_yaml(path), path)


class SiteIdentity(Section):
    """What enrolment needs of `config.yaml`; the rest may still be unfinished."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    site: str = Field(pattern=NAME_PATTERN)
    federation: str = Field(pattern=FEDERATION_PATTERN)
    identity: SiteIdentitySection
    coordinator: SiteCoordinatorSection
    network: NetworkSection = NetworkSection()

    @classmethod
    def from_yaml(cls, path: Path) -> Self:
        """Reads and checks these keys; errors as in `SiteConfig.from_yaml`."""
        return validated(cls, _read_yaml(path), path)


def _read_yaml(path: Path) -> object:
    return read_config_file(path, yaml.safe_load, yaml.compose)

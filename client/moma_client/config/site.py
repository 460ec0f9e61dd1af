"""The site's configuration file, `config.yaml`, and the only reader of YAML here."""

from pathlib import Path
from typing import Self

import yaml
from pydantic import ConfigDict, Field, model_validator

from moma_client.config.egress import EgressSection
from moma_client.config.teacher import ADDRESS, TeacherSection
from moma_core.config import ConfigPath, Section, unreadable, validated
from moma_core.data.augment.recipe import RecipeName
from moma_core.data.sources.factory import DataSection
from moma_core.distillation.methods.names import BaselineName, check_allowed
from moma_core.distillation.methods.settings import BaselineSettings
from moma_core.distillation.settings import DistillationSettings
from moma_core.errors import ConfigError
from moma_core.metrics_http.config import PageSection
from moma_core.models.settings import ModelSection
from moma_core.pki.crl_client import RevocationsSection
from moma_core.pki.names import FEDERATION_PATTERN, NAME_PATTERN
from moma_core.training.settings import TrainingSettings


class SiteIdentitySection(Section):
    """The site's own keys and certificates; made by `moma-client init`."""

    certificate: ConfigPath = Field(description="Signed by the federation's authority.")
    key: ConfigPath = Field(description="Made here, never leaves.")
    authority: ConfigPath = Field(description="The federation's CA certificate.")
    node_key: ConfigPath = Field(description="For the rounds; made here.")
    signing_key: ConfigPath = Field(description="Signs every query; made here.")
    passphrase_file: ConfigPath | None = Field(
        default=None, description="With which these keys are encrypted."
    )


class SiteCoordinatorSection(RevocationsSection):
    """Where the rounds come from, and what this site lets them ask."""

    address: str = Field(pattern=ADDRESS, description="host:port of moma-server.")
    enrolment: str | None = Field(
        default=None,
        pattern=ADDRESS,
        description="host:port for enrolment, renewals and revocations; None: by hand.",
    )
    max_epochs_per_round: int = Field(default=50, ge=1, description="More is refused.")
    max_epochs_per_run: int = Field(default=500, ge=1, description="More is refused.")
    max_runs: int = Field(
        default=20, ge=1, description="In this state_dir; each asks the teacher anew."
    )
    max_rounds_per_run: int = Field(default=500, ge=1, description="More is refused.")
    max_evaluations_per_run: int = Field(
        default=1000, ge=1, description="Reports with figures, repeated rounds too."
    )
    weights_may_leave: bool = Field(
        default=False, description="fedavg sends the student's weights each round."
    )


class TaskSection(Section):
    """What the site trains for; with the teacher card it decides the scenario."""

    organ: str = Field(min_length=1, description="For example colon.")
    task: str = Field(min_length=1, description="For example tissue types.")


class MetricsSection(PageSection):
    """Prometheus, for the site alone."""

    port: int = Field(default=0, ge=0, le=65535, description="0: none is opened.")


class SiteConfig(Section):
    """One hospital's side of the federation."""

    site: str = Field(pattern=NAME_PATTERN)
    federation: str = Field(pattern=FEDERATION_PATTERN)
    state_dir: ConfigPath = Field(description="Checkpoints, students, results.")
    identity: SiteIdentitySection
    coordinator: SiteCoordinatorSection
    teacher: TeacherSection
    task: TaskSection
    data: DataSection
    views: RecipeName = Field(
        default="tissue", description="geometry_only where labels are colour."
    )
    view_size_px: int = Field(
        default=224, ge=16, le=1024, description="Of the student."
    )
    student: ModelSection = ModelSection()
    baselines: tuple[BaselineName, ...] = Field(
        default=(), description="Trained beside, with the same steps and schedule."
    )
    baseline_settings: BaselineSettings = BaselineSettings()
    distillation: DistillationSettings = DistillationSettings()
    training: TrainingSettings = TrainingSettings()
    egress: EgressSection = EgressSection()
    metrics: MetricsSection = MetricsSection()

    @model_validator(mode="after")
    def _batches_fit_the_bank(self) -> Self:
        if self.training.batch_size > self.distillation.bank_size:
            raise ValueError(
                f"training.batch_size {self.training.batch_size} does not fit "
                f"distillation.bank_size {self.distillation.bank_size}"
            )
        return self

    @model_validator(mode="after")
    def _one_copy_follows_one_device(self) -> Self:
        if self.teacher.mode == "momentum" and self.training.devices > 1:
            raise ValueError(
                f"teacher.mode 'momentum' trains on one device, not on "
                f"training.devices {self.training.devices}"
            )
        return self

    @model_validator(mode="after")
    def _the_teacher_allows_the_baselines(self) -> Self:
        try:
            for method in self.baselines:
                check_allowed(method, teacher_is_local=self.teacher.mode == "local")
        except ConfigError as error:
            raise ValueError(f"baselines: {error}") from error
        return self

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

    @classmethod
    def from_yaml(cls, path: Path) -> Self:
        """Reads and checks these keys; errors as in `SiteConfig.from_yaml`."""
        return validated(cls, _read_yaml(path), path)


def _read_yaml(path: Path) -> object:
    try:
        return yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise unreadable(path, error) from error

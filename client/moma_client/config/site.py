"""The site's configuration file, `config.yaml`, and the only reader of YAML here."""

from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import ConfigDict, Field, model_validator

from moma_client.config.egress import EgressSection
from moma_core.config import ConfigPath, Section, unreadable, validated
from moma_core.data.augment.recipe import RecipeName
from moma_core.data.sources.factory import DataSection
from moma_core.data.view_mask import MOST_VIEWS
from moma_core.distill.methods.names import BaselineName, check_allowed
from moma_core.distill.methods.settings import BaselineSettings
from moma_core.distill.settings import DistillationSettings
from moma_core.end_to_end.hpke import SuiteName
from moma_core.end_to_end.signatures import FINGERPRINT_PATTERN
from moma_core.errors import ConfigError
from moma_core.metrics_http.config import PageSection
from moma_core.models.settings import BatchNorm, ModelSection, Schedule
from moma_core.pki.crl_client import RevocationsSection
from moma_core.pki.names import FEDERATION_PATTERN, NAME_PATTERN
from moma_core.teacher.cache.header import Precision
from moma_core.teacher.pixel_encoding import ENCODING_PATTERN
from moma_core.training.settings import TrainingSettings

ADDRESS = r"^[A-Za-z0-9._-]+:[0-9]{1,5}$"
TERMS_PATTERN = r"^[0-9a-f]{64}$"


class IdentitySection(Section):
    """The site's own keys and certificates; made by `moma-client init`."""

    certificate: ConfigPath = Field(description="Signed by the federation's authority.")
    key: ConfigPath = Field(description="Made here, never leaves.")
    authority: ConfigPath = Field(description="The federation's CA certificate.")
    node_key: ConfigPath = Field(description="For the rounds; made here.")
    signing_key: ConfigPath = Field(description="Signs every query; made here.")
    passphrase_file: ConfigPath | None = Field(
        default=None, description="With which these keys are encrypted."
    )


class CoordinatorSection(RevocationsSection):
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


class RemoteTeacherSection(Section):
    """A teacher at another institution."""

    name: str = Field(
        pattern=NAME_PATTERN, description="As in its certificate and card."
    )
    address: str = Field(pattern=ADDRESS, description="host:port of its service.")
    key: str = Field(
        pattern=FINGERPRINT_PATTERN,
        description="Its fingerprint, as `moma-server teacher key` prints it there.",
    )
    former_keys: tuple[Annotated[str, Field(pattern=FINGERPRINT_PATTERN)], ...] = Field(
        default=(), description="That were pinned before it: of older receipts."
    )
    sealing: SuiteName = Field(
        default="mlkem768-x25519", description="The weakest suite that is accepted."
    )
    accepted_terms: str | None = Field(
        default=None, pattern=TERMS_PATTERN, description="`doctor` shows the digest."
    )
    via: Literal["coordinator"] | None = Field(
        default=None, description="Whose relay the address is; None: the teacher's own."
    )
    in_flight: int = Field(default=8, ge=1, le=64, description="Batches read ahead.")
    answer_deadline_seconds: float = Field(default=60, gt=0, le=3600)
    encoding: str = Field(
        default="raw",
        pattern=ENCODING_PATTERN,
        description="Of patches: raw, png, webp, or jpeg:1 to jpeg:100, which loses.",
    )


class FrozenTeacherSection(RemoteTeacherSection):
    """It answers, and never moves: what it answered can be kept."""

    mode: Literal["frozen"]
    views: int = Field(
        default=4, ge=0, le=MOST_VIEWS, description="Of a patch; 0: a query a step."
    )
    bank_precision: Precision = Field(
        default="float16", description="In which answers are kept."
    )
    bank_key_file: ConfigPath | None = Field(
        default=None, description="32 bytes; encrypts the answers that are kept."
    )


class MomentumTeacherSection(RemoteTeacherSection):
    """It keeps a copy for this site, which follows the student: for moma alone.

    Baselines ask the teacher as it is.
    """

    mode: Literal["momentum"]
    weights_may_leave: bool = Field(
        default=False,
        description="The mean of the student's weights goes to the teacher.",
    )
    sync_every_steps: int = Field(
        default=1, ge=1, le=100_000, description="1: as published; S: once in S steps."
    )
    schedule: Schedule = Field(
        default="published", description="single_pass: logits after the move, too."
    )
    batch_norm: BatchNorm = Field(
        default="moving", description="adapt: by each batch's own statistics."
    )
    sync_deadline_seconds: float = Field(
        default=120, gt=0, le=3600, description="For the weights to arrive."
    )

    @model_validator(mode="after")
    def _weights_may_leave(self) -> Self:
        if not self.weights_may_leave:
            raise ValueError(
                "mode 'momentum' sends the student's weights to the teacher: say "
                "weights_may_leave: true, or choose mode 'frozen'"
            )
        return self


class LocalTeacherSection(Section):
    """A teacher whose weights lie on this site's own disk."""

    mode: Literal["local"]
    card: ConfigPath = Field(description="Its card.json.")
    weights_file: ConfigPath = Field(description="Its weights, safetensors.")
    key: str | None = Field(
        default=None,
        pattern=FINGERPRINT_PATTERN,
        description="Its fingerprint: the card must be signed with it.",
    )
    accepted_terms: str | None = Field(
        default=None, pattern=TERMS_PATTERN, description="`doctor` shows the digest."
    )
    schedule: Literal["published", "single_pass", "frozen"] = Field(
        default="published", description="Of moma; baselines learn from a frozen one."
    )
    batch_norm: BatchNorm = Field(
        default="moving", description="adapt: by each batch's own statistics."
    )

    @model_validator(mode="after")
    def _frozen_is_frozen(self) -> Self:
        if self.schedule == "frozen" and self.batch_norm != "moving":
            raise ValueError(
                f"batch_norm {self.batch_norm!r} is for a teacher that moves, "
                f"schedule 'frozen' has none"
            )
        return self


TeacherSection = Annotated[
    FrozenTeacherSection | MomentumTeacherSection | LocalTeacherSection,
    Field(discriminator="mode"),
]


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
    identity: IdentitySection
    coordinator: CoordinatorSection
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
    identity: IdentitySection
    coordinator: CoordinatorSection

    @classmethod
    def from_yaml(cls, path: Path) -> Self:
        """Reads and checks these keys; errors as in `SiteConfig.from_yaml`."""
        return validated(cls, _read_yaml(path), path)


def _read_yaml(path: Path) -> object:
    try:
        return yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise unreadable(path, error) from error

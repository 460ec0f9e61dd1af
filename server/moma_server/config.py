"""The server's files, `server.yaml` and `teacher.yaml`; the only user of YAML here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, model_validator

from moma_core.config import ConfigPath, Section, validated
from moma_core.data.open import DataSection
from moma_core.data.view_recipe import RecipeName
from moma_core.errors import ConfigError
from moma_core.models.model_section import ModelSection
from moma_core.training.settings import TrainingSettings
from moma_core.trust.names import FEDERATION_PATTERN, NAME_PATTERN
from moma_core.trust.sealing import SUITES, SuiteName
from moma_server.federation.plan import RunPlan

Role = Literal["coordinator", "teacher"]


class ListenSection(Section):
    """An address to listen at; loopback unless the file says otherwise."""

    host: str = "127.0.0.1"
    port: int = Field(ge=0, le=65535)


class IdentitySection(Section):
    """A role's certificate and key."""

    certificate: ConfigPath
    key: ConfigPath


class AuthoritySection(Section):
    """The federation's CA; the key only where the coordinator signs."""

    certificate: ConfigPath
    key: ConfigPath | None = None
    revoked: ConfigPath = Field(description="JSON list; bites at the next call.")


class CoordinatorSection(Section):
    """The rounds of the federation."""

    identity: IdentitySection
    listen: ListenSection = ListenSection(port=8443)
    run: str = Field(
        default="run-1", pattern=NAME_PATTERN, description="A new name: a new run."
    )
    plan: RunPlan


class BudgetSection(Section):
    """What each site may ask over the life of the agreement."""

    default_patches: int = Field(default=0, ge=0, description="0: nobody unnamed.")
    sites: dict[str, int] = Field(default_factory=dict)


class TeacherLimits(Section):
    """Bounds on what a caller can make the teacher hold or do."""

    max_patches_per_request: int = Field(default=256, ge=1, le=4096)
    max_batch_patches: int = Field(default=256, ge=1, le=4096)
    max_queued_requests: int = Field(default=256, ge=1)
    max_queued_requests_per_site: int = Field(default=32, ge=1)
    max_queued_bytes: int = Field(default=2**30, ge=2**20)
    max_queued_bytes_per_site: int = Field(default=2**28, ge=2**20)


class MomentumSection(Section):
    """Copies of the teacher that follow a site's student.

    This is close to handing out the weights: a site that chooses what it syncs can
    read them out of the answers.
    """

    enabled: bool = Field(default=False, description="Off unless the owner says so.")
    lowest_decay: float = Field(
        default=0.99,
        ge=0,
        le=1,
        description="Of one step; a site says how many: this alone bounds nothing.",
    )
    most_distance: float = Field(
        default=10,
        gt=0,
        description="Of a synced mean from the teacher's weights, over their norm.",
    )
    syncs_per_minute: float = Field(
        default=120, gt=0, le=60_000, description="Of one site; opening counts as one."
    )
    sessions_per_site: int = Field(
        default=2,
        ge=1,
        le=1000,
        description="Open at once; one that is unused for a minute makes way.",
    )
    sessions: int = Field(default=8, ge=1, le=1000, description="Open at once, of all.")
    max_bytes: int = Field(
        default=2**33, ge=1, description="Of all; a session counts as two models."
    )
    idle_seconds: float = Field(
        default=900, gt=0, description="Unused for so long, a session ends."
    )
    age_seconds: float = Field(
        default=86_400, gt=0, description="After which any session ends."
    )


class SealingSection(Section):
    """How questions are sealed to the teacher; its keys rotate by themselves."""

    suites: tuple[SuiteName, ...] = Field(
        default=SUITES, min_length=1, description="Offered; a site takes the strongest."
    )


class TeacherSection(Section):
    """A teacher and what it grants."""

    name: str = Field(pattern=NAME_PATTERN)
    identity: IdentitySection
    signing_key: ConfigPath = Field(description="Signs card and answers.")
    listen: ListenSection = ListenSection(port=8444)
    card: ConfigPath
    weights_file: ConfigPath
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = Field(default=None, ge=1, le=1024)
    sealing: SealingSection = SealingSection()
    budget: BudgetSection = BudgetSection()
    limits: TeacherLimits = TeacherLimits()
    momentum: MomentumSection = MomentumSection()


class ServerConfig(Section):
    """`server.yaml`: one institution's server, with one role or both."""

    federation: str = Field(pattern=FEDERATION_PATTERN)
    state_dir: ConfigPath
    authority: AuthoritySection
    coordinator: CoordinatorSection | None = None
    teacher: TeacherSection | None = None
    metrics: ListenSection = ListenSection(port=9464)

    @model_validator(mode="after")
    def _has_a_role(self) -> Self:
        if self.coordinator is None and self.teacher is None:
            raise ValueError("name a coordinator, a teacher, or both")
        return self

    @classmethod
    def from_yaml(cls, path: Path) -> Self:
        """Reads and checks a config file.

        Raises:
            ConfigError: The file is missing, not YAML, or breaks a rule; the message
                has one line for each broken rule.
        """
        return validated(cls, read_yaml(path), path)


class TeacherRecipe(Section):
    """`teacher.yaml`: how `moma-server teacher train` makes a teacher."""

    name: str = Field(pattern=NAME_PATTERN)
    organ: str = Field(min_length=1)
    task: str = Field(min_length=1)
    data: DataSection
    views: RecipeName = "tissue"
    view_size_px: int = Field(default=224, ge=16, le=1024)
    model: ModelSection = ModelSection()
    epochs: int = Field(default=20, ge=1, le=10_000)
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="With which it will answer; stands on its card."
    )
    training: TrainingSettings = TrainingSettings()

    @model_validator(mode="after")
    def _one_device(self) -> Self:
        if self.training.devices != 1:
            raise ValueError("training.devices: a teacher is trained on one device")
        return self

    @classmethod
    def from_yaml(cls, path: Path) -> Self:
        """Reads and checks a recipe; errors as in `ServerConfig.from_yaml`."""
        return validated(cls, read_yaml(path), path)


def read_yaml(path: Path) -> object:
    """Returns what a YAML file holds.

    Raises:
        ConfigError: The file is missing or not YAML.
    """
    try:
        return yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error


def write_yaml(path: Path, values: Mapping[str, Any], *, comment: str = "") -> None:
    """Writes a config file, keys in their order, under a comment."""
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    path.write_text(head + yaml.safe_dump(dict(values), sort_keys=False), "utf-8")

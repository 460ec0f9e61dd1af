"""The server's files, `server.yaml` and `teacher.yaml`; the only user of YAML here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, model_validator

from moma_core.config import ConfigPath, Section, unreadable, validated
from moma_core.end_to_end.hpke import SUITES, SuiteName
from moma_core.errors import ConfigError
from moma_core.metrics_http.config import PageSection
from moma_core.pki.crl_client import RevocationsSection
from moma_core.pki.identity import FEDERATION_PATTERN, NAME_PATTERN
from moma_server.config.federation_plan import FederationPlan
from moma_server.config.teacher_policy import (
    BudgetSection,
    MomentumSection,
    PolicySection,
    TeacherLimits,
)

ADDRESS = r"^[A-Za-z0-9._-]+:[0-9]{1,5}$"

Role = Literal["coordinator", "teacher"]


class ListenSection(Section):
    """An address to listen at; loopback unless the file says otherwise."""

    host: str = "127.0.0.1"
    port: int = Field(ge=0, le=65535)


class IdentitySection(Section):
    """A role's certificate and key."""

    certificate: ConfigPath
    key: ConfigPath
    passphrase_file: ConfigPath | None = Field(
        default=None, description="With which the role's keys are encrypted."
    )


class AuthoritySection(RevocationsSection):
    """The federation's CA; the key only where the coordinator signs."""

    certificate: ConfigPath
    key: ConfigPath | None = None
    passphrase_file: ConfigPath | None = Field(
        default=None, description="With which the CA's key is encrypted."
    )
    revoked: ConfigPath = Field(description="JSON list; bites at the next call.")
    enrolment: str | None = Field(
        default=None,
        pattern=ADDRESS,
        description="host:port of the coordinator: renewals and revocations.",
    )


class EnrolmentSection(Section):
    """Where new members enrol, and all renew; server TLS, no client certificate."""

    listen: ListenSection = ListenSection(port=8445)
    tries_per_minute: float = Field(
        default=30, gt=0, le=6000, description="Of one address; of all, ten times that."
    )


class RelaySection(Section):
    """Where teachers that cannot open a port dial in, and sites ask them."""

    listen: ListenSection = ListenSection(port=8446)


class CoordinatorSection(Section):
    """The rounds of the federation."""

    identity: IdentitySection
    listen: ListenSection = ListenSection(port=8443)
    enrolment: EnrolmentSection | None = Field(
        default=None, description="None: members are admitted by hand."
    )
    certificate_hours: float = Field(
        default=720,
        gt=0,
        le=2160,
        description="Of a certificate's life; renewed at two thirds.",
    )
    relay: RelaySection | None = Field(
        default=None, description="None: teachers have ports of their own."
    )
    run: str = Field(
        default="run-1", pattern=NAME_PATTERN, description="A new name: a new run."
    )
    plan: FederationPlan


class RelayedSection(Section):
    """A teacher that dials out to the coordinator, and is served through it."""

    coordinator: str = Field(pattern=ADDRESS, description="host:port of its relay.")


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
    listen: ListenSection | None = Field(
        default=ListenSection(port=8444), description="None: no port is opened."
    )
    relay: RelayedSection | None = Field(
        default=None, description="None: sites reach its own port."
    )
    card: ConfigPath
    weights_file: ConfigPath
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = Field(default=None, ge=1, le=1024)
    sealing: SealingSection = SealingSection()
    budget: BudgetSection = BudgetSection()
    policy: PolicySection = PolicySection()
    limits: TeacherLimits = TeacherLimits()
    database: str | None = Field(
        default=None,
        pattern=r"^(sqlite|postgresql)",
        description="SQLAlchemy URL of budget and log; a file in state_dir if not set.",
    )
    checkpoint_seconds: float = Field(
        default=60, gt=0, le=86_400, description="The log is signed anew so often."
    )
    abandoned_after_seconds: float = Field(
        default=600,
        ge=1,
        le=86_400,
        description="A charge that nobody settled for so long is written off.",
    )
    momentum: MomentumSection = MomentumSection()

    @model_validator(mode="after")
    def _can_be_reached(self) -> Self:
        if self.listen is None and self.relay is None:
            raise ValueError("name listen, relay, or both: nobody could ask it")
        return self


class ServerConfig(Section):
    """`server.yaml`: one institution's server, with one role or both."""

    federation: str = Field(pattern=FEDERATION_PATTERN)
    state_dir: ConfigPath
    authority: AuthoritySection
    coordinator: CoordinatorSection | None = None
    teacher: TeacherSection | None = None
    metrics: PageSection = PageSection(port=9464)

    @model_validator(mode="after")
    def _has_a_role(self) -> Self:
        if self.coordinator is None and self.teacher is None:
            raise ValueError("name a coordinator, a teacher, or both")
        return self

    def own_teacher(self) -> TeacherSection:
        """Returns the teacher's section.

        Raises:
            ConfigError: This server has no such role.
        """
        if self.teacher is None:
            raise ConfigError("the config has no section teacher")
        return self.teacher

    @classmethod
    def from_yaml(cls, path: Path) -> Self:
        """Reads and checks a config file.

        Raises:
            ConfigError: The file is missing, not YAML, or breaks a rule; the message
                has one line for each broken rule.
        """
        return validated(cls, read_yaml(path), path)


def read_yaml(path: Path) -> object:
    """Returns what a YAML file holds.

    Raises:
        ConfigError: The file is missing or not YAML.
    """
    try:
        return yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise unreadable(path, error) from error


def write_yaml(path: Path, values: Mapping[str, Any], *, comment: str = "") -> None:
    """Writes a config file, keys in their order, under a comment."""
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    path.write_text(head + yaml.safe_dump(dict(values), sort_keys=False), "utf-8")

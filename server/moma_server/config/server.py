"""The server's files, `server.yaml` and `teacher.yaml`; the only user of YAML here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, Field, model_validator

from moma_core.config import ConfigPath, Section, read_config_file, validated
from moma_core.dashboard.config import DashboardSection
from moma_core.end_to_end.hpke import SUITES, SuiteName
from moma_core.errors import ConfigError
from moma_core.metrics_http.config import PageSection
from moma_core.network.address import Address, bare_host
from moma_core.network.proxy import NetworkSection
from moma_core.pki.crl_client import RevocationsSection
from moma_core.pki.identity import FEDERATION_PATTERN, NAME_PATTERN
from moma_server.config.backend import BackendSection, OipBackend
from moma_server.config.federation_plan import FederationPlan
from moma_server.config.teacher_policy import (
    BudgetSection,
    MomentumSection,
    PolicySection,
    TeacherLimits,
)

Role = Literal["coordinator", "teacher"]


class ListenSection(Section):
    """An address to listen at; loopback unless the file says otherwise."""

    host: Annotated[str, AfterValidator(bare_host)] = Field(
        default="127.0.0.1", description="Address to listen at."
    )
    port: int = Field(ge=0, le=65535, description="TCP port; 0: any free one.")


class IdentitySection(Section):
    """A role's certificate and key."""

    certificate: ConfigPath = Field(description="The role's certificate, PEM.")
    key: ConfigPath = Field(description="Private key of the certificate.")
    passphrase_file: ConfigPath | None = Field(
        default=None, description="File with the passphrase of the role's keys."
    )


class AuthoritySection(RevocationsSection):
    """The federation's CA; the key only where the coordinator signs."""

    certificate: ConfigPath = Field(description="The CA's certificate, PEM.")
    key: ConfigPath | None = Field(
        default=None, description="The CA's key, where the coordinator signs with it."
    )
    passphrase_file: ConfigPath | None = Field(
        default=None, description="File with the passphrase of the CA's key."
    )
    revoked: ConfigPath = Field(
        description="JSON list of revoked certificates; read again when it changes."
    )
    enrolment: Address | None = Field(
        default=None,
        description="host:port of the coordinator's enrolment, where it is elsewhere.",
    )


class EnrolmentSection(Section):
    """Where new members enrol, and all renew; server TLS, no client certificate."""

    listen: ListenSection = ListenSection(port=8445)
    tries_per_minute: float = Field(
        default=30,
        gt=0,
        le=6000,
        description="Tries of one address; of all addresses ten times as many.",
    )


class RelaySection(Section):
    """Where teachers that cannot open a port dial in, and sites ask them."""

    listen: ListenSection = ListenSection(port=8446)


class CoordinatorSection(Section):
    """The rounds of the federation."""

    identity: IdentitySection
    listen: ListenSection = ListenSection(port=8443)
    enrolment: EnrolmentSection | None = Field(
        default=None,
        description="Where members enrol; null: they are admitted by hand.",
    )
    certificate_hours: float = Field(
        default=720,
        gt=0,
        le=2160,
        description="Life of a member's certificate; it is renewed at two thirds.",
    )
    relay: RelaySection | None = Field(
        default=None,
        description="Relay for teachers without a port; null: there is none.",
    )
    run: str = Field(
        default="run-1",
        pattern=NAME_PATTERN,
        description="Name of the run; another name starts another run.",
    )
    plan: FederationPlan


class RelayedSection(Section):
    """A teacher that dials out to the coordinator, and is served through it."""

    coordinator: Address = Field(description="host:port of its relay.")


class SealingSection(Section):
    """How requests are sealed to the teacher; its keys rotate by themselves."""

    suites: tuple[SuiteName, ...] = Field(
        default=SUITES,
        min_length=1,
        description="Suites that are offered; a site takes the strongest.",
    )


class TeacherSection(Section):
    """A teacher and what it grants."""

    name: str = Field(pattern=NAME_PATTERN, description="Name of the teacher.")
    identity: IdentitySection
    signing_key: ConfigPath = Field(
        description="Private key that signs card, responses and log; sites pin it."
    )
    listen: ListenSection | None = Field(
        default=ListenSection(port=8444),
        description="Where sites connect; null: no port is opened.",
    )
    relay: RelayedSection | None = Field(
        default=None, description="Relay that the teacher dials out to; null: none."
    )
    card: ConfigPath = Field(description="card.json of `teacher train`.")
    weights_file: ConfigPath | None = Field(
        default=None,
        description="weights.safetensors of `teacher train`, or the file of `teacher "
        "import`; null where a model server has the weights.",
    )
    backend: BackendSection | None = Field(
        default=None,
        description="What runs a teacher of `teacher import`, from its backend.yaml; "
        "null: a teacher of `teacher train`.",
    )
    head_file: ConfigPath | None = Field(
        default=None,
        description="head.safetensors of `teacher fit-head`; null: there is none.",
    )
    accelerator: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Where the model runs; auto: a GPU if there is one."
    )
    threads: int | None = Field(
        default=None, ge=1, le=1024, description="CPU threads of torch; null: its own."
    )
    sealing: SealingSection = SealingSection()
    budget: BudgetSection = BudgetSection()
    policy: PolicySection = PolicySection()
    limits: TeacherLimits = TeacherLimits()
    database: str | None = Field(
        default=None,
        pattern=r"^(sqlite|postgresql)",
        description="SQLAlchemy URL of budget and log; null: a file in state_dir.",
    )
    checkpoint_seconds: float = Field(
        default=60,
        gt=0,
        le=86_400,
        description="Time between two signatures of the log without a query.",
    )
    abandoned_after_seconds: float = Field(
        default=600,
        ge=1,
        le=86_400,
        description="A charge that nobody settled for so long is logged as abandoned.",
    )
    momentum: MomentumSection = MomentumSection()

    @model_validator(mode="after")
    def _can_be_reached(self) -> Self:
        if self.listen is None and self.relay is None:
            raise ValueError("name listen, relay, or both: nobody could ask it")
        return self

    @model_validator(mode="after")
    def _has_its_weights(self) -> Self:
        is_elsewhere = isinstance(self.backend, OipBackend)
        if is_elsewhere and self.weights_file is not None:
            raise ValueError(
                "backend.kind oip has its weights elsewhere: leave weights_file out"
            )
        if not is_elsewhere and self.weights_file is None:
            raise ValueError("the key weights_file is missing")
        return self


class ServerConfig(Section):
    """`server.yaml`: one institution's server, with one role or both."""

    federation: str = Field(
        pattern=FEDERATION_PATTERN, description="Name of the federation."
    )
    state_dir: ConfigPath = Field(
        description="Folder of databases, records and what is kept over a restart."
    )
    authority: AuthoritySection
    coordinator: CoordinatorSection | None = Field(
        default=None, description="The role coordinator; null: not this server's."
    )
    teacher: TeacherSection | None = Field(
        default=None, description="The role teacher; null: not this server's."
    )
    metrics: PageSection = PageSection(port=9464)
    dashboard: DashboardSection | None = Field(
        default=None, description="Page for a person on duty; null: there is none."
    )
    network: NetworkSection = NetworkSection()

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
    return read_config_file(path, yaml.safe_load, yaml.compose)


def write_yaml(path: Path, values: Mapping[str, Any], *, comment: str = "") -> None:
    """Writes a config file, keys in their order, under a comment."""
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    path.write_text(head + yaml.safe_dump(dict(values), sort_keys=False), "utf-8")

"""Tasks and reports on their way: a JSON header that is checked, and the weights."""

from typing import Annotated, Final, NamedTuple, Self, TypeVar

from pydantic import Field, FiniteFloat, ValidationError, model_validator

from moma_core.audit.checkpoint import MOST_CHECKPOINTS, Checkpoint
from moma_core.config import Section
from moma_core.errors import FederationError
from moma_core.federation.bounds import MAX_HEADER_BYTES
from moma_core.federation.task import (
    METRIC_PATTERN,
    Kind,
    Masking,
    Mode,
    RoundKey,
    RoundReport,
    RoundTask,
    Weights,
)
from moma_core.federation.weights import weights_from_bytes, weights_to_bytes

MAX_METRICS = 64

RUN_PATTERN = r"^[a-z0-9][a-z0-9-]{0,47}$"

_MetricName = Annotated[str, Field(pattern=METRIC_PATTERN)]

_Round = Annotated[int, Field(ge=1, le=999_999)]


class Envelope(NamedTuple):
    """A task or a report in the form that travels and lies on disk."""

    header: str
    weights: bytes | None


class _TaskHeader(Section):
    kind: Kind
    run: str = Field(pattern=RUN_PATTERN)
    round: _Round
    rounds: _Round
    local_epochs: int = Field(ge=0, le=10_000)
    mode: Mode
    # left out where it is not used, so that an earlier release reads the task
    local_steps: int = Field(default=0, ge=0, le=1_000_000, exclude_if=lambda n: not n)
    checkpoints: tuple[Checkpoint, ...] = Field(default=(), max_length=MOST_CHECKPOINTS)
    masking: Masking | None = None

    @model_validator(mode="after")
    def _masking_fits_the_kind(self) -> Self:
        masking, is_for_sum = self.masking, self.kind in ("keys", "update")
        if masking is None:
            if is_for_sum:
                raise ValueError(f"a task for {self.kind} says nothing of masks")
        elif self.mode != "fedavg":
            raise ValueError("weights are masked in a round of fedavg only")
        elif bool(masking.try_id) != is_for_sum:
            raise ValueError("tasks for keys and updates name their try, no others do")
        elif bool(masking.keys) != (self.kind == "update"):
            raise ValueError("tasks for updates carry keys, no others do")
        return self


class _ReportHeader(Section):
    patches: int = Field(ge=0, le=10**12)
    metrics: dict[_MetricName, FiniteFloat] = Field(max_length=MAX_METRICS)
    refusal: str | None = Field(pattern=r"^[ -~]{1,200}$")
    model: str = Field(default="", pattern=r"^[0-9a-f]{0,64}$")
    checkpoint: Checkpoint | None = None
    round_key: RoundKey | None = None


_ADDED: Final = ("masking", "round_key")
"""Left out where they say nothing, so that who knows none of them reads the rest."""

HeaderT = TypeVar("HeaderT", bound=Section)


def task_header(task: RoundTask) -> str:
    """Returns everything of `task` but its weights, as JSON.

    Raises:
        FederationError: A value is out of range.
    """
    return _header(_TaskHeader, task)


def report_header(report: RoundReport) -> str:
    """Returns everything of `report` but its weights, as JSON.

    Raises:
        FederationError: A value is out of range, or a metric is not finite.
    """
    return _header(_ReportHeader, report)


def pack_task(task: RoundTask) -> Envelope:
    """Returns `task` as it travels.

    Raises:
        FederationError: A value is out of range.
    """
    return Envelope(task_header(task), _packed(task.weights))


def pack_report(report: RoundReport) -> Envelope:
    """Returns `report` as it travels.

    Raises:
        FederationError: A value is out of range, or a metric is not finite.
    """
    return Envelope(report_header(report), _packed(report.weights))


def unpack_task(envelope: Envelope, *, max_weights_bytes: int) -> RoundTask:
    """Reads a task that came from another party.

    Raises:
        FederationError: It breaks the contract; the message quotes nothing of it.
    """
    weights = _unpacked(envelope.weights, max_weights_bytes)
    return task_from_header(envelope.header, weights)


def unpack_report(envelope: Envelope, *, max_weights_bytes: int) -> RoundReport:
    """Reads a report that came from another party.

    Raises:
        FederationError: It breaks the contract; the message quotes nothing of it.
    """
    weights = _unpacked(envelope.weights, max_weights_bytes)
    return report_from_header(envelope.header, weights)


def task_from_header(header: str, weights: Weights | None) -> RoundTask:
    """Joins a header and weights that were checked.

    Raises:
        FederationError: The header breaks the contract.
    """
    fields = _parsed(_TaskHeader, header)
    if fields.round > fields.rounds:
        raise FederationError("the task's round lies behind its last round")
    return RoundTask(**dict(fields), weights=weights)


def report_from_header(header: str, weights: Weights | None) -> RoundReport:
    """Joins a header and weights that were checked.

    Raises:
        FederationError: The header breaks the contract.
    """
    return RoundReport(**dict(_parsed(_ReportHeader, header)), weights=weights)


def _header(kind: type[Section], part: RoundTask | RoundReport) -> str:
    names = kind.model_fields
    try:
        fields = kind.model_validate({name: getattr(part, name) for name in names})
    except ValidationError as error:
        rules = ", ".join(
            f"{'.'.join(map(str, rule['loc']))}: {rule['msg']}"
            for rule in error.errors()
        )
        raise FederationError(f"the message breaks its contract: {rules}") from None
    unsaid = {name for name in _ADDED if getattr(fields, name, None) is None}
    return fields.model_dump_json(exclude=unsaid)


def _parsed(kind: type[HeaderT], header: str) -> HeaderT:
    if len(header) > MAX_HEADER_BYTES:
        raise FederationError(f"a header of {len(header)} characters is not read")
    try:
        return kind.model_validate_json(header)
    except ValidationError:
        raise FederationError("the header breaks its contract") from None


def _packed(weights: Weights | None) -> bytes | None:
    return None if weights is None else weights_to_bytes(weights)


def _unpacked(content: bytes | None, max_bytes: int) -> Weights | None:
    return None if content is None else weights_from_bytes(content, max_bytes=max_bytes)

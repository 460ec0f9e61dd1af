"""Every error this project raises on purpose, and what each means to others.

MomaError
├── ConfigError                 a config file or flag is wrong; the operator can fix it
│   └── DiskError               a disk does not take what is written
├── DataError                   patches cannot be read, or break the rules of a split
├── CheckpointError             a checkpoint is missing, damaged or of another run
├── TrainingError               training went wrong, for example a loss of NaN
├── CertificateError            a key, certificate or signing request is not acceptable
├── AuditError                  a log, receipt or checkpoint is not what it should be
│   ├── UnknownEntryError       the log has nothing of the kind to show
│   └── LogForkError            two signed checkpoints cannot both be true; also a
│                               RefusedError
├── TeacherError
│   ├── MalformedRequestError   a query breaks the wire contract
│   │   └── OversizedError      it declares more bytes than are taken
│   ├── SessionLostError        a momentum session is not open, or not any more
│   ├── TeacherBusyError        queues are full; try again after `retry_after_seconds`
│   ├── TeacherUnavailableError the teacher cannot be reached, or its response is wrong
│   │   └── UnsignedRefusalError  the line says that it refuses; also a RefusedError
│   └── RefusedError            a policy says no; a repetition will not help
│       ├── BudgetSpentError    the site's lifetime budget is gone
│       ├── PatchLimitError     more different patches than the policy allows
│       ├── CoverageError       the site has seen as much as the policy allows
│       ├── PolicyError         the teacher's owner does not allow it
│       ├── ReplayError         a request id was seen before with other bytes
│       ├── MismatchError       what answers is not what its card describes
│       ├── TermsError          the operator has not accepted the teacher's terms
│       └── NotAuthorizedError  the peer's certificate does not allow it
│           ├── ExpiredError    its time is over
│           └── RevokedError    it was revoked
├── FederationError             the federated protocol could not go on
│   └── UpdateRejectedError     a site's update does not fit the global model
└── StoppedError                the operator asked the program to stop

The message is one sentence with the bad value. It may be shown to an operator and
to another party: it never holds a patient, slide or file name of a site, except in
ConfigError, DataError, CheckpointError and DiskError, which never leave the machine.
What else of an error leaves it stands in `CATALOGUE`.
"""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from itertools import islice
from typing import Final, Literal, NamedTuple

_LONGEST_QUOTE = 80  # letters; each may become ten when it is escaped
_LONGEST_REASON = 300
_MOST_LISTED = 10


def printable_line(text: str, longest: int = _LONGEST_REASON) -> str:
    """Returns what somebody else wrote, fit for a sentence: one line, and short.

    Args:
        text: A terminal would obey the control characters in it.
        longest: Characters that are kept.
    """
    return "".join(letter if letter.isprintable() else " " for letter in text[:longest])


def quoted(text: str) -> str:
    """Returns what somebody else wrote in quotes: escaped, and cut where it is long."""
    return repr(text if len(text) <= _LONGEST_QUOTE else f"{text[:_LONGEST_QUOTE]}...")


def first_line(error: BaseException) -> str:
    """Returns what a library says of a failure, without what it tells its authors."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return printable_line(first)


def listed(names: Iterable[str]) -> str:
    """Returns the first of what somebody else has named, each in quotes; or `none`."""
    first = list(islice(names, _MOST_LISTED + 1))
    shown = ", ".join(map(quoted, first[:_MOST_LISTED]))
    return f"{shown} and more" if len(first) > _MOST_LISTED else shown or "none"


def known_names(name: str, known: Sequence[str]) -> str:
    """Returns the names that there are, the nearest first named, to end a sentence."""
    near = get_close_matches(name, known, 1)
    meant = f"; did you mean {near[0]}?" if near else ";"
    return f"{meant} there is {', '.join(known)}"


class MomaError(Exception):
    """Base of the errors whose message is one readable sentence.

    Attributes:
        exit_code: Exit status of a program that ends with the error.
    """

    exit_code = 1  # the operator can mend it


class ConfigError(MomaError):
    """A configuration value is missing, unknown or out of range."""


class DiskError(ConfigError):
    """A file cannot be written: the disk is full, read-only, or closed to the user."""


class DataError(MomaError):
    """Patches cannot be read, or break the rules of a split."""


class CheckpointError(MomaError):
    """A checkpoint is missing, damaged, or belongs to another run."""


class TrainingError(MomaError):
    """Training went wrong, and going on would not help."""


class CertificateError(MomaError):
    """A key, certificate or signing request is not acceptable."""


class AuditError(MomaError):
    """A log, a receipt or a checkpoint is not what it should be."""


class UnknownEntryError(AuditError):
    """The log has no such entry or state, or not for the site that sent the request."""


class TeacherError(MomaError):
    """A teacher and a site could not serve each other."""


class MalformedRequestError(TeacherError):
    """A query breaks the wire contract: sizes, shapes or pixel values."""


class OversizedError(MalformedRequestError):
    """A message declares more bytes than the other side takes."""


class SessionLostError(TeacherError):
    """No open momentum session of the site has the id; a new one may be opened."""


class TeacherBusyError(TeacherError):
    """The teacher's queues are full.

    Args:
        message: One sentence.
        retry_after_seconds: When a repetition is welcome, in seconds.
    """

    def __init__(self, message: str, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class TeacherUnavailableError(TeacherError):
    """The teacher cannot be reached, or its response does not fit the request."""


class RefusedError(TeacherError):
    """A policy says no, and a repetition will not help."""

    exit_code = 3


class UnsignedRefusalError(TeacherUnavailableError, RefusedError):
    """Whoever carries the call says that the teacher refuses it; nobody signed that.

    To a run the teacher is away; a program that has nothing else to do ends as where a
    policy refuses.
    """


class BudgetSpentError(RefusedError):
    """The site's lifetime budget does not cover the request."""


class PatchLimitError(RefusedError):
    """More different patches than the teacher's policy allows."""


class CoverageError(RefusedError):
    """The site's outputs cover as much of the embedding space as the policy allows."""


class PolicyError(RefusedError):
    """The teacher's owner does not allow the request."""


class ReplayError(RefusedError):
    """A request id was used before with other bytes, or once too often."""


class MismatchError(RefusedError):
    """What answers is not what its card describes."""


class LogForkError(AuditError, RefusedError):
    """The operator of a log signed two checkpoints that cannot both be true.

    A site that finds it sends the teacher nothing more, as where a policy refuses.

    Args:
        message: One sentence.
        exit_code: 1 where an auditor finds it in a file, and refuses nobody.
    """

    def __init__(self, message: str, exit_code: int = RefusedError.exit_code) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class TermsError(RefusedError):
    """The site's operator has not accepted the teacher's terms."""


class NotAuthorizedError(RefusedError):
    """The peer's certificate does not allow it."""


class ExpiredError(NotAuthorizedError):
    """The peer's certificate is past its last day."""


class RevokedError(NotAuthorizedError):
    """The peer's certificate was revoked."""


class FederationError(MomaError):
    """The federated protocol could not go on."""


class UpdateRejectedError(FederationError):
    """A site's update does not fit the global model."""


class StoppedError(MomaError):
    """The operator asked the program to stop; the state on disk resumes."""

    exit_code = 130


RefusalReason = Literal[
    "malformed",
    "size",
    "session",
    "policy",
    "unique",
    "coverage",
    "budget",
    "replay",
    "busy",
    "time",
    "entry",
    "unavailable",
    "internal",
]
"""Why a teacher refuses, in what it seals and signs instead of a response."""


class ErrorMeaning(NamedTuple):
    """What an error means to a party that did not raise it.

    Args:
        status: Name of the gRPC status of a call that ends with it and seals nothing.
        refusal: Reason in the sealed refusal.
        denial: Reason in the log and in `moma_teacher_denied_total`; None: the request
            failed, and nobody denied it.
        http_status: Of the answer of the federation's HTTP edge to such a call.
        sentence: Shown instead of the error's own; empty: that one is safe to show.
    """

    status: str
    refusal: RefusalReason = "internal"
    denial: str | None = None
    http_status: int = 500
    sentence: str = ""


INTERNAL: Final = ErrorMeaning("INTERNAL", sentence="internal error")
"""The meaning of every error that the catalogue does not name."""

CATALOGUE: Final[Mapping[type[MomaError], ErrorMeaning]] = {
    MalformedRequestError: ErrorMeaning(
        "INVALID_ARGUMENT", "malformed", "malformed", 400
    ),
    OversizedError: ErrorMeaning("INVALID_ARGUMENT", "size", "size", 413),
    SessionLostError: ErrorMeaning("NOT_FOUND", "session", "policy"),
    PolicyError: ErrorMeaning("PERMISSION_DENIED", "policy", "policy"),
    PatchLimitError: ErrorMeaning("FAILED_PRECONDITION", "unique", "unique"),
    CoverageError: ErrorMeaning("FAILED_PRECONDITION", "coverage", "coverage"),
    BudgetSpentError: ErrorMeaning("FAILED_PRECONDITION", "budget", "budget"),
    # a Flower node signs a call anew after a 503, and so mends a replay
    ReplayError: ErrorMeaning("ALREADY_EXISTS", "replay", "replay", 503),
    TeacherBusyError: ErrorMeaning("RESOURCE_EXHAUSTED", "busy", "rate", 503),
    UnknownEntryError: ErrorMeaning("NOT_FOUND", "entry"),
    TeacherUnavailableError: ErrorMeaning("UNAVAILABLE", "unavailable"),
    NotAuthorizedError: ErrorMeaning("UNAUTHENTICATED", "time", "auth", 401),
    # a connection is refused for these, before a request is opened
    ExpiredError: ErrorMeaning("UNAUTHENTICATED", denial="auth", http_status=401),
    RevokedError: ErrorMeaning("UNAUTHENTICATED", denial="revoked", http_status=401),
}
"""By the class of an error exactly: a subclass that is not named here is internal."""


def meaning_of(error: BaseException) -> ErrorMeaning:
    """Returns what an error means to others."""
    if not isinstance(error, MomaError):
        return INTERNAL
    return CATALOGUE.get(type(error), INTERNAL)

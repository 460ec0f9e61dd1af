"""What the log says: one entry a leaf, as canonical bytes.

An entry is JSON in ASCII, keys sorted, no spaces: there is one way to write it, and
what is not written so is no entry. Each has its place, its time and the hash of the
leaf before it, so that a changed, missing or moved entry shows at its place already.
"""

from hashlib import sha256
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    model_serializer,
)

from moma_core.audit.checkpoint import Checkpoint, Fingerprint, Hash, Origin, Signature
from moma_core.errors import AuditError
from moma_core.pki.identity import NAME_PATTERN
from moma_core.runtime.canonical_json import canonical_json

LARGEST_ENTRY_BYTES = 8192
SALT_BYTES = 16

NOTHING = sha256(b"").digest()
"""Stands for the content of a request that could not be read, or of several."""

Outcome = Literal["answered", "denied", "failed", "cancelled", "abandoned"]
"""How a query ended; failed and cancelled ones are entries where work was done, and
abandoned is one whose gateway died, so that nobody knows."""

_Count = Annotated[int, Field(ge=0, lt=2**53)]
_Name = Annotated[str, Field(pattern=NAME_PATTERN)]


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class QueryEntry(_Entry):
    """A query of an authenticated site, however it ended.

    Args:
        site: The site that queried.
        teacher: SHA-256 of the weights, hex.
        request: The request id, hex; empty where the request had none.
        patches: Number of patches of the query.
        charged: Charged by this entry; 0 for what is denied or repeated.
        outputs: What was given, by comma; empty where nothing was.
        outcome: How it ended.
        reason: Why it was denied, as the metric names it.
        repetition: The request was charged before.
        queries: How many it stands for; more than one only where denied queries were
            too many for an entry each. Their request ids are left out, their patches
            are added up.
        commitment: SHA-256 of salt and digest of the request, hex. The salt is the
            site's and the log's alone, so that a reader of the log learns nothing
            about the pixels, not even whether two requests were alike.
    """

    kind: Literal["query"] = "query"
    site: _Name
    teacher: Hash
    request: str = Field(pattern=r"^([0-9a-f]{32})?$")
    patches: _Count
    charged: _Count
    outputs: str = Field(pattern=r"^[a-z0-9,.:-]{0,64}$")
    outcome: Outcome
    reason: str = Field(default="", pattern=r"^[a-z_]{0,32}$")
    repetition: bool = False
    queries: Annotated[int, Field(gt=0, lt=2**53)] = 1
    commitment: Hash = "0" * 64

    @model_serializer(mode="wrap")
    def _as_before_there_were_sums(
        self, serialized: SerializerFunctionWrapHandler
    ) -> dict[str, Any]:
        """Leaves a number of one out: entries from before it stay as they are."""
        values: dict[str, Any] = serialized(self)
        if self.queries == 1:
            del values["queries"]
        return values


class PolicyEntry(_Entry):
    """A change of what the teacher allows, signed with its key.

    Args:
        subject: What changes: `policy`, `site`, or another short name.
        change: What it is from now on, as text.
        signature: Of the teacher's key over `signed_policy`, hex.
    """

    kind: Literal["policy"] = "policy"
    subject: _Name
    change: str = Field(pattern=r"^[ -~]{0,4096}$")
    signature: Signature


class KeyEntry(_Entry):
    """Another key signs the log from here on.

    Args:
        key: The new one.
        signature: Of the old one over `signed_key`, hex.
    """

    kind: Literal["key"] = "key"
    key: Fingerprint
    signature: Signature


class OpenEntry(_Entry):
    """The first entry of a log.

    Args:
        origin: The log's name.
        key: Whose signatures it begins with.
        previous_log: The final checkpoint of the log before it; None: there is none.
    """

    kind: Literal["open"] = "open"
    origin: Origin
    key: Fingerprint
    previous_log: Checkpoint | None = None


class CloseEntry(_Entry):
    """The last entry of a log.

    Args:
        next_log: Where it goes on.
    """

    kind: Literal["close"] = "close"
    next_log: Origin


Entry: TypeAlias = QueryEntry | PolicyEntry | KeyEntry | OpenEntry | CloseEntry


class LoggedEntry(_Entry):
    """An entry at its place in a log.

    Args:
        sequence: Its place, from 0.
        time_ms: When it was written, milliseconds since 1970, UTC; never less than
            that of the entry before.
        previous: The hash of the leaf before it, hex; empty for the first.
        entry: What it says.
    """

    sequence: _Count
    time_ms: _Count
    previous: str = Field(pattern=r"^([0-9a-f]{64})?$")
    entry: Entry = Field(discriminator="kind")


_PLACED = TypeAdapter(LoggedEntry)


def encode(placed: LoggedEntry) -> bytes:
    """Returns the leaf of an entry."""
    return canonical_json(placed.model_dump())


def decode(leaf: bytes) -> LoggedEntry:
    """Reads a leaf.

    Raises:
        AuditError: It is no entry, or not written in the one way; the message quotes
            nothing of it.
    """
    if len(leaf) > LARGEST_ENTRY_BYTES:
        raise AuditError(f"an entry of {len(leaf)} bytes is not read")
    try:
        placed = _PLACED.validate_json(leaf)
    except ValidationError:
        raise AuditError("the entry breaks its contract") from None
    if encode(placed) != leaf:
        raise AuditError("the entry is not written in the one way")
    return placed


def commitment(salt: bytes, digest: bytes) -> str:
    """Returns what an entry says of a request's content, hex.

    Args:
        salt: SALT_BYTES, new for each entry.
        digest: SHA-256 of the request.
    """
    return sha256(salt + digest).hexdigest()


def signed_policy(origin: str, subject: str, change: str) -> bytes:
    """Returns what the teacher's key signs, as `policy`, of a change."""
    return canonical_json({"origin": origin, "subject": subject, "change": change})


def signed_key(origin: str, old: str, new: str) -> bytes:
    """Returns what the old key signs, as `key`, of a new one."""
    return canonical_json({"origin": origin, "old": old, "new": new})

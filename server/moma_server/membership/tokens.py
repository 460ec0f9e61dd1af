"""The enrolment tokens that were made: one file, and a hash of each secret.

A token is good once and for a time. It is marked as used before its certificate leaves,
so that a crash between the two costs a token and never gives two certificates.
"""

import hmac
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, TypeAdapter, with_config

from moma_core.errors import CertificateError, ConfigError, NotAuthorizedError
from moma_core.pki.certificates import CLOCK_SKEW
from moma_core.pki.identity import (
    EnrolmentToken,
    PeerKind,
    PeerName,
    check_host,
    secret_hash,
)
from moma_core.runtime.checked_rows import read_rows, write_rows
from moma_core.runtime.files import locked

TokenState = Literal["open", "used", "expired", "revoked"]

_KEPT = timedelta(days=90)  # after its end a token is forgotten
_UNKNOWN = "this token is not known here, or its secret is another"


@with_config(extra="forbid")
@dataclass(frozen=True, slots=True)
class TokenRecord:
    """What is kept of a token.

    Args:
        identifier: The id by which operators speak of the token.
        kind: What the party is that may enrol.
        name: Name of the party that may enrol.
        hosts: Host names and addresses under which a teacher is reached.
        secret_hash: SHA-256 of the secret, hexadecimal; the secret is nowhere.
        created_at: When the token was made.
        expires_at: From when the token is worth nothing.
        used_at: When a certificate was signed for it.
        revoked_at: When it was revoked.
    """

    identifier: str
    kind: PeerKind
    name: str
    hosts: tuple[str, ...]
    secret_hash: str
    created_at: AwareDatetime
    expires_at: AwareDatetime
    used_at: AwareDatetime | None = None
    revoked_at: AwareDatetime | None = None

    def state(self, now: datetime) -> TokenState:
        """Returns whether the token is good, and if not, why."""
        if self.used_at is not None:
            return "used"
        if self.revoked_at is not None:
            return "revoked"
        is_ahead = self.created_at > now + CLOCK_SKEW  # by a wrong clock: so is its end
        return "expired" if is_ahead or now >= self.expires_at else "open"


_RECORDS = TypeAdapter(tuple[TokenRecord, ...])


class TokenStore:
    """The tokens of one coordinator; several processes may use it at once.

    Args:
        path: The tokens' file; its folder exists.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def create(
        self,
        token: EnrolmentToken,
        *,
        hosts: Sequence[str] = (),
        lifetime: timedelta,
        now: datetime,
    ) -> TokenRecord:
        """Keeps a new token.

        Raises:
            CertificateError: A host has not the form of one: its certificate could
                not be signed when the token is used.
        """
        for host in hosts:
            check_host(host)
        record = TokenRecord(
            identifier=token.identifier,
            kind=token.peer.kind,
            name=token.peer.name,
            hosts=tuple(hosts),
            secret_hash=secret_hash(token.secret),
            created_at=now,
            expires_at=now + lifetime,
        )
        with locked(self._path.parent):
            kept = [old for old in self.records() if now < old.expires_at + _KEPT]
            self._write([*kept, record])
        return record

    def records(self) -> tuple[TokenRecord, ...]:
        """Returns what is known of all tokens, oldest first.

        Raises:
            ConfigError: The file is damaged.
        """
        try:
            return read_rows(self._path, _RECORDS)
        except FileNotFoundError:
            return ()
        except OSError as error:
            message = f"cannot read the tokens {self._path}: {error.strerror}"
            raise ConfigError(message) from None
        except ValueError as error:
            message = f"the tokens {self._path} are damaged: {error}"
            raise ConfigError(message) from None

    def find(self, identifier: str) -> TokenRecord | None:
        """Returns the token of that identifier."""
        return next((r for r in self.records() if r.identifier == identifier), None)

    @contextmanager
    def spending(
        self, identifier: str, secret: bytes, *, now: datetime
    ) -> Iterator[tuple[TokenRecord, Callable[[], None]]]:
        """Holds an open token for its bearer, so that nobody else can use it.

        Yields:
            What the token grants, and what spends it, durably.

        Raises:
            NotAuthorizedError: It is unknown, used, expired or revoked.
        """
        with locked(self._path.parent):
            record = self.find(identifier)
            known = record.secret_hash if record else secret_hash(b"")
            is_right = hmac.compare_digest(known, secret_hash(secret))
            if record is None or not is_right:
                raise NotAuthorizedError(_UNKNOWN)
            state = record.state(now)
            if state != "open":
                raise NotAuthorizedError(
                    f"this token for {record.name} is {state}: ask the coordinator's "
                    f"operator for a new one"
                )
            used = replace(record, used_at=now)
            yield record, lambda: self._replace(used)

    def revoke(self, identifier: str, *, now: datetime) -> None:
        """Revokes an open token.

        Raises:
            CertificateError: There is none, or it is open no more.
        """
        with locked(self._path.parent):
            record = self.find(identifier)
            if record is None:
                raise CertificateError(f"there is no token {identifier!r}")
            if record.state(now) != "open":
                state = record.state(now)
                raise CertificateError(f"the token {identifier} is {state} already")
            self._replace(replace(record, revoked_at=now))

    def revoke_of(self, peer: PeerName, *, now: datetime) -> None:
        """Revokes all open tokens of a party."""
        with locked(self._path.parent):
            for record in self.records():
                same = (record.kind, record.name) == (peer.kind, peer.name)
                if same and record.state(now) == "open":
                    self._replace(replace(record, revoked_at=now))

    def _replace(self, record: TokenRecord) -> None:
        self._write(
            [record if r.identifier == record.identifier else r for r in self.records()]
        )

    def _write(self, records: Sequence[TokenRecord]) -> None:
        rows = _RECORDS.dump_python(tuple(records), mode="json")
        write_rows(self._path, rows, "the tokens")

"""What lies in a server's state folder, and where."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from moma_core.audit.ledger import Ledger
from moma_core.audit.log import AuditLog
from moma_core.end_to_end.signatures import SigningKey
from moma_core.errors import CertificateError, DiskError
from moma_core.pki.certificates import life
from moma_core.policy.budget import BudgetStore
from moma_core.runtime.canonical_json import parsed_json
from moma_core.runtime.clock import utc_now
from moma_core.runtime.files import make_folder, write_private
from moma_server.config.server import CoordinatorSection, ServerConfig, TeacherSection


def run_folder(config: ServerConfig, section: CoordinatorSection) -> Path:
    """Returns the folder of a coordinator's run."""
    return config.state_dir / "runs" / section.run


@contextmanager
def open_ledger(config: ServerConfig, section: TeacherSection) -> Iterator[Ledger]:
    """Opens a teacher's budget and log, and closes them after the block.

    Raises:
        AuditError: The database holds another's log, or another key signs it.
        CertificateError: The signing key cannot be read, or the log is written to and
            the certificate is over.
    """
    key = SigningKey.load(section.signing_key, section.identity.passphrase_file)
    clock = CertifiedClock(section.identity.certificate)
    ledger = budget_store(config, section)
    try:
        yield Ledger(ledger, AuditLog(config.federation, section.name, key, clock))
    finally:
        ledger.close()


class CertifiedClock:
    """Says the time for as long as a certificate is good.

    What a log has dated with a wrong clock cannot be taken back. By a clock that is a
    year ahead no certificate of the federation is good, and so it dates nothing.

    Args:
        certificate: PEM file; read again at its end, since it is renewed.
        now: Returns the time, with its time zone.
    """

    def __init__(
        self, certificate: Path, now: Callable[[], datetime] = utc_now
    ) -> None:
        self._certificate, self._now = certificate, now
        self._end: datetime | None = None

    def __call__(self) -> datetime:
        """Returns the time.

        Raises:
            CertificateError: The certificate is over by then, or cannot be read.
        """
        now = self._now()
        if self._end is None or now > self._end:
            self._end = self._read_end()
        if now > self._end:
            raise CertificateError(
                f"by this machine's clock it is {now:%Y-%m-%d %H:%M} UTC, and "
                f"{self._certificate} was good until {self._end:%Y-%m-%d %H:%M} UTC: "
                "put the clock right, or enrol again"
            )
        return now

    def _read_end(self) -> datetime:
        try:
            _, end = life(self._certificate.read_bytes())
        except FileNotFoundError:  # before the enrolment; nothing is served without one
            return datetime.max.replace(tzinfo=UTC)
        except OSError as error:
            message = f"cannot read {self._certificate}: {error}"
            raise CertificateError(message) from None
        return end


def relay_links_file(config: ServerConfig) -> Path:
    """Returns where a coordinator's relay notes which teachers are linked."""
    return config.state_dir / "relay-links.json"


def pinned_sites_file(config: ServerConfig) -> Path:
    """Returns where the sites that a teacher's owner approved are listed."""
    return config.state_dir / "approved.json"


def database_url(config: ServerConfig, section: TeacherSection) -> str:
    """Returns where a teacher's budget and log are, as SQLAlchemy names it."""
    return section.database or f"sqlite:///{config.state_dir / 'budget.db'}"


def note_verification(config: ServerConfig, *, outcome: str, sentence: str) -> None:
    """Keeps how the last look at a teacher's own log ended, for `status` to tell.

    Args:
        config: Of the server.
        outcome: `verified` or `failed`.
        sentence: What was found.
    """
    values = {
        "at": utc_now().isoformat(timespec="seconds"),
        "outcome": outcome,
        "sentence": sentence,
    }
    with suppress(DiskError):  # who may only read can verify as well
        make_folder(config.state_dir)
        write_private(_verification_file(config), json.dumps(values).encode())


def read_verification(config: ServerConfig) -> dict[str, Any] | None:
    """Returns what was noted last; None: the log was never verified here."""
    try:
        found = parsed_json(_verification_file(config).read_bytes())
        return {key: str(found[key]) for key in ("at", "outcome", "sentence")}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _verification_file(config: ServerConfig) -> Path:
    return config.state_dir / "verification.json"


def budget_store(config: ServerConfig, section: TeacherSection) -> BudgetStore:
    """Opens the ledger of a teacher; the caller closes it."""
    make_folder(config.state_dir)
    return BudgetStore(
        database_url(config, section),
        grants=section.budget.sites,
        default_grant=section.budget.default_patches,
        clock=utc_now,
    )

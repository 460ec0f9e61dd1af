"""What lies in a server's state folder, and where."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from moma_core.audit.ledger import Ledger
from moma_core.audit.log import AuditLog
from moma_core.end_to_end.signatures import SigningKey
from moma_core.errors import DiskError
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
        CertificateError: The signing key cannot be read.
    """
    key = SigningKey.load(section.signing_key, section.identity.passphrase_file)
    ledger = budget_store(config, section)
    try:
        yield Ledger(ledger, AuditLog(config.federation, section.name, key, utc_now))
    finally:
        ledger.close()


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

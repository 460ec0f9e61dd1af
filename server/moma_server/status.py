"""The state of a server as values, read from its files: it need not run."""

from datetime import tzinfo
from typing import Any

from sqlalchemy import inspect
from sqlalchemy.exc import SQLAlchemyError

from moma_core.audit.tables import head as head_table
from moma_core.audit.tables import read_head
from moma_core.errors import AuditError, TeacherUnavailableError
from moma_core.runtime.canonical_json import parsed_json
from moma_core.runtime.database import open_database, reading
from moma_server.config.server import CoordinatorSection, ServerConfig, TeacherSection
from moma_server.federation.run.state import load_state, read_status
from moma_server.state import (
    budget_store,
    database_url,
    read_verification,
    relay_links_file,
    run_folder,
)

Row = dict[str, Any]


def server_status(config: ServerConfig) -> Row:
    """Returns the run of a coordinator, the budgets and the log of a teacher."""
    status: Row = {"federation": config.federation}
    if config.coordinator is not None:
        status["run"] = run_status(config, config.coordinator)
        if config.coordinator.relay is not None:
            status["relay_links"] = relay_links(config)
    if config.teacher is not None:
        status["budgets"] = budgets(config)
        status["audit"] = audit_status(config, config.teacher)
    return status


def run_status(
    config: ServerConfig, section: CoordinatorSection, zone: tzinfo | None = None
) -> Row | None:
    """Returns what is known of a coordinator's run; None: it never ran.

    Args:
        config: Of the server.
        section: Its coordinator's.
        zone: Time zone of what is said; None: this machine's.

    Raises:
        CheckpointError: What is known is damaged.
    """
    folder = run_folder(config, section)
    return None if load_state(folder) is None else read_status(folder, zone)


def relay_links(config: ServerConfig) -> dict[str, int]:
    """Returns how many links each teacher had when that last changed."""
    try:
        links = parsed_json(relay_links_file(config).read_bytes())
        return {str(name): int(number) for name, number in links.items()}
    except (AttributeError, OSError, TypeError, ValueError):
        return {}  # the relay never ran


def budgets(config: ServerConfig) -> dict[str, dict[str, int]]:
    """Returns granted and charged patches by site; empty where nothing is taught."""
    if config.teacher is None:
        return {}
    ledger = budget_store(config, config.teacher)
    try:
        return {
            site: {
                "granted_patches": ledger.rules.granted(site),
                "charged_patches": ledger.charged(site),
            }
            for site in ledger.sites()
        }
    finally:
        ledger.close()


def audit_status(config: ServerConfig, section: TeacherSection) -> Row | None:
    """Returns the head of a teacher's log; None: there is no log yet.

    It holds back no writer.

    Raises:
        AuditError: The database does not answer.
    """
    try:
        engine = open_database(database_url(config, section))
        try:
            with reading(engine).begin() as database:
                is_there = inspect(database).has_table(head_table.name)
                found = read_head(database) if is_there else None
        finally:
            engine.dispose()
    except (SQLAlchemyError, TeacherUnavailableError):
        raise AuditError("the database of budget and log does not answer") from None
    if found is None or found.checkpoint is None:
        return None
    signed = found.checkpoint
    return {
        "log": signed.origin,
        "entries": signed.size,
        "root": signed.root,
        "signed_at": signed.time_ms / 1000,
        "mismatches": found.mismatches,
        "verification": read_verification(config),
    }

"""What lies in a server's state folder, and where."""

from datetime import UTC, datetime
from pathlib import Path

from moma_core.policy.budget import BudgetLedger
from moma_server.config import CoordinatorSection, ServerConfig, TeacherSection


def run_folder(config: ServerConfig, section: CoordinatorSection) -> Path:
    """Returns the folder of a coordinator's run."""
    return config.state_dir / "runs" / section.run


def approvals_file(config: ServerConfig) -> Path:
    """Returns where the sites that a teacher's owner approved are listed."""
    return config.state_dir / "approved.json"


def budget_ledger(config: ServerConfig, section: TeacherSection) -> BudgetLedger:
    """Opens the ledger of a teacher; the caller closes it."""
    config.state_dir.mkdir(parents=True, exist_ok=True)
    return BudgetLedger(
        f"sqlite:///{config.state_dir / 'budget.db'}",
        grants=section.budget.sites,
        default_grant=section.budget.default_patches,
        clock=lambda: datetime.now(UTC),
    )

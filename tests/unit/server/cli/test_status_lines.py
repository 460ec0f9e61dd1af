"""The state of a server, as a person reads it."""

from typing import Any

import pytest

from moma_server.cli.status import status_lines


def _status(outcome: str | None) -> dict[str, Any]:
    run = {
        "completed": 3,
        "rounds": 3,
        "outcome": outcome,
        "waiting": None,
        "online": ["site-b"],
        "registered": ["site-a", "site-b"],
        "history": [],
    }
    return {"federation": "hub", "run": run}


@pytest.mark.parametrize(
    ("outcome", "is_missed"), [(None, True), ("stopped", True), ("finished", False)]
)
def test_sites_are_missed_until_the_run_has_finished(
    outcome: str | None, is_missed: bool
) -> None:
    lines = list(status_lines(_status(outcome)))

    assert ("sites not connected: site-a" in lines) is is_missed
    assert "sites online: site-b" in lines

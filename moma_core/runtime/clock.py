"""The one clock of the programs; what needs the time takes it as an argument."""

from datetime import UTC, datetime


def utc_now() -> datetime:
    """Returns the present, with its time zone."""
    return datetime.now(UTC)

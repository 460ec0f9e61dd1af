"""Clocks that stand still until a test moves them."""

from datetime import UTC, datetime


class Clock:
    """Tells a date and a time that a test sets in `now`."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 12, 0, 5, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    @property
    def ms(self) -> int:
        """Returns `now` in milliseconds since the epoch."""
        return int(self.now.timestamp() * 1000)


class SecondsClock:
    """Tells the seconds since some moment, which a test sets."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

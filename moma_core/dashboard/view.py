"""What a dashboard shows, as values: the templates decide how, a test can read what."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite
from typing import Literal

Tone = Literal["", "good", "bad", "open"]
Severity = Literal["critical", "warning", "info"]

_LONGEST_TEXT = 200
_CLOCK_SECONDS = 60.0  # that clocks may differ by
_WIDTH, _HEIGHT, _EDGE = 160, 36, 3
_MOST_POINTS = 200


@dataclass(frozen=True, slots=True)
class Spark:
    """A small chart of one number over time.

    Args:
        points: What it is drawn over, and the number; oldest first.
        label: What it shows, for who does not see it.
    """

    points: Sequence[tuple[float, float]]
    label: str

    def line(self) -> str:
        """Returns the corners of the line, as SVG's `polyline` takes them; "": none."""
        shown = self._finite()[-_MOST_POINTS:]
        if not shown:
            return ""
        across = _scaled([x for x, _ in shown], _EDGE, _WIDTH - _EDGE)
        upward = _scaled([y for _, y in shown], _HEIGHT - _EDGE, _EDGE)
        corners = zip(across, upward, strict=True)
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)

    def text(self) -> str:
        """Returns the chart in words."""
        values = [y for _, y in self._finite()]
        if not values:
            return f"{self.label}: no finite value"
        said = (
            f"{self.label}: {values[0]:.3g} at first, {values[-1]:.3g} now, "
            f"lowest {min(values):.3g}, highest {max(values):.3g}, "
            f"{len(values)} points"
        )
        lost = len(self.points) - len(values)
        return f"{said}, {lost} not finite" if lost else said

    def _finite(self) -> list[tuple[float, float]]:
        """Returns what can be drawn: a step whose loss is not finite is left out."""
        return [(x, y) for x, y in self.points if isfinite(y)]


@dataclass(frozen=True, slots=True)
class Cell:
    """One place of a table.

    Args:
        text: What it says.
        tone: Whether that is good or bad; the text says it too.
        spark: Drawn in the place of the text; None: nothing is.
    """

    text: str
    tone: Tone = ""
    spark: Spark | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """The head of a column of a table."""

    title: str
    is_number: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a caption.

    Args:
        key: Its id in the page.
        caption: What it shows, for who comes to it from elsewhere.
        columns: The first one names the row.
        rows: A cell for each column.
        empty: What is said where there is no row.
    """

    key: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    empty: str


@dataclass(frozen=True, slots=True)
class Fact:
    """A value and what it is."""

    label: str
    value: str
    tone: Tone = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """A part of the page with a heading.

    Args:
        key: Its id in the page.
        title: Its heading.
        facts: Single values.
        tables: Under the facts.
        note: A sentence under the heading.
    """

    key: str
    title: str
    facts: Sequence[Fact] = ()
    tables: Sequence[Table] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that a person should see to.

    Args:
        name: As `deploy/prometheus` calls it, which says what to do.
        severity: How soon.
        text: What it is.
    """

    name: str
    severity: Severity
    text: str


@dataclass(frozen=True, slots=True)
class View:
    """The whole page.

    Args:
        title: Whose it is.
        subtitle: What else there is to say of whose it is.
        alerts: The gravest first.
        panels: In their order.
        made_at: When it was made.
    """

    title: str
    subtitle: str
    alerts: Sequence[Alert]
    panels: Sequence[Panel]
    made_at: datetime

    def alert_sentence(self) -> str:
        """Returns how many alerts there are, as it is read out when it changes."""
        if not self.alerts:
            return "No alerts."
        count = len(self.alerts)
        names = ", ".join(sorted({alert.name for alert in self.alerts}))
        return f"{count} alert{'s' if count > 1 else ''}: {names}."


Look = Callable[[], View]
"""Makes what is shown, as it is now."""


def short(text: str) -> str:
    """Returns a text that is not ours, cut to what a page can bear."""
    return text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 1]}…"


def listed(texts: Sequence[str], between: str = ", ") -> str:
    """Returns as many of the texts as a page can bear, and how many more there are."""
    shown: list[str] = []
    for text in map(short, texts):
        if shown and len(between.join((*shown, text))) > _LONGEST_TEXT:
            break
        shown.append(text)
    more = len(texts) - len(shown)
    return between.join(shown) + (f" and {more} more" if more else "")


def moment(seconds: float) -> str:
    """Returns a time as a person reads it; seconds since 1970."""
    if seconds <= 0:
        return "not known"
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def length(seconds: float) -> str:
    """Returns a length of time as a person says it."""
    if seconds < 90:
        return f"{max(0.0, seconds):.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    if seconds < 172_800:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 86_400:.0f} days"


def ago(seconds: float, now: datetime) -> str:
    """Returns a time that is past and how long ago it was; seconds since 1970."""
    if seconds <= 0:
        return "never"
    age = now.timestamp() - seconds
    if age < -_CLOCK_SECONDS:
        return f"{moment(seconds)} (in the future: a clock was wrong)"
    return f"{moment(seconds)} ({length(age)} ago)"


def count(value: float) -> str:
    """Returns a whole number as a person reads it."""
    return f"{value:,.0f}"


def _scaled(values: Sequence[float], first: float, last: float) -> list[float]:
    """Returns where values lie between two edges; all equal ones in the middle."""
    low, high = min(values), max(values)
    if high == low:
        return [(first + last) / 2] * len(values)
    return [first + (last - first) * (v - low) / (high - low) for v in values]

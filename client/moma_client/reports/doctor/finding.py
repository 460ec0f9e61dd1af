"""What `moma-client doctor` finds: one thing, how it stands, and what to do."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from moma_core.errors import MomaError, RefusedError

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Args:
        check: What was looked at.
        state: How it stands.
        text: One sentence; of a problem also what to do.
        refused: Whether a policy stands in the way, and not a fault.
        more: Lines below it, for a person.
        facts: Further values for a script.
    """

    check: str
    state: State
    text: str
    refused: bool = False
    more: tuple[str, ...] = ()
    facts: dict[str, object] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """Yields it as a person reads it."""
        yield f"{self.state:8} {self.check:12} {self.text}"
        for line in self.more:
            yield f"{'':21} {line}"

    def as_json(self) -> dict[str, object]:
        """Returns it for a script."""
        return {
            "check": self.check,
            "state": self.state,
            "text": self.text,
            "refused": self.refused,
            **self.facts,
        }


def found_by(check: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Yields what a check finds; what it raises on purpose is a problem."""
    try:
        yield from look()
    except MomaError as error:
        first, *more = str(error).splitlines() or [type(error).__name__]
        refused = isinstance(error, RefusedError)
        yield Finding(check, "problem", first, refused, tuple(more))

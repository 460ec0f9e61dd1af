"""What a check finds: one thing, how it stands, and what to do.

A check yields findings and nothing else: a report prints them, a program that is about
to work on what was checked logs them, and refuses where one is a problem.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from moma_core.errors import DataError, MomaError, RefusedError

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
        yield f"{self.state:8} {self.check:15} {self.text}"
        for line in self.more:
            yield f"{'':24} {line}".rstrip()

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


def refuse(findings: Iterable[Finding]) -> None:
    """Ends what is about to begin where there is a problem.

    Raises:
        DataError: There is one; the message is the first one's.
    """
    for finding in findings:
        if finding.state == "problem":
            raise DataError(f"{finding.check}: {finding.text}")


def heed(findings: Iterable[Finding], logger: logging.Logger) -> None:
    """Logs what is to be warned of, then refuses to go on where there is a problem.

    Args:
        findings: Of the data, or of what is to be done with them.
        logger: Of the program's part that goes on; no line of `more` enters a log, for
            it may name a patient or a file.

    Raises:
        DataError: There is a problem; the message is the first one's.
    """
    found = list(findings)
    for finding in found:
        if finding.state == "warning":
            logger.warning("%s: %s", finding.check, finding.text)
    refuse(found)

"""A parser of outside bytes, as the fuzz tests see it, and what it may never do."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from moma_core.errors import MomaError

LONGEST_SENTENCE = 1000
"""Characters of an error's message, or of a line of it where a config has many faults:
it is shown, logged, and sent to others."""

MOST_SENTENCES = 25

_FOLDER = tempfile.TemporaryDirectory(prefix="moma-fuzz-")


@dataclass(frozen=True, slots=True)
class Target:
    """One parser.

    Args:
        read: Reads bytes as they come from outside; raises a MomaError for those that
            it does not take.
        seeds: Bytes that it takes, for a fuzzer to change; the first are the plainest.
    """

    read: Callable[[bytes], object]
    seeds: tuple[bytes, ...]


def is_taken(target: Target, content: bytes) -> bool:
    """Whether a parser takes bytes; fails where it does not say so in a sentence.

    What is no error of ours comes through, and is a finding.
    """
    try:
        target.read(content)
    except MomaError as error:
        _check_sentence(str(error))
        return False
    return True


def _check_sentence(text: str) -> None:
    lines = text.split("\n")
    assert text, "an error says nothing"
    assert len(lines) <= MOST_SENTENCES, f"{len(lines)} lines: {text[:300]}"
    assert max(map(len, lines)) <= LONGEST_SENTENCE, f"too long: {text[:300]}"
    # a terminal obeys control characters
    assert "".join(lines).isprintable(), f"cannot be printed: {text!r}"


def from_file(read: Callable[[Path], object], name: str) -> Callable[[bytes], object]:
    """Returns what reads bytes where a parser takes a path.

    Args:
        read: The parser.
        name: Of the file; its suffix may matter.
    """

    def read_bytes(content: bytes) -> object:
        path = Path(_FOLDER.name) / name
        path.write_bytes(content)
        path.chmod(0o600)
        return read(path)

    return read_bytes


def by_first_byte(*readers: Callable[[bytes], object]) -> Callable[[bytes], object]:
    """Returns one parser for several: the first byte says which reads the rest."""

    def read(content: bytes) -> object:
        chosen = content[0] if content else 0
        return readers[chosen % len(readers)](content[1:])

    return read

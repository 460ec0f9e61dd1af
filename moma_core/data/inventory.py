"""What a source passed over while it looked for patches, counted and named by kind."""

from dataclasses import dataclass, field
from typing import Literal

MOST_NAMED = 20
_MOST_KINDS = 60  # a scanner that counts in suffixes makes no list of a million

Kind = Literal[
    "hidden",
    "system",
    "suffix",
    "special",
    "link",
    "empty_class",
    "stray_folder",
    "split_beside",
    "left_out",
    "column",
    "blank_row",
    "member",
    "missing",
    "unannotated",
    "stray_annotation",
]
"""Why a thing was passed over; `_WORDS` says it in words."""

_WORDS: dict[Kind, str] = {
    "hidden": "hidden, with a dot before the name",
    "system": "an operating system's own, no data",
    "suffix": "files of a kind that is not read",
    "special": "no files but pipes, sockets or devices",
    "link": "links that lead out of the data folder, in a circle or nowhere",
    "empty_class": "class folders without a picture that can be read",
    "stray_folder": "folders without a picture that can be read",
    "split_beside": "splits beside data.root, which itself is named like one; if it is "
    "one, data.root is the folder above",
    "left_out": "pictures that the layout of the data set leaves out",
    "column": "columns that are not read",
    "blank_row": "rows without a cell",
    "member": "arrays that are not read",
    "missing": "pictures that are listed and are not there",
    "unannotated": "slides without annotations, so that no patch of theirs has a class",
    "stray_annotation": "annotations of no slide; their name is a slide's, with or "
    "without its ending, and .geojson",
}
_ORDINARY: frozenset[Kind] = frozenset({"hidden", "system", "left_out", "blank_row"})


@dataclass(frozen=True, slots=True)
class PassedOver:
    """Things of one kind that were passed over.

    Args:
        kind: Why.
        what: The suffix in lower case (`.svs`) where the kind is `suffix`; else empty.
        count: How many.
        names: Some of them, at most MOST_NAMED: paths below the folder, columns or
            lines. Printable; for the site alone.
    """

    kind: Kind
    what: str
    count: int
    names: tuple[str, ...]

    @property
    def is_ordinary(self) -> bool:
        """Whether nobody needs to be warned: this is in every folder, or wanted."""
        return self.kind in _ORDINARY

    def __str__(self) -> str:
        """One line without names: `files of a kind that is not read (.svs): 3`."""
        detail = f" ({self.what or 'other'})" if self.kind == "suffix" else ""
        return f"{_WORDS[self.kind]}{detail}: {self.count}"


@dataclass(slots=True)
class Inventory:
    """Counts what is passed over, while a source is being listed."""

    _counts: dict[tuple[Kind, str], int] = field(default_factory=dict)
    _names: dict[tuple[Kind, str], list[str]] = field(default_factory=dict)

    def note(self, kind: Kind, name: str, what: str = "") -> None:
        """Counts one thing.

        Args:
            kind: Why it is passed over.
            name: Its path or its column; undecodable bytes are made printable.
            what: The suffix, where the kind is `suffix`.
        """
        key = kind, what
        if key not in self._counts and len(self._counts) >= _MOST_KINDS:
            key = kind, ""
        self._counts[key] = self._counts.get(key, 0) + 1
        names = self._names.setdefault(key, [])
        if len(names) < MOST_NAMED:
            names.append(printable(name))

    def passed_over(self) -> tuple[PassedOver, ...]:
        """Returns what was counted, the most first."""
        found = (
            PassedOver(*key, count=count, names=tuple(self._names[key]))
            for key, count in self._counts.items()
        )
        return tuple(sorted(found, key=lambda each: (-each.count, each.kind)))


def printable(name: str) -> str:
    r"""Returns a file's name as it can be written: `M\xfcller.png` if no UTF-8."""
    text = name.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "".join(
        letter if letter.isprintable() else repr(letter)[1:-1] for letter in text
    )

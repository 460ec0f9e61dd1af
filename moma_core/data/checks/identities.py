"""Names of patients and slides that may not say who is who."""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from moma_core.data.checks.samples import MOST_NAMED, some
from moma_core.data.consistency import disagreeing
from moma_core.data.patch import SPLITS, UNKNOWN_SLIDE, PatchIndex
from moma_core.runtime.finding import Finding

_ROUNDED = re.compile(r"\d[.,]?\d*e\+\d+", re.IGNORECASE)
"""What a spreadsheet makes of a long number."""


class NamedPatches(Protocol):
    """Patches whose rows have names, for the site alone."""

    @property
    def index(self) -> PatchIndex:
        """The rows."""
        ...

    def place_of(self, row: int) -> str:
        """Returns where a row comes from, such as its file or its line."""
        ...

    def patient_of(self, row: int) -> str | None:
        """Returns the patient of a row."""
        ...

    def slide_of(self, row: int) -> str | None:
        """Returns the slide of a row."""
        ...


def look_at_identities(patches: NamedPatches) -> Iterator[Finding]:
    """Yields patients, or slides, whose names may not say who is who.

    Those that differ by how they are written alone, long numbers that were rounded, and
    a slide of two patients. `P1`, `p1`, `P01` and `P 1` are one patient in most
    hospitals, and four to a program: figures count them four times, and nobody sees one
    of them in two splits.
    """
    index = patches.index
    looks = [("patient", index.patients, patches.patient_of)]
    if index.slides is not None:
        looks.append(("slide", index.slides, patches.slide_of))
    for noun, codes, name_of in looks:
        yield from _alike(noun, codes, name_of, patches)
        yield from _rounded(noun, codes, name_of, patches)
    if index.slides is not None:
        yield from _shared(index, index.slides, patches)


def _alike(
    noun: str,
    codes: NDArray[np.int32],
    name_of: Callable[[int], str | None],
    patches: NamedPatches,
) -> Iterator[Finding]:
    groups: dict[str, list[int]] = {}
    for row, name in first_rows(codes, name_of):
        groups.setdefault(_folded(name), []).append(row)
    pairs = [rows for rows in groups.values() if len(rows) > 1]
    if not pairs:
        return
    splits = patches.index.splits
    torn = sum(
        len({int(s) for row in rows for s in np.unique(splits[codes == codes[row]])})
        > 1
        for rows in pairs[:MOST_NAMED]
    )
    several = "s are" if len(pairs) > 1 else " is"
    text = (
        f"{len(pairs)} {noun}{several} written in ways that differ by case, blanks, "
        f"hyphens or zeros alone, and count as different ones"
    )
    if torn:
        text += f", {torn} of them in two splits"
    text += f": write each {noun} in one way, if they are one"
    more = some(pairs, lambda rows: _line(rows, name_of, patches))
    yield Finding("data", "warning", text, more=more)


def first_rows(
    codes: NDArray[np.int32], name_of: Callable[[int], str | None]
) -> Iterator[tuple[int, str]]:
    """Yields, of each patient or slide that has a name, the first row and the name."""
    found, rows = np.unique(codes, return_index=True)
    for code, row in zip(found.tolist(), rows.tolist(), strict=True):
        name = name_of(row)
        if code >= 0 and name is not None:
            yield row, name


def _rounded(
    noun: str,
    codes: NDArray[np.int32],
    name_of: Callable[[int], str | None],
    patches: NamedPatches,
) -> Iterator[Finding]:
    """Yields whether a spreadsheet has rounded names that are long numbers."""
    named = first_rows(codes, name_of)
    rows = [row for row, name in named if _ROUNDED.fullmatch(name)]
    if not rows:
        return
    were = "name was" if len(rows) == 1 else "names were"
    text = (
        f"{len(rows)} {noun} {were} rounded by a spreadsheet, and may stand for "
        f"several {noun}s each: have it hold this column as text, and export it again"
    )
    more = some(rows, lambda row: _line([row], name_of, patches))
    yield Finding("data", "warning", text, more=more)


def _shared(
    index: PatchIndex, slides: NDArray[np.int32], patches: NamedPatches
) -> Iterator[Finding]:
    """Yields the slides in two splits whose rows do not name one patient.

    Patients in two splits are refused, and slides of unknown patients; between the two
    are slides of several patients, and those of which some rows alone name one.
    """
    torn = disagreeing(slides, index.splits, np.flatnonzero(slides != UNKNOWN_SLIDE))
    if not torn:
        return
    several = "s are" if len(torn) > 1 else " is"
    text = (
        f"{len(torn)} slide{several} in two splits, since the patches name several "
        f"patients, or some of them none: a student would be judged by what it "
        f"learned; name one patient for each slide, and where each patient's slides "
        f"are numbered from 1, write the patient before the number"
    )
    more = some(torn, lambda pair: _slides_line(pair, patches))
    yield Finding("data", "warning", text, more=more)


def _slides_line(rows: Sequence[int], patches: NamedPatches) -> str:
    return " and ".join(
        f"slide {patches.slide_of(row)!r} of {patches.patient_of(row)!r} in "
        f"{SPLITS[patches.index.splits[row]]} ({patches.place_of(row)})"
        for row in rows
    )


def _line(
    rows: list[int], name_of: Callable[[int], str | None], patches: NamedPatches
) -> str:
    return " and ".join(
        f"{name_of(row)!r} in {SPLITS[patches.index.splits[row]]} "
        f"({patches.place_of(row)})"
        for row in rows
    )


def _folded(name: str) -> str:
    """Returns what is left of a name when how it is written does not count."""
    text = unicodedata.normalize("NFKC", name).casefold()
    text = re.sub(r"^(\d+)\.0+$", r"\1", text.strip())  # of a table with a gap
    text = re.sub(r"[\s_-]+", "", text)
    return re.sub(r"\d+", lambda number: number[0].lstrip("0") or "0", text)

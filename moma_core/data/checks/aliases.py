"""Patients who may have several names: by a date, or by the split that they are in."""

import re
from collections import defaultdict
from collections.abc import Iterator
from datetime import date

import numpy as np

from moma_core.data.checks.identities import NamedPatches, first_rows
from moma_core.data.checks.samples import some
from moma_core.data.patch import SPLITS, UNKNOWN_CENTRE, PatchIndex
from moma_core.data.splits import SPLIT_NAMES
from moma_core.runtime.finding import Finding

_YEAR_FIRST = re.compile(r"((?:19|20)\d\d)([-./])(\d\d)\2(\d\d)")
_YEAR_LAST = re.compile(r"(\d\d?)([-./])(\d\d?)\2((?:19|20)\d\d)")
_ENDING = re.compile(r"(.*\d)[-_. ]?([^\W\d_]+)")
"""`P01-T`: a name that ends in a number, and letters behind it."""

_SPLIT_ENDINGS = frozenset({*SPLIT_NAMES, "t", "tr", "trn", "v", "d", "u", "te", "h"})
"""How people write a split behind a name; other letters may be a centre's."""


def look_at_aliases(patches: NamedPatches) -> Iterator[Finding]:
    """Yields patients that are called by a date, or that end as their split does.

    Nobody sees one of them in two splits, if each split calls the patient otherwise.
    """
    rows = dict(first_rows(patches.index.patients, patches.patient_of))
    yield from _dates(rows, patches)
    yield from _endings(rows, patches)


def _dates(names: dict[int, str], patches: NamedPatches) -> Iterator[Finding]:
    dated = {row: days for row, name in names.items() if (days := _days(name))}
    if not dated:
        return
    of_day: defaultdict[date, list[int]] = defaultdict(list)
    for row, days in dated.items():
        for day in days:
            of_day[day].append(row)
    several = dict.fromkeys(tuple(rows) for rows in of_day.values() if len(rows) > 1)
    look = "patient name looks" if len(dated) == 1 else "patient names look"
    text = (
        f"{len(dated)} {look} like a date: two patients may share a day, and a day "
        f"that is written in two ways counts as two patients; name each patient by a "
        f"pseudonym"
    )
    if several:
        text += f" ({len(several)} may be one day, written in several ways)"
    lines = list(several) or [(row,) for row in dated]
    more = some(lines, lambda rows: _line(rows, names, patches))
    yield Finding("data", "warning", text, more=more)


def _days(name: str) -> frozenset[date]:
    """Returns the days that a name may mean; 3/2/1950 is in March or in February."""
    if match := _YEAR_FIRST.fullmatch(name):
        orders = [(match[1], match[3], match[4])]
    elif match := _YEAR_LAST.fullmatch(name):
        orders = [(match[4], match[1], match[3]), (match[4], match[3], match[1])]
    else:
        return frozenset()
    days = set()
    for order in orders:
        year, month, day = map(int, order)
        try:
            days.add(date(year, month, day))
        except ValueError:
            continue  # no such day: the other order was meant
    return frozenset(days)


def _endings(names: dict[int, str], patches: NamedPatches) -> Iterator[Finding]:
    """Yields whether all patients end as their split does, and begin as others do.

    Two centres may count their patients alike, and end each name in their own.
    """
    splits = patches.index.splits
    begun: defaultdict[str, list[int]] = defaultdict(list)
    endings: defaultdict[int, set[str]] = defaultdict(set)
    for row, name in names.items():
        match = _ENDING.fullmatch(name)
        if match is None or match[2].casefold() not in _SPLIT_ENDINGS:
            return
        begun[match[1].casefold()].append(row)
        endings[int(splits[row])].add(match[2].casefold())
    own = [ending for found in endings.values() for ending in found]
    if len(own) != len(endings) or len(set(own)) != len(own):
        return
    torn = [
        tuple(rows)
        for rows in begun.values()
        if len(np.unique(splits[rows])) > 1 and not _are_apart(rows, patches.index)
    ]
    if not torn:
        return
    several = "patients are" if len(torn) > 1 else "patient is"
    text = (
        f"{len(torn)} {several} in two splits, it seems, under names that end as the "
        f"split does ({', '.join(sorted(own))}): a student would be judged by what it "
        f"learned; take the endings off, and keep each patient in one split"
    )
    more = some(torn, lambda rows: _line(rows, names, patches))
    yield Finding("data", "warning", text, more=more)


def _are_apart(rows: list[int], index: PatchIndex) -> bool:
    """Whether each row is known to be of another centre."""
    if index.centres is None:
        return False
    centres = index.centres[rows]
    known = centres[centres != UNKNOWN_CENTRE]
    return len(np.unique(known)) == len(rows)


def _line(rows: tuple[int, ...], names: dict[int, str], patches: NamedPatches) -> str:
    return " and ".join(
        f"{names[row]!r} in {SPLITS[patches.index.splits[row]]} "
        f"({patches.place_of(row)})"
        for row in rows
    )

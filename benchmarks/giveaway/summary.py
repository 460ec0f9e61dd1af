"""From the raw rows to three tables."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from benchmarks.csv_file import Line
from benchmarks.giveaway.intervals import (
    FIGURES,
    Interval,
    attack_interval,
    difference_in_agreement,
)

Entry = dict[str, Any]
Summary = dict[str, list[Entry]]
Group = tuple[str, ...]

_OUTPUT, _COVERAGE = 1, 2  # in the group of a student
_RICHEST = "embedding + logits"
_STUDENT = ("agreement", "kl", "l1", "cosine", "accuracy")


def summary(rows: Iterable[Line]) -> Summary:
    """Returns the entries of `students`, `differences`, `members`, `layers`."""
    found = list(rows)
    students = _grouped(found, "students", ("student", "output", "coverage", "patches"))
    return {
        "students": [_student(*pair) for pair in students.items()],
        "differences": _differences(students),
        "members": [
            _attack(*pair)
            for pair in _grouped(found, "members", ("groups", "attack")).items()
        ],
        "layers": [
            _layer(*pair)
            for pair in _grouped(
                found, "layers", ("layer", "answers", "steps", "size")
            ).items()
        ],
    }


def _grouped(
    rows: Iterable[Line], part: str, names: Sequence[str]
) -> dict[Group, list[Line]]:
    groups: defaultdict[Group, list[Line]] = defaultdict(list)
    for row in rows:
        if row["part"] == part:
            groups[tuple(row[name] for name in names)].append(row)
    for group in groups.values():
        group.sort(key=lambda row: int(row["seed"]))
    return groups


def _student(group: Group, rows: list[Line]) -> Entry:
    student, output, coverage, patches = group
    entry: Entry = {
        "student": student,
        "output": output,
        "coverage": coverage,
        "patches": int(patches),
        "queries": round(float(np.mean([int(row["queries"]) for row in rows]))),
        "seeds": len(rows),
    }
    for name in _STUDENT:
        values = [float(row[name]) for row in rows]
        deviation = np.std(values, ddof=1) if len(values) > 1 else float("nan")
        entry[name] = round(float(np.mean(values)), 4)
        entry[f"{name}_std"] = round(float(deviation), 4)
    return entry


def _differences(students: dict[Group, list[Line]]) -> list[Entry]:
    """Compares what is answered with the logits and with nothing, and coverages."""
    entries = []
    for one in students:
        for other in students:
            changed = [a for a, b in zip(one, other, strict=True) if a != b]
            if len(changed) == 1 and _is_reference(one, other):
                entries.append(_difference(students, one, other))
    return [entry for entry in entries if entry["seeds"]]


def _is_reference(one: Group, other: Group) -> bool:
    if one[_COVERAGE] != other[_COVERAGE]:
        return other[_COVERAGE] == "three tissues"
    if one[_OUTPUT] == other[_OUTPUT]:
        return False
    return other[_OUTPUT] == "own labels" or one[_OUTPUT] == _RICHEST


def _difference(students: dict[Group, list[Line]], one: Group, other: Group) -> Entry:
    ours, theirs = ({row["seed"]: row for row in students[g]} for g in (one, other))
    shared = sorted(ours.keys() & theirs.keys())
    entry: Entry = {"one": ", ".join(one), "other": ", ".join(other)}
    entry["seeds"] = len(shared)
    if shared:
        entry["agreement"] = _rounded(
            difference_in_agreement(
                [_ones(ours[seed]["agrees"]) for seed in shared],
                [_ones(theirs[seed]["agrees"]) for seed in shared],
            )
        )
    return entry


def _ones(digits: str) -> np.ndarray:
    return np.array(list(map(float, digits)))


def _attack(group: Group, rows: list[Line]) -> Entry:
    entry: Entry = {"groups": group[0], "attack": group[1], "seeds": len(rows)}
    scores = [
        (
            np.array(row["first_scores"].split(), dtype=float),
            np.array(row["second_scores"].split(), dtype=float),
        )
        for row in rows
    ]
    for name, figure in FIGURES.items():
        entry[name] = _rounded(attack_interval(scores, figure))
    return entry


def _rounded(interval: Interval) -> Entry:
    return {name: round(value, 3) for name, value in interval._asdict().items()}


def _layer(group: Group, rows: list[Line]) -> Entry:
    layer, answers, steps, size = group
    errors = [float(row["relative_error"]) for row in rows]
    return {
        "layer": layer,
        "answers": int(answers),
        "steps": int(steps),
        "size": float(size),
        "seeds": len(rows),
        "relative_error": float(f"{np.median(errors):.2g}"),
        "worst": float(f"{max(errors):.2g}"),
    }

"""How a run went, from what it left on the disk: losses, figures a round, queries."""

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from moma_core.distillation.step import StepLosses
from moma_core.runtime.json_lines import read_json_objects
from moma_core.training.record import CSV_NAME


class RoundFigure(NamedTuple):
    """A figure of one student after one round.

    Args:
        round: Its number, from 1.
        asked: Patches that the run had asked its teacher by then; None: not known.
        value: The figure.
        low: Lower end of its 95 % interval; None: it has none.
        high: Upper end.
        patches: On how many it was measured; None: an older version did not say.
    """

    round: int
    asked: int | None
    value: float
    low: float | None
    high: float | None
    patches: int | None = None


LossCurves = Mapping[str, Sequence[tuple[int, float]]]
"""Step and value of each loss term, by its name, but for those that are always 0."""


def loss_curves(student: Path) -> LossCurves:
    """Returns the losses of a student's training; empty: nothing was kept."""
    found: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
    try:
        with (student / CSV_NAME).open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                for term in StepLosses._fields:
                    if row.get(term) and (row.get("step") or "").isdigit():
                        found[term].append((int(row["step"]), float(row[term])))
    except (OSError, ValueError, csv.Error):
        return {}
    return {term: points for term, points in found.items() if any(v for _, v in points)}


def round_figures(
    run: Path, methods: Sequence[str], figure: str, split: str
) -> dict[str, list[RoundFigure]]:
    """Returns a figure after each training round, by method.

    Args:
        run: Folder of the run.
        methods: Names of the students.
        figure: For example `macro_f1`.
        split: On which it was measured.
    """
    found: dict[str, list[RoundFigure]] = {}
    for line in read_json_objects(run / "figures.jsonl"):
        if line.get("kind") != "train":
            continue
        for method in methods:
            each = _figure(line, method, split, figure)
            if each is not None:
                found.setdefault(method, []).append(each)
    return found


def outputs_of_first_round_alone(
    figures: Mapping[str, Sequence[RoundFigure]], asking: Sequence[str]
) -> int | None:
    """Returns how many outputs the first round asked, if the later ones asked none.

    None: a later round asked, or it is not known, or there is one round alone.

    Args:
        figures: A figure after each round, by method.
        asking: Methods that ask a teacher.
    """
    known = [
        each.asked
        for method in asking
        for each in figures.get(method, ())
        if each.asked is not None
    ]
    rounds = {each.round for method in asking for each in figures.get(method, ())}
    return known[0] if len(rounds) > 1 and len(set(known)) == 1 else None


def _figure(
    line: Mapping[str, Any], method: str, split: str, figure: str
) -> RoundFigure | None:
    try:
        found = line["details"][method][split]["figures"][figure]
        if found["value"] is None:
            return None
        return RoundFigure(
            int(line["round"]),
            line.get("asked"),
            float(found["value"]),
            found["low"],
            found["high"],
            found.get("patches"),
        )
    except (KeyError, TypeError, ValueError):
        return None

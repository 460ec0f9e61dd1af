"""From the lines of the results to the figures of each row."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np

from benchmarks.csv_file import Line
from benchmarks.quality.rows import FEDERATION_ROWS, MOVING_ROWS, VIEW_ROWS
from benchmarks.quality.statistics import Difference, holm, paired_difference
from benchmarks.quality.trials import ROWS
from moma_core.distillation.methods.names import need_of

REFERENCES = (
    "ce",
    "kd",
    "hint",
    "moma",
    "online",
    "frozen-online",
    "alone-ce",
    "alone-moma",
)
_OF_VIEWS, _OF_MOVING, _OF_SITES = (
    {row.name for row in rows} for rows in (VIEW_ROWS, MOVING_ROWS, FEDERATION_ROWS)
)
Group = tuple[str, ...]
Entry = dict[str, Any]


def summary(lines: Iterable[Line], stage: str) -> list[Entry]:
    """Returns one entry for each row of each comparison.

    Differences are of the unseen centre in the final stage, else of validation, over
    the seeds that both sides have; their p-values are corrected within a comparison.
    """
    split = "unseen" if stage == "final" else "validation"
    grouped: defaultdict[Group, defaultdict[str, dict[int, Line]]]
    grouped = defaultdict(lambda: defaultdict(dict))
    for line in lines:
        if line["stage"] == stage:
            names = ["scenario", "student", "labels", "unlabelled", "steps"]
            if stage == "tuning":
                names += ["scale", "rate"]
            group = tuple(line[name] for name in names)
            grouped[group][line["row"]][int(line["seed"])] = line
    entries = []
    for group, rows in grouped.items():
        found = [_entry(group, row, seeds, split) for row, seeds in rows.items()]
        for reference in REFERENCES:
            _compare(found, rows, reference, split)
        entries += found
    return entries


def _entry(group: Group, row: str, seeds: dict[int, Line], split: str) -> Entry:
    scenario, student, labels, unlabelled, steps, *tuned = group
    entry: Entry = {
        "scenario": scenario,
        "student": student,
        "labels": int(labels),
        "unlabelled": int(unlabelled),
        "steps": int(steps),
        "tuned": " at weight {}, rate {}".format(*tuned) if tuned else "",
        "row": row,
        "needs": need_of(ROWS[row].method),
        "seeds": len(seeds),
        "answers": round(_mean(seeds, "answers")),
        "seconds": round(_mean(seeds, "seconds"), 1),
        "validation_macro_f1": round(_mean(seeds, "validation_macro_f1"), 4),
    }
    for name in ("accuracy", "macro_f1", "kappa", "ece"):
        values = [float(line[f"{split}_{name}"]) for line in seeds.values()]
        entry[name] = round(float(np.mean(values)), 4)
        deviation = np.std(values, ddof=1) if len(values) > 1 else float("nan")
        entry[f"{name}_std"] = round(float(deviation), 4)
    return entry


def _compare(
    entries: list[Entry],
    rows: dict[str, dict[int, Line]],
    reference: str,
    split: str,
) -> None:
    """Adds the difference of each row to `reference`."""
    found: dict[str, Difference] = {}
    for row, seeds in rows.items():
        if reference not in references_of(row):
            continue
        shared = sorted(seeds.keys() & rows.get(reference, {}).keys())
        if row != reference and shared:
            found[row] = paired_difference(
                _classes(seeds[shared[0]][f"{split}_truth"]),
                [_classes(seeds[seed][f"{split}_predicted"]) for seed in shared],
                [
                    _classes(rows[reference][seed][f"{split}_predicted"])
                    for seed in shared
                ],
            )
    corrected = holm([difference.p for difference in found.values()])
    for (row, difference), p in zip(found.items(), corrected, strict=True):
        entry = next(entry for entry in entries if entry["row"] == row)
        entry[f"minus_{reference}"] = {
            "mean": round(difference.mean, 4),
            "low": round(difference.low, 4),
            "high": round(difference.high, 4),
            "p_holm": round(p, 4),
        }


def references_of(row: str) -> tuple[str, ...]:
    """Returns whom a row is held against: one that differs in what the row shows."""
    if row in _OF_VIEWS:
        return ("online",)
    if row in _OF_MOVING:  # a teacher that moves cannot be asked from a bank
        return ("ce", "kd", "frozen-online")
    if row in _OF_SITES:
        return ("alone-ce", "alone-moma")
    return ("ce", "kd", "hint", "moma")


def _classes(digits: str) -> np.ndarray:
    return np.array(list(map(int, digits)))


def _mean(seeds: dict[int, Line], name: str) -> float:
    return float(np.mean([float(line[name]) for line in seeds.values()]))

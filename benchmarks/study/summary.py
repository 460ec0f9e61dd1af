"""From a study's lines to its tables: in-centre, unseen centre, and the drop."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import log
from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np

from benchmarks.csv_file import Line
from benchmarks.quality.statistics import Classes, Difference, holm
from benchmarks.study.bench import DIGITS
from benchmarks.study.intervals import grouped_difference
from benchmarks.study.preset import Study
from benchmarks.study.trials import Tuned

HELD_AGAINST = ("ce", "kd", "hint", "moma")
MARGIN = 0.01

Seeds = Mapping[int, Line]


class Comparison(NamedTuple):
    """A row against another one."""

    difference: Difference
    p_holm: float


def best_of(study: Study, lines: Iterable[Line]) -> dict[str, Tuned]:
    """Returns what each row reached most with, on validation, mean over scenarios."""
    found: defaultdict[str, defaultdict[Tuned, list[float]]]
    found = defaultdict(lambda: defaultdict(list))
    for line in lines:
        if line["stage"] == "tuning":
            at = Tuned(float(line["scale"]), float(line["rate"]))
            found[line["row"]][at].append(float(line["validation_macro_f1"]))

    def nearness(at: Tuned) -> float:
        return -abs(log(at.scale)) - abs(log(at.rate / study.rate))

    return {
        row: max(tried, key=lambda at: (fmean(tried[at]), nearness(at)))
        for row, tried in found.items()
    }


def tables(study: Study, lines: Iterable[Line]) -> str:
    """Returns every table as Markdown."""
    kept = list(lines)
    parts = [_noise(kept)] if any(line["stage"] == "noise" for line in kept) else []
    grouped: defaultdict[tuple[str, str], defaultdict[str, dict[int, Line]]]
    grouped = defaultdict(lambda: defaultdict(dict))
    for line in kept:
        if line["stage"] == "final":
            group = (line["scenario"], line["student"])
            grouped[group][line["row"]][int(line["seed"])] = line
    parts += [_table(study, *group, rows) for group, rows in grouped.items()]
    return "\n\n".join(parts)


def _noise(lines: Sequence[Line]) -> str:
    """Returns how far the same trial lies from itself when it is run again."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for line in lines:
        if line["stage"] == "noise":
            found[line["row"]].append(float(line["validation_macro_f1"]))
    told = [
        f"{row} {stdev(values):.4f} ({len(values)} runs, "
        f"{min(values):.3f} to {max(values):.3f})"
        for row, values in found.items()
        if len(values) > 1
    ]
    return f"Standard deviation of one trial that is run again: {'; '.join(told)}."


def _table(study: Study, scenario: str, student: str, rows: Mapping[str, Seeds]) -> str:
    lines_of = [line for seeds in rows.values() for line in seeds.values()]
    has_unseen = any(line["unseen_truth"] for line in lines_of)
    split = "unseen" if has_unseen else "validation"
    compared = _compared(rows, split)
    head = ["row", "seeds", "in-centre", "unseen centre", "drop"]
    head += ["kappa"] if study.is_ordered else []
    head += [f"- {name} (95 %)" for name in compared]
    lines = [f"### {scenario}: student {student}", "", _cells(head)]
    lines.append(_cells(["---"] * len(head)))
    for row, seeds in rows.items():
        cells = [row, str(len(seeds)), *_scores(seeds)]
        if study.is_ordered:
            cells.append(_spread(seeds, f"{split}_kappa_quadratic"))
        cells += [_difference(found.get(row)) for found in compared.values()]
        lines.append(_cells(cells))
    lines += ["", *_verdicts(compared)]
    return "\n".join([*lines, "", *_in_centre(rows)] if has_unseen else lines)


def _in_centre(rows: Mapping[str, Seeds]) -> list[str]:
    """Returns the differences in the training centre, where another one is the table's.

    Drawn over the seeds alone, since each may have other patches there.
    """
    compared = _compared(rows, "validation")
    head = ["in-centre", *[f"- {name} (95 %)" for name in compared]]
    lines = [_cells(head), _cells(["---"] * len(head))]
    for row in rows:
        cells = [_difference(found.get(row)) for found in compared.values()]
        lines.append(_cells([row, *cells]))
    return lines


def _compared(
    rows: Mapping[str, Seeds], split: str
) -> dict[str, dict[str, Comparison]]:
    return {name: compare(rows, name, split) for name in HELD_AGAINST if name in rows}


def compare(rows: Mapping[str, Seeds], name: str, split: str) -> dict[str, Comparison]:
    """Returns each row's difference to one, over the seeds of both, Holm's p beside."""
    found: dict[str, Difference] = {}
    for row, seeds in rows.items():
        shared = sorted(seeds.keys() & rows[name].keys())
        shared = [seed for seed in shared if seeds[seed][f"{split}_truth"]]
        if row == name or not shared:
            continue
        # Each seed may have another validation split: seeds alone can be drawn there.
        parts = [shared] if split == "unseen" else [[seed] for seed in shared]
        each = [_difference_of(rows, row, name, split, part) for part in parts]
        found[row] = each[0] if len(each) == 1 else _over_seeds(each)
    corrected = holm([difference.p for difference in found.values()])
    pairs = zip(found.items(), corrected, strict=True)
    return {row: Comparison(difference, p) for (row, difference), p in pairs}


def _difference_of(
    rows: Mapping[str, Seeds], row: str, name: str, split: str, seeds: Sequence[int]
) -> Difference:
    first = rows[row][seeds[0]]
    truth = _numbers(first[f"{split}_truth"])
    groups = np.array(list(map(int, first[f"{split}_groups"].split())))
    ours, theirs = (
        [_predicted(rows[each][seed][f"{split}_predicted"]) for seed in seeds]
        for each in (row, name)
    )
    evaluations = max(map(len, (*ours, *theirs)))
    return grouped_difference(
        truth,
        [_repeated(each, evaluations) for each in ours],
        [_repeated(each, evaluations) for each in theirs],
        groups,
    )


def _over_seeds(each: Sequence[Difference]) -> Difference:
    """Returns the mean of seeds that share no image, with a bootstrap over them."""
    means = np.array([one.mean for one in each])
    random = np.random.default_rng(0)
    drawn = random.choice(means, size=(2000, len(means))).mean(axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    p = 2 * min((drawn <= 0).mean(), (drawn >= 0).mean())
    return Difference(
        float(means.mean()), float(low), float(high), float(min(1, max(p, 1 / 2000)))
    )


def _repeated(said: Classes, evaluations: int) -> Classes:
    """A row without a student is looked at once, and stands for each evaluation."""
    return said if len(said) == evaluations else np.repeat(said[:1], evaluations, 0)


def _verdicts(compared: Mapping[str, Mapping[str, Comparison]]) -> list[str]:
    """Returns who is not worse than CE, and than the default, by the margin."""
    told = []
    for name in ("ce", "moma"):
        good = [
            row
            for row, found in compared.get(name, {}).items()
            if found.difference.low > -MARGIN
        ]
        if name in compared:
            shown = ", ".join(good) or "none"
            told.append(
                f"Not worse than {name} by {MARGIN:g} of macro-F1, shown: {shown}."
            )
    return told


def _scores(seeds: Seeds) -> list[str]:
    drops = [
        float(line["validation_macro_f1"]) - float(line["unseen_macro_f1"])
        for line in seeds.values()
        if line["unseen_macro_f1"] and line["validation_macro_f1"]
    ]
    return [
        _spread(seeds, "validation_macro_f1"),
        _spread(seeds, "unseen_macro_f1"),
        f"{fmean(drops):+.3f}" if drops else "",
    ]


def _spread(seeds: Seeds, name: str) -> str:
    values = [float(line[name]) for line in seeds.values() if line[name]]
    if not values:
        return ""
    spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
    return f"{fmean(values):.3f}{spread}"


def _difference(found: Comparison | None) -> str:
    if found is None:
        return ""
    one, star = found.difference, "*" if found.p_holm < 0.05 else ""
    return f"{one.mean:+.3f} ({one.low:+.3f} to {one.high:+.3f}){star}"


def _cells(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _numbers(text: str) -> Classes:
    return np.array([DIGITS.index(letter) for letter in text])


def _predicted(text: str) -> Classes:
    return np.stack([_numbers(part) for part in text.split("|")])

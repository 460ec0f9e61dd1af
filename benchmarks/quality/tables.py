"""The figures as Markdown: an overview of the methods, and every comparison whole."""

from collections import defaultdict

from benchmarks.quality.rows import METHOD_ROWS
from benchmarks.quality.summary import REFERENCES, Entry
from benchmarks.quality.tissue import SCENARIOS
from benchmarks.quality.trials import LABELS, STEPS, UNLABELLED

MARGIN = 0.02
_IN_SITE = {"nothing": "no teacher", "outputs": "any teacher"}


def overview(entries: list[Entry]) -> str:
    """Returns macro-F1 of each method in each scenario, ImageNet students."""
    found = {
        (entry["row"], entry["scenario"]): entry
        for entry in entries
        if (entry["student"], entry["labels"], entry["steps"])
        == ("imagenet", LABELS, STEPS)
        and entry["unlabelled"] == UNLABELLED
    }
    head = ["method", "allowed by", *SCENARIOS]
    lines = [_cells(head), _cells(["---"] * len(head))]
    for row in METHOD_ROWS:
        own = [found.get((row.name, scenario)) for scenario in SCENARIOS]
        needs = next((entry["needs"] for entry in own if entry), None)
        if needs:
            allowed = _IN_SITE.get(needs, f"a local teacher ({needs})")
            scores = [_spread(entry, "macro_f1") if entry else "" for entry in own]
            lines.append(_cells([row.name, allowed, *scores]))
    return "\n".join(lines)


def _spread(entry: Entry, name: str) -> str:
    """Returns mean and standard deviation over seeds; one seed has no deviation."""
    mean = f"{entry[name]:.3f}"
    return mean if entry["seeds"] < 2 else f"{mean} ± {entry[f'{name}_std']:.3f}"


def as_markdown(entries: list[Entry]) -> str:
    """Returns one table for each comparison."""
    titled: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        titled[_title(entry)].append(entry)
    tables = [_table(title, rows) for title, rows in titled.items()]
    return "\n\n".join([*tables, *_verdicts(entries)])


def _verdicts(entries: list[Entry]) -> list[str]:
    """Returns whether V views are as good as asking anew, within the margin."""
    verdicts = []
    for entry in entries:
        found = entry.get("minus_online")
        if found:
            is_shown = found["low"] > -MARGIN
            verdicts.append(
                f"{entry['row']} is {'' if is_shown else 'not shown to be '}"
                f"non-inferior to online by {MARGIN:g} of macro-F1: the interval "
                f"begins at {found['low']:+.3f}, with {entry['answers']} answers."
            )
    return verdicts


def _title(entry: Entry) -> str:
    return (
        f"{entry['scenario']}: {entry['student']} student, {entry['labels']} labelled "
        f"and up to {entry['unlabelled']} unlabelled patches, {entry['steps']} steps"
        f"{entry['tuned']}"
    )


def _table(title: str, rows: list[Entry]) -> str:
    references = [
        name for name in REFERENCES if any(f"minus_{name}" in r for r in rows)
    ]
    head = ["row", "needs", "seeds", "accuracy", "macro-F1", "kappa", "ECE"]
    head += [f"- {name} (95 %)" for name in references] + ["answers", "s"]
    lines = [f"### {title}", "", _cells(head), _cells(["---"] * len(head))]
    return "\n".join([*lines, *(_cells(_line(row, references)) for row in rows)])


def _line(entry: Entry, references: list[str]) -> list[str]:
    is_ordered = entry["scenario"] == "stain"
    return [
        entry["row"],
        entry["needs"],
        str(entry["seeds"]),
        _spread(entry, "accuracy"),
        _spread(entry, "macro_f1"),
        f"{entry['kappa']:.3f}" if is_ordered else "",
        f"{entry['ece']:.3f}",
        *(_difference(entry.get(f"minus_{name}")) for name in references),
        str(entry["answers"]),
        f"{entry['seconds']:.0f}",
    ]


def _cells(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _difference(found: Entry | None) -> str:
    if found is None:
        return ""
    star = "*" if found["p_holm"] < 0.05 else ""
    return f"{found['mean']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f}){star}"

"""The pictures of the final table: queries, labels, ablations."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.quality.rows import ABLATION_ROWS, MOVING_ROWS, VIEW_ROWS
from benchmarks.quality.trials import STEPS

Entry = dict[str, Any]

mpl.use("Agg")


def draw(entries: list[Entry], folder: Path) -> list[Path]:
    """Writes the pictures and returns where they lie.

    Args:
        entries: Of `summary`, final stage.
        folder: Is made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {"queries": _queries, "labels": _labels, "ablations": _ablations}
    paths = []
    for name, picture in pictures.items():
        figure = picture(entries)
        paths.append(folder / f"quality-{name}.png")
        figure.savefig(paths[-1], dpi=120, bbox_inches="tight")
    return paths


def _queries(entries: list[Entry]) -> Figure:
    """Macro-F1 against what the teacher was asked: V views, or anew at each draw."""
    figure = Figure(figsize=(6, 4))
    axes = figure.subplots()
    names = {row.name for row in VIEW_ROWS}
    found = [entry for entry in entries if entry["row"] in names]
    found.sort(key=lambda entry: entry["answers"])
    _points(axes, found, "answers", "MoMA")
    for entry in found:
        place = (entry["answers"], entry["macro_f1"])
        axes.annotate(
            entry["row"], place, textcoords="offset points", xytext=(6, 6), fontsize=8
        )
    axes.set_xscale("log")
    ticks = [entry["answers"] for entry in found]
    axes.set_xticks(ticks, list(map(str, ticks)))
    axes.set_xticks([], minor=True)
    axes.set_xlabel("answers of the teacher")
    axes.set_ylabel("macro-F1, unseen centre")
    return figure


def _labels(entries: list[Entry]) -> Figure:
    """Macro-F1 against labels, with and without the unlabelled patches."""
    figure = Figure(figsize=(6, 4))
    axes = figure.subplots()
    same = [
        entry
        for entry in entries
        if (entry["scenario"], entry["student"]) == ("same", "imagenet")
        and entry["steps"] == STEPS
    ]
    for row in ("ce", "kd", "moma"):
        own = sorted(_of_row(same, row), key=lambda entry: entry["labels"])
        alone = [entry for entry in own if not entry["unlabelled"]]
        # Without a teacher unlabelled patches change nothing: one line is enough.
        beside = [entry for entry in own if entry["unlabelled"] > 100]
        if row != "ce":
            _points(axes, alone, "labels", f"{row}, labelled patches only", "--")
        _points(axes, beside, "labels", f"{row}, the rest unlabelled")
    axes.set_xlabel("labelled patches")
    axes.set_ylabel("macro-F1, unseen centre")
    axes.legend(fontsize=8)
    return figure


def _ablations(entries: list[Entry]) -> Figure:
    """Difference of each variant to the default, with its 95 % interval.

    Rows with a teacher that moves are held against a frozen one asked as often.
    """
    names = [row.name for row in (*ABLATION_ROWS, *MOVING_ROWS)]
    figure = Figure(figsize=(9, 0.3 * len(names) + 1.2))
    scenarios = [
        scenario
        for scenario in ("same", "relevant")
        if any((e["row"], e["scenario"]) == (names[0], scenario) for e in entries)
    ]
    panels = figure.subplots(1, max(1, len(scenarios)), sharey=True, squeeze=False)
    for axes, scenario in zip(panels[0], scenarios, strict=False):
        found = {
            entry["row"]: entry.get("minus_moma") or entry["minus_frozen-online"]
            for entry in entries
            if entry["scenario"] == scenario
            and entry.keys() & {"minus_moma", "minus_frozen-online"}
        }
        _bars(axes, names, found)
        axes.set_title(f"{scenario} task", fontsize=10)
        axes.set_xlabel("macro-F1 minus the default's")
    return figure


def _bars(axes: Axes, names: list[str], found: dict[str, Entry]) -> None:
    axes.axvline(0, color="black", linewidth=0.8)
    for place, name in enumerate(reversed(names)):
        if name in found:
            mean, low, high = (found[name][part] for part in ("mean", "low", "high"))
            axes.barh(place, mean, color="tab:blue", alpha=0.6)
            axes.plot([low, high], [place, place], color="black", linewidth=1)
    axes.set_yticks(range(len(names)), list(reversed(names)), fontsize=8)


def _points(
    axes: Axes, entries: list[Entry], across: str, label: str, line: str = "-"
) -> None:
    axes.errorbar(
        [entry[across] for entry in entries],
        [entry["macro_f1"] for entry in entries],
        [entry["macro_f1_std"] for entry in entries],
        fmt=f"o{line}",
        capsize=3,
        label=label,
    )


def _of_row(entries: Iterable[Entry], row: str) -> list[Entry]:
    return [entry for entry in entries if entry["row"] == row]

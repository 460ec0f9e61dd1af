"""A picture of the tables: agreement by budget, and what each attack gains."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.giveaway.summary import Entry, Summary

_MARKS = {"members": "o", "null": "x"}
_LINES = {"linear": "--", "whole": "-"}


def draw(found: Summary, path: Path) -> None:
    """Writes it as PNG."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _students(left, [e for e in found["students"] if e["coverage"] == "all tissues"])
    _attacks(right, found["members"])
    figure.savefig(path, dpi=120)


def _students(axes: Axes, entries: list[Entry]) -> None:
    kinds = dict.fromkeys((e["student"], e["output"]) for e in entries)
    for student, output in kinds:
        own = [e for e in entries if (e["student"], e["output"]) == (student, output)]
        own.sort(key=lambda entry: int(entry["patches"]))
        axes.errorbar(
            [entry["patches"] for entry in own],
            [entry["agreement"] for entry in own],
            yerr=[entry["agreement_std"] for entry in own],
            label=f"{student}: {output}",
            linestyle=_LINES[student],
            capsize=3,
        )
    axes.set(xscale="log", xlabel="patches", ylabel="agreement with the teacher")
    patches = sorted({entry["patches"] for entry in entries})
    axes.set_xticks(patches, list(map(str, patches)))
    axes.minorticks_off()
    axes.legend(fontsize="small")


def _attacks(axes: Axes, entries: list[Entry]) -> None:
    names = list(dict.fromkeys(entry["attack"] for entry in entries))
    for groups, mark in _MARKS.items():
        for entry in entries:
            if entry["groups"] == groups:
                place = names.index(entry["attack"])
                found = entry["advantage"]
                axes.plot([found["low"], found["high"]], [place] * 2, color="grey")
                axes.plot(found["mean"], place, mark, color="black")
    axes.set_yticks(range(len(names)), names)
    axes.axvline(0, color="grey", linewidth=0.8)
    axes.set(xlabel="advantage (o: members, x: nobody was in training)")

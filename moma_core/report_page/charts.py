"""The charts of a report: for a light page, a dark one, paper, and the colour-blind.

Text and lines are drawn in one ink, which is the page's own colour once a chart stands
in it. What a colour says, a marker or a text says too.
"""

import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

WIDTH_INCHES = 4.8
_INK = "#1b1c1e"  # of no colour below, so that the page can put its own there
# After Okabe and Ito (2008), each made to be seen on white and on near-black.
COLOURS = ("#2f7fc1", "#d55e00", "#0f9d75", "#c26aa0", "#c79500", "#45a5dd", "#8a8a8a")
_MARKERS, _DASHES = "osD^vPX*<>", ("-", "--", "-.", ":")
_LONGEST_NAME = 16
_STYLE = {
    "font.size": 9,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "figure.constrained_layout.use": True,
    "font.family": ["DejaVu Sans"],
    "grid.alpha": 0.18,
    "grid.color": _INK,
    "legend.columnspacing": 1.0,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "text.color": _INK,
    "text.parse_math": False,  # a class may be called $5
    "xtick.color": _INK,
    "ytick.color": _INK,
}
_SHADES = LinearSegmentedColormap.from_list(
    "shades", [(0.184, 0.498, 0.757, 0.0), (0.184, 0.498, 0.757, 0.75)]
)
_SIZE = re.compile(r'(<svg[^>]*?) width="[\d.]+pt"([^>]*?)')
_HEIGHT = re.compile(r'(<svg[^>]*?) height="[\d.]+pt"([^>]*?)')


@dataclass(frozen=True, slots=True, eq=False)
class Chart:
    """One chart.

    Args:
        name: Of its file, without a suffix.
        title: Stands above it.
        text: What it shows, for who reads and who cannot see it.
        figure: As matplotlib has it.
    """

    name: str
    title: str
    text: str
    figure: Figure

    def svg(self) -> Markup:
        """Returns it for a page: as wide as there is room, in the page's ink."""
        with _style(self.name):
            file = io.StringIO()
            nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            self.figure.savefig(file, format="svg", transparent=True, metadata=nothing)
        text = file.getvalue()
        text = text[text.index("<svg") :].replace(_INK, "currentColor")
        text = re.sub(r"<style.*?</style>", "", text, count=1, flags=re.DOTALL)
        text = _HEIGHT.sub(r"\1\2", _SIZE.sub(r"\1\2", text, count=1), count=1)
        label = escape(f"{self.title}. {self.text}")
        text = text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
        return Markup(text)  # noqa: S704 - matplotlib has escaped what is drawn

    def png(self) -> bytes:
        """Returns it for a slide or a letter: on white, 200 dots an inch."""
        with _style(self.name):
            file = io.BytesIO()
            self.figure.savefig(file, format="png", dpi=200, facecolor="white")
        return file.getvalue()


class Line(NamedTuple):
    """One line of a chart.

    Args:
        name: In the legend; empty where there is one line alone.
        x: (N,).
        y: (N,).
        low: (N,) lower ends of intervals, NaN where there is none; empty: no interval.
        high: (N,) upper ends.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


class Interval(NamedTuple):
    """One figure with its interval.

    Args:
        name: Of the row.
        value: The figure.
        low: Lower end; None: it has no interval.
        high: Upper end.
    """

    name: str
    value: float
    low: float | None
    high: float | None


def short(name: str) -> str:
    """Returns a name that fits a chart."""
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def line_chart(
    lines: Sequence[Line], *, across: str, up: str, is_share: bool = False
) -> Figure:
    """Returns lines, with marks where there are few points.

    Args:
        lines: At least one.
        across: What is on the horizontal axis.
        up: What is on the vertical one.
        is_share: Whether the vertical axis begins at 0 and ends at 1.
    """
    with _style():
        figure = Figure(figsize=(WIDTH_INCHES, 2.9))
        axes = figure.subplots()
        for number, line in enumerate(lines):
            _draw_line(axes, number, line)
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        axes.grid(visible=True)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if is_share:
            axes.set_ylim(-0.02, 1.02)
        elif all(float(value).is_integer() for line in lines for value in line.y):
            axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        if any(line.name for line in lines):
            axes.legend(ncols=2 if len(lines) > 3 else 1)
    return figure


def _draw_line(axes: Axes, number: int, line: Line) -> None:
    colour = COLOURS[number % len(COLOURS)]
    x = np.asarray(line.x, float)
    axes.plot(
        x,
        line.y,
        color=colour,
        label=short(line.name),
        linestyle=_DASHES[number % len(_DASHES)],
        linewidth=1.5,
        marker=_MARKERS[number % len(_MARKERS)] if len(x) <= 40 else None,
        markersize=4,
    )
    if len(line.low):
        axes.fill_between(x, line.low, line.high, color=colour, alpha=0.15, linewidth=0)


def matrix_chart(counts: NDArray[np.int64], names: Sequence[str]) -> Figure:
    """Returns a confusion matrix; each row is shaded by its shares.

    Args:
        counts: (C, C), truth by prediction.
        names: By class.
    """
    classes = len(names)
    whole = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, whole, out=np.zeros(counts.shape), where=whole > 0)
    with _style():
        side = max(3.2, min(7.0, 1.3 + 0.48 * classes))
        figure = Figure(figsize=(max(WIDTH_INCHES, side + 0.6), side))
        axes = figure.subplots()
        axes.pcolormesh(shares, cmap=_SHADES, vmin=0, vmax=1, edgecolors=_INK, lw=0.2)
        for (row, column), share in np.ndenumerate(shares):
            if counts[row, column]:
                text = f"{share:.2f}\n{counts[row, column]}"
                axes.text(
                    column + 0.5,
                    row + 0.5,
                    text if classes <= 10 else f"{share:.2f}",
                    ha="center",
                    va="center",
                    fontsize=_cell_points(classes),
                )
        axes.set_aspect("equal")
        axes.invert_yaxis()
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        middle = np.arange(classes) + 0.5
        labels = [short(name) for name in names]
        axes.set_xticks(middle, labels, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(middle, labels)
        axes.set_xlabel("the student says")
        axes.set_ylabel("the label says")
    return figure


def _cell_points(classes: int) -> float:
    """Returns the size of a matrix's numbers, to be read on a telephone if they fit."""
    if classes <= 5:
        return 10
    return 7.5 if classes <= 10 else 5.5


def reliability_chart(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[int]]],
) -> Figure:
    """Returns a reliability diagram.

    Args:
        curves: By name, confidence, accuracy and number of patches of each bin.
    """
    with _style():
        figure = Figure(figsize=(WIDTH_INCHES, 3.6))
        axes = figure.subplots()
        axes.plot(
            [0, 1], [0, 1], color=_INK, lw=0.8, alpha=0.6, label="as it should be"
        )
        most = max((max(sizes) for _, _, sizes in curves.values() if sizes), default=1)
        for number, (name, (confidence, accuracy, sizes)) in enumerate(curves.items()):
            colour = COLOURS[number % len(COLOURS)]
            line = _DASHES[number % len(_DASHES)]
            axes.plot(confidence, accuracy, color=colour, linestyle=line, lw=1.2)
            axes.scatter(
                confidence,
                accuracy,
                s=[12 + 110 * size / most for size in sizes],
                color=colour,
                marker=_MARKERS[number],
                alpha=0.75,
                label=name,
            )
        axes.set_xlim(0, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.grid(visible=True)
        axes.set_xlabel("how sure the student says it is")
        axes.set_ylabel("share that is right")
        legend = axes.legend(loc="upper left")
        for handle in legend.legend_handles:
            if handle is not None and hasattr(handle, "set_sizes"):
                handle.set_sizes([28])
    return figure


def interval_chart(panels: Mapping[str, Sequence[Interval]]) -> Figure:
    """Returns figures as dots with their intervals, a panel each.

    Args:
        panels: By title; the names of the rows are the same in all of them.
    """
    with _style():
        rows = max(len(found) for found in panels.values())
        height = 1.0 + len(panels) * (0.45 + 0.27 * rows)
        figure = Figure(figsize=(WIDTH_INCHES, height))
        for axes, (title, found) in zip(
            np.ravel(figure.subplots(len(panels), 1, squeeze=False, sharex=True)),
            panels.items(),
            strict=True,
        ):
            for place, each in enumerate(found):
                colour = COLOURS[place % len(COLOURS)]
                if each.low is not None and each.high is not None:
                    axes.plot([each.low, each.high], [place, place], color=colour, lw=2)
                axes.plot(
                    each.value,
                    place,
                    marker=_MARKERS[place % len(_MARKERS)],
                    color=colour,
                    markersize=6,
                )
            axes.set_yticks(range(len(found)), [short(each.name) for each in found])
            axes.set_ylim(len(found) - 0.4, -0.6)
            axes.set_title(title, loc="left")
            axes.grid(visible=True, axis="x")
    return figure


def scatter_chart(
    places: NDArray[np.float64],
    groups: Mapping[str, NDArray[np.bool_]],
    *,
    across: str,
    up: str,
) -> Figure:
    """Returns points by group.

    Args:
        places: (N, 2).
        groups: (N,) masks by name; a name that is empty has no place in the legend.
        across: What is on the horizontal axis.
        up: What is on the vertical one.
    """
    with _style():
        figure = Figure(figsize=(WIDTH_INCHES, 3.8))
        axes = figure.subplots()
        for number, (name, chosen) in enumerate(groups.items()):
            axes.scatter(
                places[chosen, 0],
                places[chosen, 1],
                s=13,
                alpha=0.7,
                linewidths=0,
                color=COLOURS[number % len(COLOURS)],
                marker=_MARKERS[number % len(_MARKERS)],
                label=short(name) if name else None,
            )
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        if any(groups):
            place = (0.5, -0.08)
            axes.legend(loc="upper center", bbox_to_anchor=place, ncols=3)
    return figure


def state_chart(
    rows: Mapping[str, Sequence[str]], columns: Sequence[str], words: Mapping[str, str]
) -> Figure:
    """Returns a table of states, each a colour and a letter.

    Args:
        rows: By name, a state for each column; an empty one is left out.
        columns: Names of the columns.
        words: By state, what the legend says; its order is that of the colours.
    """
    with _style():
        height = 1.3 + 0.3 * len(rows)
        width = min(2 * WIDTH_INCHES, max(WIDTH_INCHES, 1.6 + 0.22 * len(columns)))
        figure = Figure(figsize=(width, height))
        axes = figure.subplots()
        for number, state in enumerate(words):
            if not any(state in states for states in rows.values()):
                continue
            at = [
                (place, row)
                for row, states in enumerate(rows.values())
                for place, found in enumerate(states)
                if found == state
            ]
            x, y = zip(*at, strict=True)
            mark, colour = _MARKERS[number], COLOURS[number]
            axes.scatter(x, y, s=46, marker=mark, color=colour, label=words[state])
        axes.set_yticks(range(len(rows)), [short(name) for name in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        every = max(1, len(columns) // 15)
        axes.set_xticks(range(0, len(columns), every), list(columns)[::every])
        axes.set_xlim(-0.6, len(columns) - 0.4)
        axes.grid(visible=True, axis="y")
        axes.set_xlabel("round")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    return figure


@contextmanager
def _style(salt: str = "") -> Iterator[None]:
    """Draws in our style, the same bytes each time, and says nothing of fonts.

    Args:
        salt: Keeps the parts of two pictures on one page apart.
    """
    fonts = logging.getLogger("matplotlib.font_manager")
    level = fonts.level
    style: Any = {**_STYLE, "svg.hashsalt": salt}  # else each key is a type
    with mpl.rc_context(style), warnings.catch_warnings():
        # a class may have a name in a script that the font of PNGs lacks
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        fonts.setLevel(logging.ERROR)
        try:
            yield
        finally:
            fonts.setLevel(level)

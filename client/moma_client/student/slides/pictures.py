"""Pictures of a slide's outputs: a heat map for each class, and the map of classes."""

import math
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch as LegendPatch
from numpy.typing import NDArray

from moma_client.student.slides.colours import class_colours
from moma_client.student.slides.outputs import SlideOutputs
from moma_core.data.inventory import printable

_DPI = 150
_PANEL_INCHES = 5.0
_MARGIN_INCHES = 0.15
_OPACITY = 0.65
_PALEST = 0.2  # opacity of a probability of zero: the tissue shows, and what was read
_UNREAD, _PALE = (90, 90, 90), (235, 235, 235)
_HATCH = 1 / 100  # of the longer side, from one stripe to the next
_NOTE = "research use, not for diagnosis"
_SHADES, _STEPS = "viridis", 256
_LETTER_INCHES, _KEY_INCHES = 0.08, 0.7  # of a text, and of the colour before it
_LEGEND_LETTERS = 36
_PIXELS = 1600  # of the longer side of a map; a picture on paper shows no more


_as_written = rc_context({"text.parse_math": False})  # a class may be called $5


def write_heat_map(path: Path, outputs: SlideOutputs, shown: Sequence[int]) -> None:
    """Writes the figure of `heat_map`."""
    _save(heat_map(outputs, shown), outputs, path)


@_as_written
def heat_map(outputs: SlideOutputs, shown: Sequence[int]) -> Figure:
    """Returns the slide, and beside it the probability of classes laid over it.

    Args:
        outputs: Of the slide.
        shown: Classes, by their place.
    """
    figure, panels = _figure(outputs, 1 + len(shown))
    _show_slide(next(panels), outputs)
    painted = None
    for number in shown:
        panel = next(panels)
        panel.imshow(_grey(outputs), extent=_extent(outputs))
        shares = _mean_of_patches(outputs, number)
        painted = panel.imshow(
            shares,
            extent=_extent(outputs),
            cmap=probability_shades(),
            vmin=0,
            vmax=1,
            interpolation="nearest",
        )
        _hatch(panel, outputs, _unread(outputs))
        title = f"probability of {outputs.names[number]}"
        width_inches = figure.get_figwidth() * panel.get_position().width
        panel.set_title(_wrapped(title, width_inches), fontsize=10)
        _finish(panel, outputs)
    if painted is not None:
        bar = figure.colorbar(painted, ax=figure.axes, shrink=0.6, pad=0.01)
        bar.set_label("probability")
    return figure


def probability_shades() -> ListedColormap:
    """Returns the colours of a probability, the more opaque the higher it is."""
    steps = np.linspace(0, 1, _STEPS)
    shades = colormaps[_SHADES](steps)
    shades[:, 3] = _PALEST + (_OPACITY - _PALEST) * steps
    return ListedColormap(shades)


def write_class_map(path: Path, outputs: SlideOutputs) -> None:
    """Writes the figure of `class_map`."""
    _save(class_map(outputs), outputs, path)


@_as_written
def class_map(outputs: SlideOutputs) -> Figure:
    """Returns the slide, beside it the likeliest class of each patch, and a legend."""
    figure, panels = _figure(outputs, 2)
    _show_slide(next(panels), outputs)
    panel = next(panels)
    panel.imshow(_grey(outputs), extent=_extent(outputs))
    colours = class_colours(len(outputs.names), is_ordered=outputs.is_ordered)
    layer = _coloured(outputs, colours)
    panel.imshow(layer, extent=_extent(outputs), interpolation="nearest")
    _hatch(panel, outputs, _unread(outputs))
    panel.set_title("likeliest class", fontsize=10)
    _finish(panel, outputs)
    keys = list(_keys(outputs, colours))
    longest = max(
        len(line) for key in keys for line in str(key.get_label()).splitlines()
    )
    columns = int(figure.get_figwidth() / (longest * _LETTER_INCHES + _KEY_INCHES))
    # it hangs below the figure, where nothing else is; the file ends below it
    figure.legend(
        handles=keys,
        loc="upper center",
        bbox_to_anchor=(0.5, 0),
        ncols=max(1, min(columns, len(keys))),
        title="class  patches (share)",
        fontsize=9,
        frameon=False,
        alignment="left",
    )
    return figure


def _keys(
    outputs: SlideOutputs, colours: Sequence[tuple[int, int, int]]
) -> Iterator[LegendPatch]:
    """Yields a line of the legend for each class that has a patch."""
    summary = outputs.summary()
    for name, colour in zip(outputs.names, colours, strict=True):
        count = summary["classes"][name]["patches"]
        if count:
            share = share_text(count / summary["patches"])
            text = textwrap.fill(f"{name}  {count} ({share})", _LEGEND_LETTERS)
            yield LegendPatch(facecolor=_unit(colour), alpha=_OPACITY, label=text)
    if summary["unread_patches"]:
        yield LegendPatch(
            facecolor=_unit(_PALE),
            edgecolor=_unit(_UNREAD),
            hatch="////",
            label=f"not read  {summary['unread_patches']}",
        )


def _unit(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    """Returns a colour in parts of 0 to 1."""
    red, green, blue = colour
    return red / 255, green / 255, blue / 255


def _figure(outputs: SlideOutputs, panels: int) -> tuple[Figure, Iterator[Axes]]:
    height, width = outputs.thumbnail.shape[:2]
    columns = min(panels, 2 if panels <= 4 and panels != 3 else 3 if panels <= 9 else 4)
    rows = math.ceil(panels / columns)
    longest = max(height, width)
    size = (
        columns * _PANEL_INCHES * width / longest + 1.6,
        rows * (_PANEL_INCHES * height / longest + 0.7) + 0.6,
    )
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    side_um = outputs.grid.side_px * outputs.mpp
    title = (
        f"{printable(outputs.name)}: {len(outputs.grid)} patches of {side_um:.0f} µm"
        f"{_missing(outputs)}; {_NOTE}"
    )
    figure.suptitle(_wrapped(title, size[0]), fontsize=10)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in axes:
        panel.set_axis_off()
    return figure, iter(axes)


def _wrapped(text: str, width_inches: float) -> str:
    """Returns a text of 10 points in lines that are about so wide."""
    return textwrap.fill(text, max(20, int(width_inches / _LETTER_INCHES)))


def _missing(outputs: SlideOutputs) -> str:
    """Returns what a title says of patches that were not read, and of damage."""
    said = outputs.summary()
    text = ""
    if said["unread_patches"]:
        share = share_text(said["unread_share"])
        text += f", {said['unread_patches']} not read ({share})"
    if said["damaged_share"]:
        text += f"; {share_text(said['damaged_share'])} of the slide damaged"
    return text


def share_text(share: float) -> str:
    """Returns a share in per cent, and one that is not zero never as zero."""
    return "<1 %" if 0 < share < 0.01 else f"{share:.0%}".replace("%", " %")


def _show_slide(panel: Axes, outputs: SlideOutputs) -> None:
    panel.imshow(outputs.thumbnail, extent=_extent(outputs))
    _hatch(panel, outputs, outputs.damaged)
    panel.set_title("slide", fontsize=10)
    _finish(panel, outputs)


def _extent(outputs: SlideOutputs) -> tuple[float, float, float, float]:
    """Returns the edges of the slide in pixels of level 0, as matplotlib has them."""
    height, width = outputs.thumbnail.shape[:2]
    return 0, outputs.width_px, outputs.width_px * height / width, 0


def _finish(panel: Axes, outputs: SlideOutputs) -> None:
    """Keeps the panel to the slide, and draws the scale below it."""
    _, right, bottom, _ = _extent(outputs)
    panel.set_xlim(0, right)
    panel.set_ylim(bottom, 0)
    length_um = scale_bar_um(right * outputs.mpp)
    length_px = length_um / outputs.mpp
    unit = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} µm"
    low: Any = panel.get_xaxis_transform()
    panel.plot(
        [0, length_px],
        [-0.025, -0.025],
        color="black",
        linewidth=3,
        solid_capstyle="butt",
        transform=low,
        clip_on=False,
    )
    panel.text(
        length_px + right * 0.015, -0.025, unit, transform=low, va="center", fontsize=9
    )


def scale_bar_um(width_um: float) -> float:
    """Returns a round length, a fifth of a slide's width at most, in microns."""
    most = width_um / 5
    power: float = 10.0 ** math.floor(math.log10(most))
    return max(step * power for step in (1, 2, 5) if step * power <= most)


def _grey(outputs: SlideOutputs) -> NDArray[np.uint8]:
    """Returns the slide in pale grey, on which colours look as in the legend."""
    light = outputs.thumbnail.mean(axis=2, keepdims=True) * 0.6 + 102
    return np.repeat(light.astype(np.uint8), 3, axis=2)


def _boxes(outputs: SlideOutputs) -> tuple[tuple[int, int], NDArray[np.int64]]:
    """Returns the shape of a map, and left, top, right, bottom of patches on it."""
    height, width = outputs.thumbnail.shape[:2]
    shrink = min(1.0, _PIXELS / max(height, width))
    shape = max(1, round(height * shrink)), max(1, round(width * shrink))
    scale = shape[1] / outputs.width_px
    first = np.round(outputs.grid.corners * scale)
    last = np.round((outputs.grid.corners + outputs.grid.side_px) * scale)
    last = np.maximum(last, first + 1)
    return shape, np.concatenate([first, last], axis=1).astype(np.int64)


def _mean_of_patches(outputs: SlideOutputs, number: int) -> NDArray[np.float32]:
    """Returns the map of a class, (H, W): its mean probability; NaN: there is none."""
    shape, boxes = _boxes(outputs)
    total, count = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    read, values = outputs.has_shares, outputs.shares[:, number]
    for (left, top, right, bottom), value in zip(
        boxes[read].tolist(), values[read].tolist(), strict=True
    ):
        total[top:bottom, left:right] += value
        count[top:bottom, left:right] += 1
    with np.errstate(invalid="ignore"):
        mean: NDArray[np.float32] = total / count
    return mean


def _coloured(
    outputs: SlideOutputs, colours: Sequence[tuple[int, int, int]]
) -> NDArray[np.uint8]:
    """Returns the likeliest class as a layer of colours, (H, W, 4) uint8."""
    shape, _ = _boxes(outputs)
    layer, most = np.zeros((*shape, 4), np.uint8), np.full(shape, -1, np.float32)
    opaque = round(255 * _OPACITY)
    for number, colour in enumerate(colours):
        shares = _mean_of_patches(outputs, number)
        better = shares > most
        layer[better] = (*colour, opaque)
        most[better] = shares[better]
    return layer


def _unread(outputs: SlideOutputs) -> NDArray[np.bool_]:
    """Returns where patches were not read, (H, W)."""
    shape, boxes = _boxes(outputs)
    mask = np.zeros(shape, np.bool_)
    for left, top, right, bottom in boxes[~outputs.has_shares].tolist():
        mask[top:bottom, left:right] = True
    return mask


def _hatch(panel: Axes, outputs: SlideOutputs, mask: NDArray[np.bool_]) -> None:
    """Lays stripes over a mask, (H, W); a layer of nothing would take as long."""
    if not mask.any():
        return
    period = max(2, round(max(mask.shape) * _HATCH))
    y, x = np.ogrid[: mask.shape[0], : mask.shape[1]]
    layer = np.zeros((*mask.shape, 4), np.uint8)
    layer[mask] = (*_PALE, 255)
    layer[mask & ((x + y) % period < period / 2)] = (*_UNREAD, 255)
    panel.imshow(layer, extent=_extent(outputs))


@_as_written
def _save(figure: Figure, outputs: SlideOutputs, path: Path) -> None:
    # images take longest, and the layout can find the places of all else without them
    images = figure.findobj(AxesImage)
    for image in images:
        image.set_visible(False)
    figure.draw_without_rendering()
    lowest_inches = figure.get_tightbbox().y0
    figure.text(
        0.01,
        (lowest_inches - _MARGIN_INCHES) / figure.get_figheight(),
        _wrapped(str(outputs.student), figure.get_figwidth()),
        va="top",
        fontsize=8,
    )
    frame = figure.get_tightbbox().padded(_MARGIN_INCHES)
    for image in images:
        image.set_visible(True)
    figure.set_layout_engine("none")
    draft = path.with_name(f".{path.name}.partial")
    figure.savefig(draft, format="png", bbox_inches=frame)
    draft.replace(path)

"""The pictures of a slide: what they say, and that nothing lies over anything else."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from moma_client.student.slides.colours import class_colours
from moma_client.student.slides.outputs import SlideOutputs, StudentIdentity
from moma_client.student.slides.pictures import (
    class_map,
    heat_map,
    scale_bar_um,
    share_text,
    write_class_map,
    write_heat_map,
)
from moma_core.slides.grid import PatchGrid
from tests.support.slides.pictures import painted

_NAMES = (
    "adipose",
    "background",
    "debris of necrotic tissue",
    "lymphocytes",
    "mucus",
    "smooth muscle",
    "normal colon mucosa",
    "cancer-associated stroma",
    "colorectal adenocarcinoma epithelium",
    "colorectal adenocarcinoma epithelium, poorly differentiated",
    "colorectal adenocarcinoma epithelium, mucinous",
    "tertiary lymphoid structure",
)
SIDE_PX = 64


def slide_outputs(
    classes: int, *, shape: tuple[int, int] = (900, 1200), unread: int = 0
) -> SlideOutputs:
    """Returns outputs of made-up probabilities, in stripes of classes.

    The last class has no patch, and the one before has one.

    Args:
        classes: How many.
        shape: Of the slide, (height, width) in pixels.
        unread: Patches that are not read, from the upper left.
    """
    height, width = shape
    x, y = np.meshgrid(np.arange(0, width, SIDE_PX), np.arange(0, height, SIDE_PX))
    corners = np.stack([x.ravel(), y.ravel()], axis=1)
    likeliest = corners[:, 0] * max(1, classes - 2) // width
    likeliest[-1] = max(0, classes - 2)
    draws = np.random.default_rng(0).dirichlet(np.ones(classes), len(corners)) * 0.4
    shares = (draws + 0.6 * np.eye(classes)[likeliest]).astype(np.float32)
    shares[:unread] = np.nan
    damaged = np.zeros(shape, np.bool_)
    damaged[:SIDE_PX, : SIDE_PX * unread] = True
    return SlideOutputs(
        name="case 1",
        student=StudentIdentity("colon-1", "ab" * 32, 1.5),
        is_ordered=False,
        class_names=_NAMES[-classes:],
        grid=PatchGrid(corners, SIDE_PX, 32),
        shares=shares,
        errors=["damaged"] * unread + [""] * (len(corners) - unread),
        thumbnail=painted(width, height),
        damaged=damaged,
        width_px=width,
        mpp=0.5,
    )


def _is_apart(figure: Figure) -> bool:
    """Whether the legend lies over no panel, and not over the title."""
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    title = figure.texts[0].get_window_extent()
    panels = [panel.get_tightbbox() for panel in figure.axes]
    return not any(box.overlaps(other) for other in (title, *panels))


@pytest.mark.parametrize("classes", [2, 4, 9, 12])
@pytest.mark.parametrize("shape", [(900, 1200), (1200, 300)], ids=["wide", "tall"])
def test_the_legend_lies_over_nothing(classes: int, shape: tuple[int, int]) -> None:
    figure = class_map(slide_outputs(classes, shape=shape, unread=4))

    assert _is_apart(figure)


def test_the_legend_names_the_classes_that_have_a_patch() -> None:
    outputs = slide_outputs(9)

    (legend,) = class_map(outputs).legends

    texts = [" ".join(text.get_text().split()) for text in legend.get_texts()]
    assert len(texts) == 8
    assert texts[-1].endswith("mucinous 1 (<1 %)")
    assert not any("tertiary" in text for text in texts)


def test_the_bar_of_a_heat_map_is_as_opaque_as_the_map() -> None:
    figure = heat_map(slide_outputs(2), [1])

    (_, map_, bar) = figure.axes
    painted, solids = map_.images[1], bar.collections[-1]
    values = np.asarray(solids.get_array())
    assert np.allclose(solids.to_rgba(values), painted.to_rgba(values))
    assert solids.get_alpha() is None
    assert painted.get_alpha() is None
    opacity = painted.to_rgba(np.array([0.0, 0.5, 1.0]))[:, 3]
    assert opacity == pytest.approx([0.2, 0.425, 0.65], abs=0.01)


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0 %"), (0.0001, "<1 %"), (0.12, "12 %"), (1, "100 %")]
)
def test_a_share_that_is_not_zero_is_never_written_as_zero(
    share: float, text: str
) -> None:
    assert share_text(share) == text


def test_grades_have_colours_from_dark_to_light() -> None:
    light = [sum(colour) for colour in class_colours(4, is_ordered=True)]

    assert light == sorted(light)
    assert class_colours(4, is_ordered=True) != class_colours(4)


def test_of_the_first_classes_none_are_two_blues() -> None:
    colours = class_colours(4)

    assert [red < green < blue for red, green, blue in colours].count(True) == 1


@pytest.mark.parametrize("classes", [2, 7, 9, 14])
def test_every_class_has_a_colour_of_its_own(classes: int) -> None:
    colours = class_colours(classes)

    assert len({*colours}) == classes


@pytest.mark.parametrize(
    ("width_um", "bar_um"), [(1108, 200), (26_000, 5000), (90, 10), (20_000, 2000)]
)
def test_the_scale_is_round_and_a_fifth_at_most(width_um: float, bar_um: float) -> None:
    assert scale_bar_um(width_um) == bar_um


def test_a_name_that_looks_like_mathematics_is_written_as_it_is(
    tmp_path: Path,
) -> None:
    odd = "$\\frac{$"
    outputs = replace(
        slide_outputs(3),
        name=odd,
        student=StudentIdentity(odd, "ab" * 32, None),
        class_names=(odd, "a $5", "b"),
    )

    write_heat_map(tmp_path / "heat.png", outputs, [0])
    write_class_map(tmp_path / "class.png", outputs)

    for name in ("heat.png", "class.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 500

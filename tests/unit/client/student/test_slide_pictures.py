"""The pictures of a slide: what they say, and that nothing lies over anything else."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from moma_client.student.slides.outputs import SlideOutputs
from moma_client.student.slides.pictures import class_map, heat_map, share_text
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
        class_names=_NAMES[-classes:],
        grid=PatchGrid(corners, SIDE_PX, 32),
        shares=shares,
        errors=["damaged"] * unread + [""] * (len(corners) - unread),
        thumbnail=painted(width, height),
        damaged=damaged,
        width_px=width,
        mpp=0.5,
    )


def _check_apart(figure: Figure) -> None:
    """Fails where the legend lies over a panel or the title."""
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    title = figure.texts[0].get_window_extent()
    panels = [panel.get_tightbbox() for panel in figure.axes]
    assert not any(box.overlaps(other) for other in (title, *panels))


@pytest.mark.parametrize("classes", [2, 4, 9, 12])
@pytest.mark.parametrize("shape", [(900, 1200), (1200, 300)], ids=["wide", "tall"])
def test_the_legend_lies_over_nothing(classes: int, shape: tuple[int, int]) -> None:
    figure = class_map(slide_outputs(classes, shape=shape, unread=4))

    _check_apart(figure)


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

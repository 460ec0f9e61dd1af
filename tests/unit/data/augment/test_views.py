import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moma_core.data.augment.photometric import photometric_jitter
from moma_core.data.augment.recipe import ViewRecipe, recipe_named
from moma_core.data.augment.views import plain_view, render_view, view_seed
from tests.support.machine.pictures import noise

_OFF: dict[str, Any] = {
    "flips": False,
    "rotation": "none",
    "zoom": 0.0,
    "shift": 0.0,
    "stain": 0.0,
    "photometric": 0.0,
}
_seeds = st.integers(0, 2**63 - 1)


def _tissue(side_px: int = 32) -> np.ndarray:
    """A smooth picture in the colours of haematoxylin and eosin."""
    y, x = np.mgrid[0:side_px, 0:side_px] / side_px
    picture = np.stack([200 - 60 * x, 140 - 50 * y, 190 - 30 * x * y], axis=2)
    return picture.astype(np.uint8)


@given(seed=_seeds, side=st.integers(8, 50), width=st.integers(8, 50))
@settings(max_examples=30)
def test_a_seed_replays_its_view(seed: int, side: int, width: int) -> None:
    pixels = noise(0, side, width)

    first = render_view(pixels, seed, ViewRecipe.tissue(), 24)

    assert first.shape == (3, 24, 24)
    assert first.dtype == torch.uint8
    assert torch.equal(first, render_view(pixels, seed, ViewRecipe.tissue(), 24))


def test_other_seeds_give_other_views() -> None:
    views = [render_view(noise(0), seed, ViewRecipe.tissue(), 16) for seed in range(20)]

    assert len({view.numpy().tobytes() for view in views}) == 20


@pytest.mark.parametrize("size_px", [16, 24])
def test_a_recipe_with_everything_off_is_the_plain_view(size_px: int) -> None:
    pixels = _tissue(16)

    view = render_view(pixels, 5, ViewRecipe(**_OFF), size_px)

    difference = view.int() - plain_view(pixels, size_px).int()
    assert difference.abs().max() <= 1


def test_flips_and_quarter_turns_move_pixels_and_change_none() -> None:
    pixels = noise(1)
    recipe = ViewRecipe(**{**_OFF, "flips": True, "rotation": "quarter"})
    plain = plain_view(pixels, 16)
    turned = [torch.rot90(plain, turn, (1, 2)) for turn in range(4)]
    dihedral = {p.numpy().tobytes() for t in turned for p in (t, t.flip(2))}

    views = {
        render_view(pixels, seed, recipe, 16).numpy().tobytes() for seed in range(100)
    }

    assert views == dihedral


def test_switching_the_stain_off_does_not_move_the_geometry() -> None:
    pixels = noise(1)
    geometry = {**_OFF, "rotation": "any", "zoom": 0.2, "shift": 0.1}

    alone = render_view(pixels, 3, ViewRecipe(**geometry), 16)
    nearly_alone = render_view(pixels, 3, ViewRecipe(**{**geometry, "stain": 1e-6}), 16)

    assert (alone.int() - nearly_alone.int()).abs().max() <= 1


def test_the_stain_part_moves_colour_and_leaves_white_white() -> None:
    recipe = ViewRecipe(**{**_OFF, "stain": 0.2})
    white = np.full((16, 16, 3), 255, dtype=np.uint8)

    changes = [
        render_view(_tissue(), seed, recipe, 32).float().mean((1, 2))
        for seed in range(9)
    ]
    whites = [render_view(white, seed, recipe, 16).float() for seed in range(9)]

    assert torch.stack(changes).std(0).min() > 1
    assert torch.stack(whites).min() > 235


def test_a_view_for_colour_labels_keeps_the_colours() -> None:
    pixels = _tissue(32)
    mean = plain_view(pixels, 32).float().mean((1, 2))

    for seed in range(20):
        view = render_view(pixels, seed, ViewRecipe.geometry_only(), 32)
        assert (view.float().mean((1, 2)) - mean).abs().max() < 4


def test_the_strong_recipe_shows_the_teacher_the_same_view() -> None:
    pixels = _tissue(32)
    strong, plain = recipe_named("tissue_strong"), recipe_named("tissue")

    views = [render_view(pixels, 7, recipe, 32) for recipe in (strong, plain)]

    assert torch.equal(*views)
    assert strong.photometric > plain.photometric


def test_a_large_patch_is_averaged_not_sampled() -> None:
    checkers = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    pixels = np.repeat(checkers[..., np.newaxis], 3, axis=2)

    view = render_view(pixels, 0, ViewRecipe(**_OFF), 16)

    assert view.unique().tolist() in ([127], [128])


def test_the_plain_view_of_a_patch_of_its_size_is_the_patch() -> None:
    pixels = noise(2)

    view = plain_view(pixels, 16)

    assert np.array_equal(view.permute(1, 2, 0).numpy(), pixels)


def test_the_plain_view_of_an_oblong_patch_is_its_middle() -> None:
    pixels = np.zeros((16, 48, 3), dtype=np.uint8)
    pixels[:, 16:32] = 200

    assert plain_view(pixels, 16).unique().tolist() == [200]


def test_pixels_that_may_not_be_written_make_a_view() -> None:
    pixels = noise(0)
    pixels.flags.writeable = False

    assert torch.equal(plain_view(pixels, 16), plain_view(noise(0), 16))


def test_seeds_are_the_same_for_ever_and_distinct() -> None:
    assert view_seed(7, 11, 13) == 8206624332398191102
    seeds = {
        view_seed(r, row, e) for r in range(5) for row in range(50) for e in range(5)
    }
    assert len(seeds) == 1250
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    ("name", "value"), [("zoom", -0.1), ("shift", 0.6), ("stain", math.nan)]
)
def test_a_recipe_out_of_range_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be in"):
        ViewRecipe(**{**_OFF, name: value})


@given(seed=_seeds, strength=st.floats(0.01, 1))
@settings(max_examples=60)
def test_a_seed_replays_its_jitter(seed: int, strength: float) -> None:
    view = plain_view(noise(0), 16)

    jittered = photometric_jitter(view, seed, strength)

    assert jittered.dtype == torch.uint8
    assert jittered.shape == view.shape
    assert torch.equal(jittered, photometric_jitter(view, seed, strength))
    assert torch.equal(view, plain_view(noise(0), 16))


def test_stronger_jitter_changes_more() -> None:
    view = plain_view(_tissue(), 32)

    def change(strength: float) -> float:
        jittered = [photometric_jitter(view, seed, strength) for seed in range(40)]
        return float((torch.stack(jittered).int() - view.int()).abs().float().mean())

    assert change(0.0) == 0
    assert 0 < change(0.1) < change(0.3) < change(1.0)


def test_hue_and_saturation_leave_grey_alone() -> None:
    grey = torch.full((3, 16, 16), 120, dtype=torch.uint8)

    for seed in range(40):
        red, green, blue = photometric_jitter(grey, seed, 0.5).int()
        assert (red - green).abs().max() <= 1
        assert (green - blue).abs().max() <= 1


def test_a_jitter_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="strength must be in"):
        photometric_jitter(torch.zeros(3, 8, 8, dtype=torch.uint8), 0, 1.5)

"""Every patch in the colours of one target."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moma_core.data.images import decode_rgb
from moma_core.data.sources.demo_tissue import EmbeddedSource
from moma_core.data.sources.factory import open_source
from moma_core.data.stain_normalisation import (
    StainNormalisationSection,
    StainNormaliser,
    StainTarget,
    stain_target,
)
from moma_core.errors import ConfigError, DataError

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"


def _stained(haematoxylin: float, eosin: float) -> np.ndarray:
    """Returns one piece of tissue, (64, 64, 3), with so much of each stain."""
    draws = np.random.default_rng(0)
    nuclei = np.r_[draws.gamma(2, 0.15, 3000), draws.gamma(8, 0.12, 1096)]
    rest = np.r_[draws.gamma(6, 0.12, 3000), draws.gamma(2, 0.1, 1096)]
    colours = np.array([[0.56, 0.22], [0.72, 0.8], [0.41, 0.56]])
    density = colours @ np.stack([nuclei * haematoxylin, rest * eosin])  # (3, N)
    pixels = 240 * np.exp(-density).T.reshape(64, 64, 3)
    return np.clip(pixels, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_the_same_tissue_stained_paler_gets_the_same_colours(
    tmp_path: Path, method: str
) -> None:
    tissue, pale = _stained(1, 1), _stained(0.6, 0.7)
    Image.fromarray(tissue).save(tmp_path / "target.png")
    section = StainNormalisationSection.model_validate(
        {"method": method, "target": tmp_path / "target.png"}
    )
    normaliser = StainNormaliser(stain_target(section))

    before = np.abs(pale.mean((0, 1)) - tissue.mean((0, 1))).max()
    after = np.abs(normaliser(pale).mean((0, 1)) - tissue.mean((0, 1))).max()

    assert before > 20
    assert after < before / 3
    copy = pickle.loads(pickle.dumps(normaliser))
    assert (copy(pale) == normaliser(pale)).all()


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (120, 60, 150)])
def test_a_patch_with_nothing_to_measure_comes_back_as_it_is(
    method: str, colour: tuple[int, int, int]
) -> None:
    numbers = (6, 2) if method == "macenko" else (3, 3)
    first, second = (tuple(0.5 for _ in range(n)) for n in numbers)
    plain = np.full((32, 32, 3), colour, np.uint8)

    normaliser = StainNormaliser(StainTarget(method, first, second))  # type: ignore[arg-type]

    assert (normaliser(plain) == plain).all()


def test_a_target_without_tissue_and_reinhard_without_a_target_are_refused(
    tmp_path: Path,
) -> None:
    Image.new("RGB", (64, 64), "white").save(tmp_path / "white.png")

    with pytest.raises(DataError, match="shows no stained tissue"):
        stain_target(
            StainNormalisationSection(method="macenko", target=tmp_path / "white.png")
        )
    with pytest.raises(ConfigError, match="reinhard needs a picture"):
        stain_target(StainNormalisationSection(method="reinhard"))


def test_a_target_of_other_numbers_is_damaged() -> None:
    target = stain_target(StainNormalisationSection(method="macenko"))

    with pytest.raises(ConfigError, match="damaged"):
        StainNormaliser(replace(target, first=(1.0,)))


def test_every_source_may_be_normalised() -> None:
    plain = EmbeddedSource("site-a")
    source = open_source(
        {
            "kind": "embedded",
            "part": "site-a",
            "stain_normalisation": {"method": "macenko"},
        }
    )

    changed = source.read(0)

    assert changed.label == plain.read(0).label
    assert (changed.pixels != plain.read(0).pixels).any()


def test_real_tiles_of_two_laboratories_come_closer_to_each_other() -> None:
    folders = [DATA / "kather16_tiles", DATA / "nct_tiles"]
    if not all(folder.is_dir() for folder in folders):
        pytest.skip("shared/data has no kather16_tiles or nct_tiles")
    normaliser = StainNormaliser(
        stain_target(StainNormalisationSection(method="macenko"))
    )
    tiles = [
        decode_rgb(path)
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".png", ".tif", ".tiff")
    ]

    def spread(pictures: list[np.ndarray]) -> float:
        return float(np.std([p.mean((0, 1)) for p in pictures], axis=0).mean())

    changed = [normaliser(tile) for tile in tiles]

    assert len(tiles) > 20
    assert spread(changed) < 0.8 * spread(tiles)

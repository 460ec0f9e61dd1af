"""Which class a patch has, by the regions that lie over it."""

import json
from pathlib import Path

import numpy as np
import pytest
import shapely

from moma_core.slides.annotations import Region, labels_of, read_geojson
from moma_core.slides.grid import PatchGrid

PATCH = PatchGrid(np.array([[100, 100]]), side_px=100, size_px=100)


def _region(label: str, left: int, top: int, right: int, bottom: int) -> Region:
    return Region(label, shapely.box(left, top, right, bottom))


TISSUE = _region("tissue", 0, 0, 1000, 1000)
STRIP = _region("tumour", 100, 100, 131, 200)  # 31 % of the patch


@pytest.mark.parametrize(
    ("covered", "label"), [(100, "tumour"), (95, "tumour"), (50, "tumour")]
)
def test_an_inner_region_is_meant_where_it_covers_enough(
    covered: int, label: str
) -> None:
    inner = _region("tumour", 100, 100, 100 + covered, 200)

    assert labels_of(PATCH, [TISSUE, inner], 0.5) == [label]
    assert labels_of(PATCH, [inner, TISSUE], 0.5) == [label]


def test_the_outer_region_is_meant_where_the_inner_one_covers_too_little() -> None:
    inner = _region("tumour", 100, 100, 149, 200)

    assert labels_of(PATCH, [TISSUE, inner], 0.5) == ["tissue"]


def test_of_three_regions_in_one_another_the_innermost_is_meant() -> None:
    middle = _region("tumour", 90, 90, 400, 400)
    inner = _region("necrosis", 100, 100, 160, 200)

    assert labels_of(PATCH, [inner, TISSUE, middle], 0.5) == ["necrosis"]


def test_a_speck_of_an_outer_class_makes_it_no_inner_one() -> None:
    inner = _region("tumour", 100, 100, 195, 500)
    speck = _region("tissue", 195, 100, 200, 105)

    assert labels_of(PATCH, [TISSUE, inner, speck], 0.5) == ["tumour"]


def test_two_regions_of_a_class_that_lie_over_one_another_count_once() -> None:
    assert labels_of(PATCH, [STRIP, STRIP], 0.5) == [None]
    assert labels_of(PATCH, [STRIP, STRIP], 0.31) == ["tumour"]


def test_two_regions_of_a_class_side_by_side_count_together() -> None:
    other = _region("tumour", 150, 100, 181, 200)

    assert labels_of(PATCH, [STRIP, other], 0.5) == ["tumour"]


def test_of_classes_side_by_side_the_one_that_covers_most_is_meant() -> None:
    stroma = _region("stroma", 131, 100, 400, 400)

    assert labels_of(PATCH, [STRIP, stroma], 0.3) == ["stroma"]


@pytest.mark.parametrize(("ignored", "label"), [(51, None), (50, "tumour")])
def test_what_is_ignored_is_no_class_and_takes_away_from_others(
    ignored: int, label: str | None
) -> None:
    tumour = _region("tumour", 0, 0, 400, 400)
    artefact = _region("Ignore*", 100, 100, 100 + ignored, 200)

    assert labels_of(PATCH, [tumour, artefact], 0.5) == [label]
    assert labels_of(PATCH, [artefact], 0.1) == [None]


def test_the_frame_around_annotations_is_no_class_and_takes_nothing_away(
    tmp_path: Path,
) -> None:
    features = [
        {
            "type": "Feature",
            "geometry": shapely.geometry.mapping(region.shape),
            "properties": {"classification": {"name": region.label}},
        }
        for region in (_region("Region*", 0, 0, 400, 400), STRIP)
    ]
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))

    assert labels_of(PATCH, read_geojson(path), 0.3) == ["tumour"]


def test_each_patch_has_the_class_that_a_fine_raster_gives_it() -> None:
    """Of disjoint shapes; the raster takes the middle of each pixel."""
    random = np.random.default_rng(3)
    corners = random.integers(0, 300, (40, 2))
    grid = PatchGrid(corners, side_px=40, size_px=40)
    disks = [(80, 80, 60), (200, 90, 55), (90, 220, 70), (240, 240, 60)]
    regions = [
        Region("ab"[number % 2], shapely.Point(x, y).buffer(radius, 64))
        for number, (x, y, radius) in enumerate(disks)
    ]

    labels = labels_of(grid, regions, 0.4)

    x, y = np.meshgrid(np.arange(400) + 0.5, np.arange(400) + 0.5)
    inside = [(x - a) ** 2 + (y - b) ** 2 < r**2 for a, b, r in disks]
    masks = {"a": inside[0] | inside[2], "b": inside[1] | inside[3]}
    for (left, top), label in zip(corners.tolist(), labels, strict=True):
        share = {
            name: float(mask[top : top + 40, left : left + 40].mean())
            for name, mask in masks.items()
        }
        most = max(share, key=share.__getitem__)
        if abs(share[most] - 0.4) > 0.02 and abs(share["a"] - share["b"]) > 0.02:
            assert label == (most if share[most] >= 0.4 else None)


@pytest.mark.parametrize(
    ("labels", "min_cover", "most"),
    [(["a"], 0.99, 0), (["a"], 0.2, 1), (["a", "b"], 0.2, 3), (["a", "b*"], 0.2, 1)],
)
def test_regions_of_a_class_are_not_united_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch, labels: list[str], min_cover: float, most: int
) -> None:
    random, united, really = np.random.default_rng(1), [], shapely.union_all
    places = random.uniform(100, 200, (400, 2))
    regions = [
        Region(labels[n % len(labels)], shapely.Point(place).buffer(2 + n / 400))
        for n, place in enumerate(places.tolist())
    ]
    monkeypatch.setattr(
        shapely,
        "union_all",
        lambda shapes: (united.append(len(shapes)), really(shapes))[1],
    )
    monkeypatch.delattr(shapely, "union")

    labels_of(PATCH, regions, min_cover)

    assert sum(united) <= most * len(regions)


def test_many_regions_give_the_class_that_they_give_one_by_one() -> None:
    """Against what each class covers after each region, of the smallest first."""
    random = np.random.default_rng(5)
    for _ in range(40):
        regions = [
            Region(
                ("a", "b", "c", "d*")[kind],
                shapely.Point(x, y).buffer(radius),
            )
            for kind, x, y, radius in zip(
                random.integers(0, 4, 60).tolist(),
                *random.uniform(90, 210, (2, 60)).tolist(),
                random.uniform(3, 25, 60).tolist(),
                strict=True,
            )
        ]

        assert labels_of(PATCH, regions, 0.3) == [_one_by_one(regions, 0.3)]


def _one_by_one(regions: list[Region], min_cover: float) -> str | None:
    patch = shapely.box(100, 100, 200, 200)
    ignored = shapely.union_all([r.shape for r in regions if r.label.endswith("*")])
    cover: dict[str, shapely.Geometry] = {}
    reached: dict[str, float] = {}
    for region in sorted(regions, key=lambda region: region.shape.area):
        if not region.label.endswith("*"):
            shape = region.shape.intersection(patch).difference(ignored)
            shape = shape.union(cover.get(region.label, shapely.Point()))
            cover[region.label] = shape
            if (share := shape.area / patch.area) >= min_cover:
                reached[region.label] = share
    meant = next(iter(reached), None)
    for label, share in reached.items():
        if meant is not None and share > reached[meant]:
            both = cover[meant].intersection(cover[label]).area / patch.area
            meant = label if both < reached[meant] / 2 else meant
    return meant

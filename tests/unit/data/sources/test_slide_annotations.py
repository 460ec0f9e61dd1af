"""The class of a patch by what was drawn on its slide, in files as people name them."""

import json
from pathlib import Path
from typing import Any

import pytest

from moma_core.data.checks.rules import look_at_set
from moma_core.data.patch import NO_LABEL
from moma_core.errors import ConfigError, DataError
from tests.support.slides.pictures import STROMA, STROMA_BOX, TUMOUR, TUMOUR_BOX
from tests.support.slides.two_slides import (
    has_colour,
    open_patches,
    two_slides,
    write_rows,
)


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    return two_slides(tmp_path / "slides")


def _geojson(
    path: Path, *regions: tuple[str, tuple[int, int, int, int]], name: bool = True
) -> None:
    features: list[dict[str, Any]] = [
        {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 1]}},
        {
            "type": "Feature",
            "geometry": _polygon(STROMA_BOX),
            "properties": {"objectType": "annotation"},
        },
    ]
    for label, box in regions:
        said: Any = {"name": label, "color": [1, 2, 3]} if name else label
        features.append(
            {
                "type": "Feature",
                "geometry": _polygon(box),
                "properties": {"objectType": "annotation", "classification": said},
            }
        )
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def _polygon(box: tuple[int, int, int, int]) -> dict[str, Any]:
    left, top, right, bottom = box
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    return {"type": "Polygon", "coordinates": [ring]}


@pytest.mark.parametrize("has_object", [True, False])
def test_a_patch_has_the_class_of_the_polygon_that_covers_it(
    slides: Path, tmp_path: Path, has_object: bool
) -> None:
    for name in ("one", "two"):
        _geojson(
            tmp_path / "qupath" / f"{name}.geojson",
            ("stroma", STROMA_BOX),
            ("tumour", TUMOUR_BOX),
            name=has_object,
        )

    source = open_patches(slides, annotations={"geojson": tmp_path / "qupath"})

    assert source.class_names == ("stroma", "tumour")
    for row in range(len(source.index)):
        patch = source.read(row)
        if not (has_colour(patch.pixels, STROMA) or has_colour(patch.pixels, TUMOUR)):
            continue  # it lies over both
        assert has_colour(patch.pixels, (STROMA, TUMOUR)[patch.label or 0])
    assert {*source.index.labels.tolist()} == {0, 1}


def test_the_smaller_of_two_regions_that_cover_a_patch_is_meant(
    slides: Path, tmp_path: Path
) -> None:
    whole = (0, 0, 1600, 1200)
    for name in ("one", "two"):
        _geojson(
            tmp_path / "qupath" / f"{name}.geojson",
            ("tumour", TUMOUR_BOX),
            ("tissue", whole),
        )

    source = open_patches(slides, annotations={"geojson": tmp_path / "qupath"})

    for row in range(len(source.index)):
        patch = source.read(row)
        if has_colour(patch.pixels, TUMOUR):
            assert source.class_names[patch.label or 0] == "tumour"
        if has_colour(patch.pixels, STROMA):
            assert source.class_names[patch.label or 0] == "tissue"


def test_what_no_region_covers_is_dropped_or_trained_without_label(
    slides: Path, tmp_path: Path
) -> None:
    rows = [
        {
            "slide": "one",
            "label": "tumour",
            "x_px": "800",
            "y_px": "100",
            "width_px": "700",
            "height_px": "900",
        },
    ]
    regions = {"regions": write_rows(tmp_path / "regions.csv", rows)}

    dropped = open_patches(slides, annotations=regions)
    kept = open_patches(slides, annotations=regions | {"outside": "unlabelled"})

    assert 0 < len(dropped.index) < 77
    assert len(kept.index) == 154
    assert (kept.index.labels != NO_LABEL).sum() == len(dropped.index)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot read the annotations"),
        ('{"type": "Topology"}', "no FeatureCollection"),
        (
            '[{"geometry": {"type": "Polygon", "coordinates": [[1, 2]]},'
            ' "properties": {"classification": "a"}}]',
            "object 1: its coordinates are no polygon",
        ),
    ],
)
def test_annotations_that_are_none_are_named_with_their_reason(
    slides: Path, tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "qupath").mkdir()
    (tmp_path / "qupath" / "one.geojson").write_text(content)

    with pytest.raises(DataError, match=message):
        open_patches(slides, annotations={"geojson": tmp_path / "qupath"})


@pytest.mark.parametrize("name", ["one.geojson", "one.ome.tif.geojson"])
def test_a_geojson_is_called_like_the_slide_with_or_without_its_ending(
    slides: Path, tmp_path: Path, name: str
) -> None:
    (slides / "two.tif").unlink()
    _geojson(tmp_path / "qupath" / name, ("tumour", TUMOUR_BOX))

    source = open_patches(slides, annotations={"geojson": tmp_path / "qupath"})

    assert source.class_names == ("tumour",)
    assert source.index.passed_over == ()


def test_two_geojson_files_of_one_slide_are_refused_by_name(
    slides: Path, tmp_path: Path
) -> None:
    for name in ("one.geojson", "one.ome.tif.geojson"):
        _geojson(tmp_path / "qupath" / name, ("tumour", TUMOUR_BOX))

    with pytest.raises(DataError, match=r"one.geojson and one.ome.tif.geojson, both"):
        open_patches(slides, annotations={"geojson": tmp_path / "qupath"})


@pytest.mark.parametrize("key", ["geojson", "regions"])
def test_what_may_have_been_drawn_on_two_slides_is_refused_by_name(
    slides: Path, tmp_path: Path, key: str
) -> None:
    (slides / "one.ome.tif").rename(slides / "two.tif.ome.tif")
    _geojson(tmp_path / "geojson" / "two.tif.geojson", ("tumour", TUMOUR_BOX))
    header = "slide,label,x_px,y_px,width_px,height_px"
    (tmp_path / "regions").write_text(f"{header}\ntwo.tif,a,800,100,700,900\n")

    message = r"two\.tif.* may be of the slide two\.tif and of two\.tif\.ome\.tif: "
    with pytest.raises(DataError, match=message):
        open_patches(slides, annotations={key: tmp_path / key})


@pytest.mark.parametrize("outside", ["drop", "unlabelled"])
def test_slides_and_annotations_without_each_other_are_told(
    slides: Path, tmp_path: Path, outside: str
) -> None:
    _geojson(tmp_path / "qupath" / "one.geojson", ("tumour", TUMOUR_BOX))
    _geojson(tmp_path / "qupath" / "tow.geojson", ("tumour", TUMOUR_BOX))
    annotations = {"geojson": tmp_path / "qupath", "outside": outside}

    source = open_patches(slides, annotations=annotations)

    findings = list(look_at_set(source, figures_of={}, max_unreadable=10))
    told = {each.text: each.more for each in findings if each.state == "warning"}
    without = "slides without annotations, so that no patch of theirs has a class: 1"
    assert told[without] == ("two.tif",)
    (strays,) = [
        more for text, more in told.items() if "annotations of no slide" in text
    ]
    assert strays == ("tow.geojson",)


def test_a_slide_that_no_row_of_regions_names_is_told(
    slides: Path, tmp_path: Path
) -> None:
    path = tmp_path / "regions.csv"
    header = "slide,label,x_px,y_px,width_px,height_px"
    path.write_text(f"{header}\none.ome.tif,a,800,100,700,900\n")

    (passed,) = open_patches(slides, annotations={"regions": path}).index.passed_over

    assert (passed.kind, passed.names) == ("unannotated", ("two.tif",))


def test_slides_of_which_none_is_annotated_say_so(slides: Path, tmp_path: Path) -> None:
    (tmp_path / "qupath").mkdir()

    with pytest.raises(DataError, match=r"slides without annotations.*: 2"):
        open_patches(slides, annotations={"geojson": tmp_path / "qupath"})
    with pytest.raises(DataError, match=r"annotations.geojson, .*cannot be listed"):
        open_patches(slides, annotations={"geojson": tmp_path / "elsewhere"})


def test_a_region_of_a_slide_that_is_not_there_is_refused(
    slides: Path, tmp_path: Path
) -> None:
    path = tmp_path / "regions.csv"
    path.write_text("slide,label,x_px,y_px,width_px,height_px\nthree,a,0,0,9,9\n")

    with pytest.raises(DataError, match="names the slide 'three', and there is none"):
        open_patches(slides, annotations={"regions": path})


def test_labels_of_slides_and_of_their_parts_exclude_each_other(slides: Path) -> None:
    rows = [{"path": "one.ome.tif", "label": "high"}]
    manifest = write_rows(slides / "m.csv", rows)

    with pytest.raises(DataError, match="leave one of them out"):
        open_patches(slides, manifest=manifest, annotations={"geojson": slides})
    with pytest.raises(ConfigError, match="geojson or regions, one of them"):
        open_patches(slides, annotations={})

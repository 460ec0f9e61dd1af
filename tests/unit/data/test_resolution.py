"""At which size and resolution a source's patches are read."""

from pathlib import Path

import pytest
from PIL import Image

from moma_core.data.resolution import PatchScale, patch_scale
from moma_core.data.sources.csv_manifest import list_csv_manifest
from tests.support.slides.pictures import painted


@pytest.mark.parametrize(
    ("patches", "scale"),
    [
        ([(64, 1.0), (64, 1.0)], PatchScale(64, 2.0)),
        ([(64, 1.0), (128, 0.5)], PatchScale(None, 2.0)),
        ([(64, 1.0), (64, 0.5)], PatchScale(64, None)),
        ([(64, None), (64, 0.5)], PatchScale(64, None)),
    ],
    ids=["alike", "other sizes", "other resolutions", "not all known"],
)
def test_a_size_or_resolution_is_stated_where_it_is_that_of_all(
    tmp_path: Path, patches: list[tuple[int, float | None]], scale: PatchScale
) -> None:
    lines = ["path,label,split,mpp"]
    for number, (side, mpp) in enumerate(patches):
        Image.fromarray(painted(side, side)).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,tumour,train,{mpp or ''}")
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")

    source = list_csv_manifest(tmp_path / "m.csv").patches()

    assert patch_scale(source, 32) == scale

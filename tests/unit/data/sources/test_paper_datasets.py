from pathlib import Path

import numpy as np
import pytest

from moma_core.data.consistency import check_consistency
from moma_core.data.patch import SPLITS, TRAIN, UNSEEN, VALIDATION
from moma_core.data.sources.image_files import FilePatches
from moma_core.data.sources.paper_datasets import (
    COLON_CLASSES,
    GLEASON_CLASSES,
    open_preset,
)
from moma_core.data.splits import SplitFractions
from moma_core.errors import DataError
from tests.support.machine.needs import shared_data
from tests.support.machine.pictures import write_picture


def _tree(root: Path, *paths: str) -> Path:
    for path in paths:
        write_picture(root / path)
    return root


def _labels(source: FilePatches, split: str) -> list[str]:
    labels = source.index.labels[source.index.rows(split)]
    return [source.class_names[label] for label in labels]


def test_panda_reads_radbouds_mask_values(tmp_path: Path) -> None:
    values = [f"slide{s}/{s}_{v}_class_{v}.png" for s in range(4) for v in range(6)]

    source = open_preset(
        "panda",
        _tree(tmp_path, *values),
        fractions=SplitFractions(train=0.5, validation=0.25, unseen=0.25),
    )

    assert source.class_names == GLEASON_CLASSES
    expected = ["benign", "benign", "grade 3", "grade 4", "grade 5"]
    assert _labels(source, VALIDATION) == _labels(source, UNSEEN) == expected
    assert _labels(source, TRAIN) == expected * 2


def _usz_tree(root: Path) -> Path:
    cores = ("ZT111_4_A_1_1", "ZT199_1_A_2_3", "ZT204_6_A_7_9", "ZT76_39_A_1_1")
    train = [
        f"train_validation_patches_750/{core}/{core}_patch_{label}_class_{label}.jpg"
        for core in cores
        for label in range(4)
    ]
    core = "ZT80_38_A_1_1"
    first = [
        f"{core}/{core}_patch_{n}_class_{c}.jpg" for n, c in ((1, 0), (2, 1), (5, 3))
    ]
    second = [
        f"{core}/{core}_patch_{n}_class_{c}.jpg" for n, c in ((1, 0), (2, 2), (7, 3))
    ]
    return _tree(
        root,
        *train,
        *(f"test_patches_750/patho_1/{path}" for path in first),
        *(f"test_patches_750/patho_2/{path}" for path in second),
    )


def test_usz_is_split_by_its_microarrays(tmp_path: Path) -> None:
    source = open_preset("usz", _usz_tree(tmp_path))

    check_consistency(source)
    assert source.class_names == GLEASON_CLASSES
    assert [len(source.index.rows(split)) for split in SPLITS] == [12, 4, 3]
    assert _labels(source, VALIDATION) == list(GLEASON_CLASSES)


def test_usz_takes_the_unseen_labels_of_the_chosen_reader(tmp_path: Path) -> None:
    root = _usz_tree(tmp_path)

    first, second = (open_preset("usz", root, reader=reader) for reader in (1, 2))

    assert _labels(first, UNSEEN) == ["benign", "grade 3", "grade 5"]
    assert _labels(second, UNSEEN) == ["benign", "grade 4", "grade 5"]


def test_ubc_is_unseen_and_grouped_by_microarray(tmp_path: Path) -> None:
    paths = [
        f"slide00{s}_core01{s}/x{v}_class_{v}.png" for s in (1, 2) for v in (0, 1, 3, 6)
    ]

    source = open_preset("ubc", _tree(tmp_path, *paths))

    assert _labels(source, UNSEEN) == ["benign", "grade 3", "benign"] * 2
    assert len(source.index.rows(UNSEEN)) == len(source.index)
    assert source.read(0).patient == "slide001"
    assert source.read(0).slide == "slide001_core011"


def test_aggc_keeps_a_specimen_of_many_scanners_in_one_split(tmp_path: Path) -> None:
    tissue = ("Stroma", "Normal", "G3", "G4", "G5")
    slides = [
        *(f"Subset1_Train_{n}" for n in range(1, 6)),
        *(f"Subset3_Train_{n}_{s}" for n in range(1, 6) for s in ("Akoya", "Leica")),
    ]
    paths = [f"{slide}/p_class_{name}.png" for slide in slides for name in tissue]

    source = open_preset(
        "aggc",
        _tree(tmp_path, *paths),
        fractions=SplitFractions(train=0.5, validation=0.3, unseen=0.2),
    )

    check_consistency(source)
    assert len(np.unique(source.index.patients)) == 10
    assert _labels(source, TRAIN)[:5] != []
    counts = np.bincount(source.index.labels) / len(source.index)
    assert counts.tolist() == pytest.approx([0.4, 0.2, 0.2, 0.2])


def test_nct_crc_divides_the_first_part_and_leaves_the_second_unseen(
    tmp_path: Path,
) -> None:
    train = [
        f"NCT-CRC-HE-100K/{c}/{c}-A{n}.tif" for c in COLON_CLASSES for n in range(4)
    ]
    unseen = [f"CRC-VAL-HE-7K/{c}/{c}-TCGA-B.tif" for c in COLON_CLASSES]

    source = open_preset(
        "nct_crc",
        _tree(tmp_path, *train, *unseen),
        fractions=SplitFractions(train=0.6, validation=0.2, unseen=0.2),
    )

    assert source.class_names == COLON_CLASSES
    assert [len(source.index.rows(split)) for split in SPLITS] == [27, 9, 9]
    assert sorted(_labels(source, UNSEEN)) == sorted(COLON_CLASSES)


def test_one_part_of_nct_crc_is_enough(tmp_path: Path) -> None:
    source = open_preset("nct_crc", _tree(tmp_path, "CRC-VAL-HE-7K/TUM/TUM-X.tif"))

    assert _labels(source, UNSEEN) == ["TUM"]


_KATHER_16 = {
    "01_TUMOR": "TUM",
    "02_STROMA": "STR",
    "04_LYMPHO": "LYM",
    "05_DEBRIS": "DEB",
    "06_MUCOSA": "NORM",
    "07_ADIPOSE": "ADI",
    "08_EMPTY": "BACK",
}


def test_kather_16_takes_the_nine_names_and_drops_complex(tmp_path: Path) -> None:
    name = "1A11_CRC-Prim-HE-07_022.tif_Row_601_Col_151.tif"
    folders = [*_KATHER_16, "03_COMPLEX"]

    source = open_preset("kather16", _tree(tmp_path, *(f"{f}/{name}" for f in folders)))

    assert source.class_names == COLON_CLASSES
    assert _labels(source, UNSEEN) == list(_KATHER_16.values())
    assert source.read(0).patient == "CRC-Prim-HE-07"
    assert source.read(0).slide == "CRC-Prim-HE-07_022"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("09_OTHER/1_CRC-Prim-HE-07_1.tif_Row_1_Col_1.tif", "label 'OTHER' is unknown"),
        ("01_TUMOR/holiday.tif", "01_TUMOR/holiday.tif in .* does not fit the layout"),
    ],
)
def test_what_does_not_follow_the_layout_is_refused(
    tmp_path: Path, path: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        open_preset("kather16", _tree(tmp_path, path))


def test_a_root_without_the_sets_folders_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of the folders NCT-CRC-HE-100K"):
        open_preset("nct_crc", tmp_path)


def test_real_kather_16_tiles_open() -> None:
    source = open_preset("kather16", shared_data("kather16_tiles"), patch_size_px=150)

    assert _labels(source, UNSEEN) == [n for n in _KATHER_16.values() for _ in range(3)]
    for row in range(len(source.index)):
        patient = source.read(row).patient
        assert patient is not None
        assert patient.startswith("CRC-Prim-HE-")


def test_real_nct_tiles_open(tmp_path: Path) -> None:
    (tmp_path / "CRC-VAL-HE-7K").symlink_to(shared_data("nct_tiles"))

    source = open_preset("nct_crc", tmp_path, patch_size_px=224)

    assert _labels(source, UNSEEN) == list(COLON_CLASSES)

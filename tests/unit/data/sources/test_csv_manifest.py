import logging
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from moma_core.data.patch import NO_LABEL, SPLITS, TRAIN, UNKNOWN_CENTRE
from moma_core.data.sources.csv_manifest import list_csv_manifest
from moma_core.data.splits import SplitFractions
from moma_core.errors import DataError
from tests.support.machine.pictures import noise, write_picture

_HEADER = "path,label,patient_id,slide_id,split,mpp"


def _manifest(folder: Path, *lines: str) -> Path:
    path = folder / "manifest.csv"
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def test_a_row_becomes_a_patch(tmp_path: Path) -> None:
    write_picture(tmp_path / "img/1.png", seed=1)
    manifest = _manifest(tmp_path, _HEADER, "img/1.png,tumour,p1,s1,validation,0.5")

    source = list_csv_manifest(manifest).patches(class_names=("normal", "tumour"))

    patch = source.read(0)
    assert np.array_equal(patch.pixels, noise(1))
    assert (patch.label, patch.patient, patch.slide) == (1, "p1", "s1")
    assert patch.resolution_mpp == 0.5
    assert SPLITS[source.index.splits[0]] == "validation"


def test_a_manifest_may_name_the_centre_of_a_patch(tmp_path: Path) -> None:
    header = f"{_HEADER},centre"
    lines = (header, "1.png,a,p,,train,,north", "2.png,b,q,,train,,")

    index = list_csv_manifest(_manifest(tmp_path, *lines)).patches().index

    assert index.centres is not None
    assert index.centres.tolist() == [0, UNKNOWN_CENTRE]
    none = list_csv_manifest(_manifest(tmp_path, _HEADER, "1.png,a,p,,train,"))
    assert none.patches().index.centres is None


def test_an_empty_cell_is_an_unknown(tmp_path: Path) -> None:
    write_picture(tmp_path / "1.png")
    lines = (_HEADER, "1.png,,,,train,", "2.png,b,p,,train,", "3.png,a,p,,train,")

    source = list_csv_manifest(_manifest(tmp_path, *lines)).patches()

    assert source.class_names == ("a", "b")
    assert source.index.labels.tolist() == [NO_LABEL, 1, 0]
    assert source.index.rows(TRAIN, labelled=False).tolist() == [0]
    patch = source.read(0)
    assert (patch.label, patch.patient, patch.slide) == (None, None, None)
    assert patch.resolution_mpp is None


def test_without_a_split_column_patients_are_divided(tmp_path: Path) -> None:
    rows = [f"{number}.png,a,p{number // 3}" for number in range(30)]

    source = list_csv_manifest(
        _manifest(tmp_path, "path,label,patient_id", *rows)
    ).patches(fractions=SplitFractions(train=0.8, validation=0.1, unseen=0.1))

    assert np.bincount(source.index.splits).tolist() == [24, 3, 3]
    of_patient = source.index.splits.reshape(10, 3)
    assert (of_patient == of_patient[:, :1]).all()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("label", "a"), "the header needs `path`"),
        (("path,path", "a,b"), "each column once"),
        (("path,label", "../1.png,a"), "line 2: the path '../1.png' is"),
        (("path,label", "/etc/1.png,a"), "line 2: the path '/etc/1.png' is"),
        (("path,label", "x\\..\\1.png,a"), "line 2: the path 'x"),
        (("path,label", ",a"), "line 2: the path '' is empty"),
        (("path,label", "1.png,a", "2.png"), "line 3: the row has not as many cells"),
        (("path,label", "1.png,a,b"), "line 2: the row has not as many cells"),
        (("path,split", "1.png,fold1"), "line 2: split 'fold1' is unknown"),
        (("path,mpp", "1.png,-1"), "line 2: mpp '-1' is not a number of microns"),
        (("path,mpp", "1.png,x"), "line 2: mpp 'x' is not a number of microns"),
        (("path,split", "1.png,train", "2.png,"), "1 of 2 rows name no split"),
        (("path,label", 'a,"b"c'), "line 2: a row begins here whose quotes do not"),
        (("path",), "holds no patches"),
    ],
)
def test_a_row_that_breaks_a_rule_is_refused(
    tmp_path: Path, lines: tuple[str, ...], message: str
) -> None:
    with pytest.raises(DataError) as caught:
        list_csv_manifest(_manifest(tmp_path, *lines)).patches()

    assert message in str(caught.value)


def test_a_missing_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read the manifest"):
        list_csv_manifest(tmp_path / "none.csv").patches()


def test_the_name_of_a_broken_file_appears_at_debug_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = list_csv_manifest(
        _manifest(tmp_path, "path,label", "secret.png,a")
    ).patches()

    with caplog.at_level(logging.DEBUG), pytest.raises(DataError) as caught:
        source.read(0)

    assert "secret" not in str(caught.value)
    told = [record for record in caplog.records if "secret" in record.getMessage()]
    assert [record.levelno for record in told] == [logging.DEBUG]


def test_a_row_of_a_large_manifest_costs_few_bytes(tmp_path: Path) -> None:
    rows = 20_000
    lines = (
        f"s{number // 100}/{number:07}.png,a,p{number // 100},s{number // 100},train,1"
        for number in range(rows)
    )
    manifest = _manifest(tmp_path, _HEADER, *lines)

    tracemalloc.start()
    source = list_csv_manifest(manifest).patches()
    held_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert len(source.index) == rows
    assert held_bytes / rows < 80  # the path itself is 16

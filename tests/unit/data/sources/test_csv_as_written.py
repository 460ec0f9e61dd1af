"""CSV as hospitals write it: read, or refused in one sentence that says what to do."""

from pathlib import Path

import numpy as np
import pytest

from moma_core.data.patch import SPLITS
from moma_core.data.sources.csv_manifest import list_csv_manifest
from moma_core.data.sources.image_files import FilePatches
from moma_core.errors import DataError
from tests.support.machine.pictures import noise, write_picture

_TEXT = "path,label,split,mpp\nimg/1.png,TUM,train,0.5\nimg/2.png,Müller,test,0.25\n"


def _open(folder: Path, text: str, encoding: str = "utf-8") -> FilePatches:
    (folder / "m.csv").write_bytes(text.encode(encoding))
    return list_csv_manifest(folder / "m.csv").patches()


def _refused(folder: Path, text: str | bytes) -> str:
    data = text if isinstance(text, bytes) else text.encode()
    (folder / "m.csv").write_bytes(data)
    with pytest.raises(DataError) as caught:
        list_csv_manifest(folder / "m.csv").patches()
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "encoding",
    ["utf-8", "utf-8-sig", "utf-16", "utf-32"],
)
def test_unicode_is_read_by_its_mark(tmp_path: Path, encoding: str) -> None:
    source = _open(tmp_path, _TEXT, encoding)

    assert source.class_names == ("Müller", "TUM")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", ""),
        (",", ";"),
        (",", "\t"),
        (",", "|"),
        (",", " ; "),
        ("\n", "\r\n"),
        ("\n", "\r"),
        ("path,label,split,mpp", "Path,LABEL, Split ,Mpp"),
        ("path,", "sep=,\npath,"),
        ("\n", ",,,\n"),
        ("\nimg/2", "\n,,,\n\nimg/2"),
        ("img/", "img\\"),
        ("img/", "./img/"),
        ("train", "Training"),
        ("test", "HOLDOUT"),
        ("TUM", ' TUM"'.replace('"', "\u00a0")),
        ("TUM", "  TUM "),
        ("0.5", '"0,5"'),
    ],
)
def test_ways_of_writing_it_mean_the_same(
    tmp_path: Path, before: str, after: str
) -> None:
    text = _TEXT.replace(before, after) if before else _TEXT
    write_picture(tmp_path / "img/1.png", seed=1)

    source = _open(tmp_path, text)

    assert source.class_names == ("Müller", "TUM")
    assert [SPLITS[code] for code in source.index.splits] == ["train", "unseen"]
    assert np.array_equal(source.read(0).pixels, noise(1))
    assert source.read(0).resolution_mpp == 0.5


def test_a_decimal_comma_needs_no_quotes_between_semicolons(tmp_path: Path) -> None:
    write_picture(tmp_path / "1.png")

    source = _open(tmp_path, "path;label;mpp\n1.png;a;0,2426\n")

    assert source.read(0).resolution_mpp == pytest.approx(0.2426)


def test_a_blank_after_every_third_label_makes_no_class(tmp_path: Path) -> None:
    rows = [f"{n}.png,TUM{' ' if n % 3 == 0 else ''},p{n} " for n in range(9)]

    source = _open(tmp_path, "path,label,patient_id\n" + "\n".join(rows))

    assert source.class_names == ("TUM",)
    assert source.patient_of(0) == "p0"


def test_one_name_in_two_unicode_forms_makes_no_second_class(tmp_path: Path) -> None:
    source = _open(tmp_path, "path,label\n1.png,Dr\u00fcse\n2.png,Dru\u0308se\n")

    assert source.class_names == ("Dr\u00fcse",)


def test_further_columns_are_kept_out_and_named(tmp_path: Path) -> None:
    source = _open(tmp_path, ",path,label,age,Scanner ID\n0,1.png,a,71,x\n")

    (column,) = [each for each in source.index.passed_over if each.kind == "column"]
    assert (column.count, column.is_ordinary) == (3, False)
    assert set(column.names) == {"(without a name)", "age", "scanner_id"}


def test_blank_rows_are_counted(tmp_path: Path) -> None:
    source = _open(tmp_path, "path;label\n1.png;a\n;\n\n2.png;b\n;;;\n")

    (rows,) = [each for each in source.index.passed_over if each.kind == "blank_row"]
    assert (rows.count, rows.is_ordinary) == (3, True)
    assert rows.names == ("line 3", "line 4", "line 6")
    assert source.place_of(1) == "m.csv line 5: 2.png"


def test_pictures_that_are_not_there_are_named_with_their_lines(tmp_path: Path) -> None:
    write_picture(tmp_path / "d/1.png")

    source = _open(tmp_path, "path\nd/1.png\n2.png\nd\n")

    (missing,) = source.index.passed_over
    assert missing.kind == "missing"
    assert missing.names == ("line 3: 2.png", "line 4: d")


@pytest.mark.parametrize("inside", [True, False])
def test_absolute_paths_stay_below_the_root_that_the_config_names(
    tmp_path: Path, inside: bool
) -> None:
    root = tmp_path / "store"
    picture = write_picture((root if inside else tmp_path) / "1.png", seed=1)
    (tmp_path / "m.csv").write_text(f"path\n{picture}\n")

    if inside:
        source = list_csv_manifest(tmp_path / "m.csv", root).patches()
        assert np.array_equal(source.read(0).pixels, noise(1))
    else:
        with pytest.raises(DataError, match=r"line 2: .* leads out of data\.root"):
            list_csv_manifest(tmp_path / "m.csv", root)


def test_an_absolute_path_below_a_linked_root_is_known(tmp_path: Path) -> None:
    picture = write_picture(tmp_path / "store/1.png")
    (tmp_path / "link").symlink_to("store")
    (tmp_path / "m.csv").write_text(f"path\n{picture}\n")

    source = list_csv_manifest(tmp_path / "m.csv", tmp_path / "link").patches()

    assert source.path_of(0) == "1.png"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_TEXT.encode("cp1252"), "line 3 is not UTF-8 (byte 0xfc, as Windows-1252"),
        (_TEXT.encode("utf-16-le"), "is UTF-16 without its mark, or no text: save it"),
        (_TEXT.encode("utf-16-be"), "is UTF-16 without its mark, or no text: save it"),
        (_TEXT.encode("utf-16")[:-1], "it is damaged UTF-16: save it as CSV in UTF-8"),
        (b"PK\x03\x04....", "is an Excel or zip file, not CSV: save it as CSV"),
        (b"\xd0\xcf\x11\xe0\xa1", "is an old Excel file, not CSV"),
        (b"\x1f\x8b\x08", "is compressed (gzip), not CSV"),
        (b"PAR1....", "is a Parquet file, not CSV"),
        (b"path\n" + b"x" * 300 + b"\0", "line 2 holds a NUL"),
        (b"path\n" + b"x" * 2_000_000, "line 2 is too long to be a row"),
        ("", "the header needs `path`, and has nothing"),
        ("\n", "the header needs `path`, and has nothing"),
        ("img/1.png,TUM\n", "needs `path`, and has img/1.png, tum; the first"),
        ("<html><body>\n", "needs `path`, and has <html><body>"),
        ('{"path": "1.png"}\n', "the header needs `path`"),
        ("path:label\n1.png:a\n", "the header needs `path`, and has path:label"),
        ("filename,label\n", "has a column 'filename': call it `path` if it is that"),
        ("path,class\n1.png,a", "has a column 'class': call it `label`"),
        ("path,label,patient\n", "has a column 'patient': call it `patient_id`"),
        ("path,label,Slide\n", "has a column 'slide': call it `slide_id`"),
        ("path,label,set\n", "has a column 'set': call it `split`"),
        ("path,label,Label\n", "needs each column once, not 'label' again"),
        ("path,label,mpp\n1.png,a,0,5", "not as many cells as the header, 4 for 3"),
        ("path,label\n1.png,a,,b", "not as many cells as the header, 4 for 2"),
        ("Path,Slide ID\n1.png,a\nPath,Slide ID\n", "line 3 is the header again"),
        ("path,label\n1.png,nan", "line 2: label 'nan' looks like a missing value"),
        ("path,label\n1.png,NULL", "line 2: label 'NULL' looks like a missing value"),
        ("path,patient_id\n1.png,N/A", "patient_id 'N/A' looks like a missing value"),
        ("path,slide_id\n1.png,-", "slide_id '-' looks like a missing value"),
        ("path,label\n1.png,TUM\n2.png,tum", "'TUM' and 'tum' differ by case, blanks"),
        ("path,label\n1.png,1\n2.png,1.0", "the classes '1' and '1.0' differ by"),
        ("path,mpp\n1.png,250", "mpp '250' is not a number of microns a pixel"),
        ("path,label\n1.png,TU\u200bM", "the class 'TU\\u200bM' has letters that"),
        ("path,label\n1.png;a\n", "1 for 2: separate them as the header does"),
        ("path,label\n1.png,G3-4\n2.png,G3_4", "'G3-4' and 'G3_4' differ by case"),
        ("path,label\n1.png,a\x1bb", r"the class 'a\x1bb' has letters that"),
        ("path,mpp\n1.png,0.5 um", "mpp '0.5 um' is not a number of microns"),
        ("path,mpp\n1.png,\"1.234,5\"", "mpp '1.234,5' is not a number of microns"),
        ("path,mpp\n1.png,inf", "mpp 'inf' is not a number of microns"),
        ("path,split\n1.png,fold1", "line 2: split 'fold1' is unknown, expected one"),
        ("path\n/data/1.png", "is absolute: set data.root to the folder of"),
        ("path\nD:\\data\\1.png", "'D:/data/1.png' is empty, absolute or leads out"),
        ("path\n\\\\nas\\1.png", "is absolute: set data.root"),
        ("path\nhttps://x.org/1.png", "'https://x.org/1.png' is empty, absolute or"),
        ("path\na/../../1.png", "is empty, absolute or leads out"),
        ('path,label\n"1.png,a\n2.png,b\n', "line 2: a row begins here whose quotes"),
        ('path,label\n1.png,a\n2.png,"b\n3.png,c\n', "line 3: a row begins here"),
        ('path,label\n"1\n.png",a\n"2.png,a\n', "line 4: a row begins here"),
        ('sep=,\npath,label\n1.png,a\n2.png,"b', "line 4: a row begins here"),
        ('path,label\n1.png,"b\n3.png,"c"\n', "line 2: a row begins here"),
        ('path,label\n1.png,"b\n', "close each double quote in its line"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_that_says_what_to_do(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    assert message in _refused(tmp_path, text)


def test_a_cell_is_too_long_by_a_quote_or_by_itself(tmp_path: Path) -> None:
    by_a_quote = 'path,label\n1.png,"b\n' + "2.png,b\n" * 20_000
    by_itself = f"path,x\n1.png,\n2.png,{'x' * 140_000}\n"

    assert "line 2: a row begins here whose quotes" in _refused(tmp_path, by_a_quote)
    assert "line 3: a cell has more than 131072" in _refused(tmp_path, by_itself)


def test_a_folder_in_place_of_the_manifest_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read the manifest"):
        list_csv_manifest(tmp_path)


def test_a_label_that_is_nearly_a_class_name_is_hinted_at(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path,label\n1.png,tum\n")

    with pytest.raises(
        DataError, match=r"label 'tum' is not in .*did you mean 'TUM'\?"
    ):
        list_csv_manifest(tmp_path / "m.csv").patches(class_names=("STR", "TUM"))


def test_classes_that_differ_by_case_may_be_named_both(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path,label\n1.png,tum\n2.png,TUM\n")

    source = list_csv_manifest(tmp_path / "m.csv").patches(class_names=("tum", "TUM"))

    assert source.index.labels.tolist() == [0, 1]

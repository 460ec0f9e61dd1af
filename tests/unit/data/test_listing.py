import os
import sys
from pathlib import Path

import pytest

from moma_core.data.inventory import MOST_NAMED, Inventory, PassedOver, printable
from moma_core.data.listing import list_images
from moma_core.errors import DataError
from tests.support.machine.pictures import write_picture


def _look(root: Path) -> tuple[list[str], dict[tuple[str, str], PassedOver]]:
    inventory = Inventory()
    found = list(list_images(root, inventory))
    return found, {(each.kind, each.what): each for each in inventory.passed_over()}


def _touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_images_are_listed_sorted_without_hidden_and_other_files(
    tmp_path: Path,
) -> None:
    _touch(tmp_path, "b/2.png", "b/1.JPG", "a.tif", ".hidden.png", ".dir/x.png")

    found, passed = _look(tmp_path)

    assert found == ["a.tif", "b/1.JPG", "b/2.png"]
    assert passed[("hidden", "")].names == (".dir", ".hidden.png")


@pytest.mark.parametrize(
    ("name", "kind", "what"),
    [
        ("a/s.svs", "suffix", ".svs"),
        ("a/s.JP2", "suffix", ".jp2"),
        ("a/notes", "suffix", ""),
        ("a/x.this is a sentence", "suffix", ""),
        ("a/Thumbs.db", "system", ""),
        ("__MACOSX/a/1.png", "system", ""),
        ("a/@eaDir/1.png", "system", ""),
        ("a/._1.png", "hidden", ""),
        ("a/.DS_Store", "hidden", ""),
    ],
)
def test_what_is_not_read_is_counted_by_kind(
    tmp_path: Path, name: str, kind: str, what: str
) -> None:
    _touch(tmp_path, "a/1.png", name)

    found, passed = _look(tmp_path)

    assert found == ["a/1.png"]
    assert list(passed) == [(kind, what)]
    assert passed[(kind, what)].count == 1


def test_an_empty_folder_below_is_counted(tmp_path: Path) -> None:
    _touch(tmp_path, "a/1.png")
    (tmp_path / "a/nothing").mkdir()

    assert _look(tmp_path)[1][("stray_folder", "")].names == ("a/nothing",)


def test_a_pipe_is_passed_over_and_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "1.png")

    found, passed = _look(tmp_path)

    assert found == []
    assert passed[("special", "")].names == ("1.png",)


def test_links_within_the_root_are_read_and_others_named(tmp_path: Path) -> None:
    write_picture(tmp_path / "outside/1.png")
    root = tmp_path / "root"
    write_picture(root / ".store/TUM/1.png")
    write_picture(root / "STR/2.png")
    (root / "TUM").symlink_to(".store/TUM")
    (root / "STR/3.png").symlink_to("2.png")
    (root / "MUS").symlink_to(tmp_path / "outside")
    (root / "STR/4.png").symlink_to(tmp_path / "outside/1.png")
    (root / "STR/5.png").symlink_to("nowhere.png")
    (root / "STR/6.png").symlink_to("6.png")
    (root / "STR/up").symlink_to("..")

    found, passed = _look(root)

    assert found == ["STR/2.png", "STR/3.png", "TUM/1.png"]
    assert set(passed[("link", "")].names) == {
        "MUS",
        "STR/4.png",
        "STR/5.png",
        "STR/6.png",
        "STR/up",
    }


def test_folders_that_link_to_one_another_end(tmp_path: Path) -> None:
    write_picture(tmp_path / "a/1.png")
    write_picture(tmp_path / "b/2.png")
    (tmp_path / "a/x").symlink_to(tmp_path / "b")
    (tmp_path / "b/y").symlink_to(tmp_path / "a")

    found, passed = _look(tmp_path)

    assert found == ["a/1.png", "a/x/2.png", "b/2.png", "b/y/1.png"]
    assert set(passed[("link", "")].names) == {"a/x/y", "b/y/x"}


def test_a_folder_that_cannot_be_listed_stops_the_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _touch(tmp_path, "a/1.png", "b/2.png")
    scandir = os.scandir

    def refusing(path: Path) -> object:  # root may list anything
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)

    with pytest.raises(DataError, match=r"/b cannot be listed: Permission denied; let"):
        list(list_images(tmp_path))


@pytest.mark.skipif(sys.platform == "darwin", reason="the disk takes UTF-8 alone")
def test_a_name_that_is_no_utf8_opens_and_can_be_written(tmp_path: Path) -> None:
    write_picture(tmp_path / "plain.png").rename(
        tmp_path / os.fsdecode(b"M\xfcller.png")
    )

    (found,), _ = _look(tmp_path)

    assert (tmp_path / found).is_file()
    assert printable(found) == r"M\xfcller.png"


@pytest.mark.parametrize(
    ("name", "text"),
    [("Müller 良性.png", "Müller 良性.png"), ("a\nb\x1b[2J", r"a\nb\x1b[2J")],
)
def test_only_letters_that_cannot_be_printed_are_written_otherwise(
    name: str, text: str
) -> None:
    assert printable(name) == text


def test_names_are_bounded_and_counts_are_not() -> None:
    inventory = Inventory()
    for number in range(1000):
        inventory.note("suffix", f"{number}.{number}", f".{number}")

    passed = inventory.passed_over()

    assert sum(each.count for each in passed) == 1000
    assert len(passed) < 100
    assert max(len(each.names) for each in passed) == MOST_NAMED


def test_a_line_names_the_kind_and_no_file(tmp_path: Path) -> None:
    _touch(tmp_path, "secret.svs", "secret2.svs")

    (each,) = _look(tmp_path)[1].values()

    assert str(each) == "files of a kind that is not read (.svs): 2"
    assert not each.is_ordinary

"""Patches listed in a CSV file: `path,label,patient_id,slide_id,split,mpp,centre`."""

import csv
import math
import posixpath
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from moma_core.data.inventory import printable
from moma_core.data.resolution import LARGEST_MPP
from moma_core.data.sources.image_files import FileTable
from moma_core.errors import DataError
from moma_core.runtime.csv_text import open_text

if TYPE_CHECKING:
    from _csv import Reader as _Reader

COLUMNS = ("path", "label", "patient_id", "slide_id", "split", "mpp", "centre")

_SEPARATORS = (",", ";", "\t", "|")
_NO_CELL = frozenset({"nan", "na", "n/a", "#n/a", "null", "none", "nil", "?", "-"})
"""What other programs write where a cell is empty."""

_LIKELY_MEANT = {
    theirs: ours
    for ours, names in {
        "path": "file filename file_name file_path filepath image image_path img "
        "patch patch_path paths relative_path",
        "label": "class class_name labels target diagnosis category klasse",
        "patient_id": "patient patientid patient_no case case_id pid subject",
        "slide_id": "slide slideid slide_name wsi wsi_id",
        "split": "set subset partition splits",
        "mpp": "resolution resolution_mpp mpp_x microns_per_pixel um_per_px",
    }.items()
    for theirs in names.split()
}
"""What people call our columns."""


class _Row(NamedTuple):
    """Cells by column, without blanks around them; no cell is empty text."""

    line: int
    cells: dict[str, str]


def list_csv_manifest(manifest: Path, root: Path | None = None) -> FileTable:
    """Returns the patches of a manifest, in its order.

    Cells are separated by comma, semicolon, tab or bar, whichever gives the header its
    columns; the text is UTF-8, or UTF-16 with a mark at its beginning. The header may
    be in any case and hold further columns, which are passed over. `path` is relative
    to the root, stays inside it, and may have backslashes; `label` is a class name,
    empty for an unlabelled patch. Only `path` is required; a column that is missing is
    empty. `mpp` may have a decimal comma. Blanks around a cell do not count.

    Args:
        manifest: The file.
        root: Folder of the pictures, below which a path may be absolute as well; None:
            the manifest's own folder, and no path is absolute.

    Raises:
        DataError: The file cannot be read, or a row breaks a rule; the message names
            the line, never a patient.
    """
    table = FileTable(root or manifest.parent, listed_in=manifest.name)
    try:
        with open_text(manifest) as file:
            for row in _rows(table, manifest, file):
                _add(table, row, manifest, root)
    except (OSError, csv.Error) as error:
        raise _unreadable(manifest, error) from error
    if 0 < table.rows_without_split < len(table):
        missing, rows = table.rows_without_split, len(table)
        raise DataError(
            f"{manifest}: {missing} of {rows} rows name no split: name one in each "
            f"row, or in none, and they are drawn by patient"
        )
    return table


def _unreadable(manifest: Path, error: Exception) -> DataError:
    """Returns the sentence on a manifest that is no file, or no CSV."""
    reason = str(error)
    if isinstance(error, IsADirectoryError):
        reason = (
            f"it is a folder; name the file in it, or write data: {{kind: "
            f"image_folder, root: {manifest.name}}}"
        )
    elif manifest.is_symlink() and not manifest.exists():
        reason = f"it is a link that leads nowhere, to {manifest.readlink()}"
    elif isinstance(error, FileNotFoundError):
        reason = (
            "there is no such file; a path in a config starts at the config's folder"
        )
    return DataError(f"cannot read the manifest {manifest}: {reason}")


def _rows(table: FileTable, manifest: Path, file: Iterator[str]) -> Iterator[_Row]:
    """Yields the rows below the header."""
    header = next(file, "")
    separator, before = None, 0
    if match := re.fullmatch(r'"?sep=(.)"?\s*', header, re.IGNORECASE):
        separator, header, before = match[1], next(file, ""), 1  # as Excel writes it
    separator = separator or max(
        _SEPARATORS, key=lambda mark: len(set(_names(header, mark)) & set(COLUMNS))
    )
    names = _names(header, separator)
    _check_columns(table, manifest, names)
    reader = csv.reader(file, delimiter=separator, strict=True)
    for line, cells in _numbered(reader, manifest, before + 1):
        cells = [cell.strip() for cell in cells]
        if not any(cells):
            table.inventory.note("blank_row", f"line {line}")
            continue
        yield _Row(line, _cells(names, cells, f"{manifest} line {line}"))


def _numbered(
    reader: "_Reader", manifest: Path, before: int
) -> Iterator[tuple[int, list[str]]]:
    """Yields the last line of each row, and its cells.

    Args:
        reader: Of the lines below the header.
        manifest: Names the file in messages.
        before: How many lines stand above.

    Raises:
        DataError: A quote is never closed, or closes where a cell goes on; or a cell is
            longer than Python reads one.
    """
    end = before
    try:
        for cells in reader:
            end = reader.line_num + before
            yield end, cells
    except csv.Error as error:
        is_one_line = reader.line_num + before == end + 1
        if is_one_line and "field larger" in str(error):  # of many lines: by a quote
            reason = (
                f"a cell has more than {csv.field_size_limit()} letters: take out "
                f"what is no path and no name"
            )
        else:
            reason = (
                f"a row begins here whose quotes do not match ({error}): close each "
                f"double quote in its line, write one inside a cell twice, or take it "
                f"out"
            )
        raise DataError(f"{manifest} line {end + 1}: {reason}") from error


def _names(header: str, separator: str) -> list[str]:
    """Returns the header's columns, as we write them."""
    cells = next(csv.reader([header], delimiter=separator, strict=True), [])
    names = [_column(cell) for cell in cells]
    while names and not names[-1]:
        names.pop()  # separators at the line's end, as spreadsheets write them
    return names


def _column(cell: str) -> str:
    return re.sub(r"[\s-]+", "_", cell.strip().casefold())


def _check_columns(table: FileTable, manifest: Path, names: Sequence[str]) -> None:
    """Refuses a header that lacks what is needed, and notes what is not read."""
    where = f"{manifest}: the header"
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        raise DataError(f"{where} needs each column once, not {twice[0]!r} again")
    for name in names:
        meant = _LIKELY_MEANT.get(name)
        if meant is not None and meant not in names:
            raise DataError(
                f"{where} has a column {name!r}: call it `{meant}` if it is that, and "
                f"otherwise something else; known: {', '.join(COLUMNS)}"
            )
        if name not in COLUMNS:
            table.inventory.note("column", name or "(without a name)")
    if "path" not in names:
        found = printable(", ".join(names[:10])[:200]) or "nothing"
        raise DataError(
            f"{where} needs `path`, and has {found}; the first line names the columns: "
            f"{', '.join(COLUMNS)}"
        )


def _cells(names: Sequence[str], cells: list[str], where: str) -> dict[str, str]:
    while len(cells) > len(names) and not cells[-1]:
        cells.pop()
    if len(cells) != len(names):
        raise DataError(
            f"{where}: the row has not as many cells as the header, {len(cells)} for "
            f"{len(names)}: separate them as the header does, and put a cell that "
            f"holds the separator into double quotes"
        )
    found = {name: cell for name, cell in zip(names, cells, strict=True) if cell}
    if found and all(_column(cell) == name for name, cell in found.items()):
        raise DataError(f"{where} is the header again: take it out")
    return found


def _add(table: FileTable, row: _Row, manifest: Path, root: Path | None) -> None:
    cells, where = row.cells, f"{manifest} line {row.line}"
    try:
        table.add(
            _path(cells.get("path", ""), root),
            label=_name(cells, "label"),
            split=cells.get("split"),
            patient=_name(cells, "patient_id"),
            slide=_name(cells, "slide_id"),
            resolution_mpp=_resolution(cells.get("mpp")),
            centre=_name(cells, "centre"),
        )
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    table.lines.append(row.line)


def _path(cell: str, root: Path | None) -> str:
    """Returns a path below the root.

    Raises:
        DataError: The path is absolute, and not below a root that was given.
    """
    path = cell.replace("\\", "/")
    if not posixpath.isabs(path):
        return path
    if root is None:
        raise DataError(
            f"the path '{printable(cell)}' is absolute: set data.root to the folder of "
            f"the pictures, or write paths that start at the manifest's folder"
        )
    for base in (root, root.resolve()):
        if ".." not in path.split("/") and Path(path).is_relative_to(base):
            return Path(path).relative_to(base).as_posix()
    raise DataError(
        f"the path '{printable(cell)}' leads out of data.root, which is {root}"
    )


def _name(cells: dict[str, str], column: str) -> str | None:
    """Returns a name, or None where there is none.

    Raises:
        DataError: It is what another program writes where there is none.
    """
    cell = cells.get(column)
    if cell is not None and cell.casefold() in _NO_CELL:
        raise DataError(
            f"{column} {cell!r} looks like a missing value: leave the cell empty, or "
            f"give it another name"
        )
    return cell


def _resolution(cell: str | None) -> float | None:
    if cell is None:
        return None
    try:
        resolution_mpp = float(re.sub(r"^(\d*),(\d+)$", r"\1.\2", cell))
    except ValueError:
        resolution_mpp = math.nan
    if not 0 < resolution_mpp <= LARGEST_MPP:
        raise DataError(
            f"mpp {cell!r} is not a number of microns a pixel, such as 0.5 or 0.25"
        )
    return resolution_mpp

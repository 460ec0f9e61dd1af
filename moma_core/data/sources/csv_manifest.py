"""Patches listed in a CSV file: `path,label,patient_id,slide_id,split,mpp`."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

from moma_core.data.sources.image_files import FileTable
from moma_core.errors import DataError

COLUMNS = ("path", "label", "patient_id", "slide_id", "split", "mpp")


def list_csv_manifest(manifest: Path) -> FileTable:
    """Returns the patches of a manifest, in its order.

    `path` is relative to the manifest's folder and stays inside it; `label` is a
    class name, empty for an unlabelled patch. Only `path` is required; a column that
    is missing is empty.

    Args:
        manifest: A CSV file in UTF-8 with a header.

    Raises:
        DataError: The file cannot be read, or a row breaks a rule; the message names
            the line, never a patient.
    """
    table = FileTable(manifest.parent)
    try:
        with manifest.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restkey="", strict=True)
            _check_columns(manifest, reader.fieldnames or ())
            for row in reader:
                _add(table, row, manifest, reader.line_num)
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"cannot read the manifest {manifest}: {error}") from error
    if 0 < table.rows_without_split < len(table):
        missing, rows = table.rows_without_split, len(table)
        raise DataError(f"{manifest}: {missing} of {rows} rows name no split")
    return table


def _check_columns(manifest: Path, columns: Sequence[str]) -> None:
    strangers = [name for name in columns if name not in COLUMNS]
    if strangers:
        known = ", ".join(COLUMNS)
        raise DataError(f"{manifest}: unknown column {strangers[0]!r}, known: {known}")
    if "path" not in columns or len(set(columns)) != len(columns):
        raise DataError(f"{manifest}: the header needs `path`, and each column once")


def _add(table: FileTable, row: dict[str, str], manifest: Path, line: int) -> None:
    where = f"{manifest} line {line}"
    if "" in row or None in row.values():
        raise DataError(f"{where}: the row has not as many cells as the header")
    try:
        table.add(
            row["path"],
            label=row.get("label") or None,
            split=row.get("split") or None,
            patient=row.get("patient_id") or None,
            slide=row.get("slide_id") or None,
            resolution_mpp=_resolution(row.get("mpp") or None),
        )
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def _resolution(cell: str | None) -> float | None:
    if cell is None:
        return None
    try:
        resolution_mpp = float(cell)
    except ValueError:
        resolution_mpp = math.nan
    if not 0 < resolution_mpp < 1000:
        raise DataError(f"mpp {cell!r} is not a number of microns")
    return resolution_mpp

"""The text of a CSV file, whatever program has written it, or is to read it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from moma_core.errors import DataError
from moma_core.runtime.folders import is_special

_Encoding = Literal["utf-8-sig", "utf-16", "utf-32"]

_MARKS: tuple[tuple[bytes, _Encoding], ...] = (
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_NO_TEXT = (
    (b"PK\x03\x04", "an Excel or zip file"),
    (b"\xd0\xcf\x11\xe0", "an old Excel file"),
    (b"\x1f\x8b", "compressed (gzip)"),
    (b"%PDF", "a PDF"),
    (b"SQLite format 3", "a database"),
    (b"PAR1", "a Parquet file"),
)
_SAVE_AS = "save it as CSV in UTF-8 (in Excel: CSV UTF-8)"
_LONGEST_LINE = 1024 * 1024
_FORMULA_MARKS = ("=", "+", "-", "@")


@contextmanager
def open_text(path: Path) -> Iterator[Iterator[str]]:
    """Yields the lines of a CSV file with their ends.

    UTF-8 with or without a mark at its beginning is read, and UTF-16 and UTF-32 with
    one. A code page such as Windows-1252 is refused: which one it is cannot be seen,
    and a wrong guess makes another class of `Müller`.

    Raises:
        DataError: It is no text, or text in an unknown encoding; the message says what
            to do.
        OSError: It cannot be read.
    """
    if is_special(path):
        raise DataError(f"{path} is a pipe or a device, and no file")
    encoding = _encoding(path)
    try:
        with path.open(encoding=encoding, newline="") as file:
            yield _lines(path, file)
    except UnicodeError:
        raise DataError(f"{path}: {_first_fault(path, encoding)}: {_SAVE_AS}") from None


def _lines(path: Path, file: Iterator[str]) -> Iterator[str]:
    for number, line in enumerate(file, start=1):
        if "\0" in line:
            raise DataError(f"{path} line {number} holds a NUL: {_SAVE_AS}")
        if len(line) > _LONGEST_LINE:
            raise DataError(f"{path} line {number} is too long to be a row: {_SAVE_AS}")
        yield line


def _encoding(path: Path) -> _Encoding:
    with path.open("rb") as file:
        start = file.read(256)
    for magic, kind in _NO_TEXT:
        if start.startswith(magic):
            raise DataError(f"{path} is {kind}, not CSV: {_SAVE_AS}")
    for mark, encoding in _MARKS:
        if start.startswith(mark):
            return encoding
    if b"\0" in start:
        raise DataError(f"{path} is UTF-16 without its mark, or no text: {_SAVE_AS}")
    return "utf-8-sig"


def _first_fault(path: Path, encoding: _Encoding) -> str:
    """Returns where text stops to be what it should be."""
    if encoding != "utf-8-sig":
        return f"it is damaged {encoding.upper()}"
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return (
                    f"line {number} is not UTF-8 (byte 0x{line[error.start]:02x}, as "
                    f"Windows-1252 has it)"
                )
    return "it is not UTF-8"


def plain_cell(text: str) -> str:
    """Returns a cell for a file that spreadsheets open: `'=1+1` for `=1+1`.

    A name that begins so would be computed there, and may fetch or send what stands in
    other cells.
    """
    return f"'{text}" if text.startswith(_FORMULA_MARKS) else text

"""Rows of a JSON file with their digest, for files that decide who is let in.

A disk, a copy or a hand can change such a file so that it can still be read. What was
not written here as it stands is damaged, and its reader says so. It is no signature:
who can write the file can make it say anything.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import TypeAdapter, ValidationError

from moma_core.runtime.canonical_json import canonical_json, parsed_json
from moma_core.runtime.files import write_private

T = TypeVar("T")

_KEYS: Final = {"rows", "sha256"}


def read_rows(path: Path, form: TypeAdapter[T]) -> T:
    """Returns a file's rows, if they are those that were written.

    Args:
        path: The file. One of a release that wrote no digest is a bare list; the next
            write adds one.
        form: Checks the rows.

    Raises:
        OSError: It cannot be read.
        ValueError: It is damaged; the message says how.
    """
    content = parsed_json(path.read_bytes())
    has_digest = isinstance(content, dict) and content.keys() == _KEYS
    rows = canonical_json(content["rows"] if has_digest else content)
    if has_digest and content["sha256"] != _digest(rows):
        raise ValueError(
            "its rows are not those that were written; put it back from a backup"
        )
    try:
        return form.validate_json(rows)
    except ValidationError as error:
        raise ValueError(error.errors()[0]["msg"]) from None


def write_rows(path: Path, rows: Sequence[dict[str, Any]], what: str = "") -> None:
    """Writes rows and their digest, as `write_private` does.

    Args:
        path: Its folder exists.
        rows: JSON values.
        what: What it is, for the sentence of an error.

    Raises:
        DiskError: The disk does not take it; the old file is as it was.
    """
    content = {"rows": rows, "sha256": _digest(canonical_json(rows))}
    write_private(path, (json.dumps(content, indent=2) + "\n").encode(), what)


def _digest(canonical: bytes) -> str:
    return hashlib.sha256(canonical).hexdigest()

"""Records of one JSON object a line, of which a kill or a disk may leave a part."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moma_core.runtime.canonical_json import parsed_json


def json_object(line: bytes) -> dict[str, Any] | None:
    """Returns the object that a line holds to its end; None: it is none, or torn.

    A torn line may well end with a brace: of an object within, or behind the zeros
    that a file system leaves in the place of what it did not get to write.
    """
    try:
        found = parsed_json(line.decode())
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def json_objects(content: bytes) -> Iterator[dict[str, Any]]:
    """Yields the object of each line; a line without one is passed over."""
    for line in content.splitlines():
        found = json_object(line)
        if found is not None:
            yield found


def read_json_objects(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the objects of a record, of one that cannot be read none."""
    try:
        content = path.read_bytes()
    except OSError:
        return
    yield from json_objects(content)

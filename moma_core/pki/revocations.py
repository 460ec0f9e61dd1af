"""Certificates that were revoked before their time: a small JSON file.

Who cannot read the file cannot know who was revoked, so a missing or damaged file
admits nobody. An empty list is therefore a file too; `start` writes it.
"""

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import AwareDatetime, NonNegativeInt, TypeAdapter, ValidationError

from moma_core.errors import CertificateError
from moma_core.runtime.files import WatchedFile, locked, write_private

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Revocation:
    """One certificate that was revoked.

    Args:
        serial: Of the certificate; in the file as a decimal string, since JSON's
            readers round numbers of this length.
        name: Whose it was, for the reader of the file.
        revoked_at: When.
    """

    serial: NonNegativeInt
    name: str
    revoked_at: AwareDatetime


_LIST = TypeAdapter(tuple[Revocation, ...])


class Revocations:
    """The serials that are refused; follows the file as it changes.

    Safe to ask from several threads.

    Args:
        path: The file; `start` makes it.
    """

    def __init__(self, path: Path) -> None:
        self._file = WatchedFile(path, _serials_in)

    def __contains__(self, serial: object) -> bool:
        """Says whether a certificate is refused: all are while the file is damaged."""
        serials = self._file.content()
        return serials is None or serial in serials


def _serials_in(path: Path) -> frozenset[int] | None:
    try:
        return frozenset(entry.serial for entry in read_revocations(path))
    except CertificateError as error:
        _logger.error("nobody is admitted: %s", error)
        return None


def start(path: Path) -> None:
    """Writes an empty list, unless there is a list already."""
    with locked(path.parent):
        if not path.exists():
            _write(path, ())


def read_revocations(path: Path) -> tuple[Revocation, ...]:
    """Returns what was revoked, oldest first.

    Raises:
        CertificateError: The file is missing or damaged.
    """
    try:
        return _LIST.validate_json(path.read_bytes())
    except OSError as error:
        raise CertificateError(f"cannot read the revocations {path}: {error}") from None
    except ValidationError as error:
        fault = error.errors()[0]["msg"]
        raise CertificateError(f"the revocations {path} are damaged: {fault}") from None


def revoke(path: Path, *, serial: int, name: str, now: datetime) -> None:
    """Takes a certificate back; who reads the file refuses it from here on.

    Args:
        path: The list; several processes may write to it at once.
        serial: Of the certificate; once it is in the list it stays as it is.
        name: Whose it is.
        now: With a time zone.

    Raises:
        CertificateError: The list is missing or damaged; it is left alone.
    """
    with locked(path.parent):
        entries = read_revocations(path)
        if all(entry.serial != serial for entry in entries):
            _write(path, (*entries, Revocation(serial, name, now)))


def learn(path: Path, serials: Iterable[int], *, name: str, now: datetime) -> int:
    """Adds what somebody else revoked; what is in the list already stays as it is.

    Args:
        path: The list.
        serials: Of certificates.
        name: Who said so, for the reader of the file.
        now: With a time zone.

    Returns:
        How many were new.

    Raises:
        CertificateError: The list is missing or damaged; it is left alone.
    """
    with locked(path.parent):
        entries = read_revocations(path)
        fresh = sorted(set(serials) - {entry.serial for entry in entries})
        if fresh:
            more = tuple(Revocation(serial, name, now) for serial in fresh)
            _write(path, (*entries, *more))
        return len(fresh)


def _write(path: Path, entries: tuple[Revocation, ...]) -> None:
    rows = [
        {
            "serial": str(entry.serial),
            "name": entry.name,
            "revoked_at": entry.revoked_at.isoformat(),
        }
        for entry in entries
    ]
    write_private(path, (json.dumps(rows, indent=2) + "\n").encode())

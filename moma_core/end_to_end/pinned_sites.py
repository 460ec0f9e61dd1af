"""Whose signature counts: the sites that a teacher's owner pinned, by fingerprint.

A certificate says only that the federation's CA vouches for a name, so a teacher serves
a site for its own key alone, which the owner got from it out of band. A missing or
damaged file pins nobody.
"""

import logging
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final

from pydantic import AwareDatetime, StringConstraints, TypeAdapter, with_config

from moma_core.end_to_end.signatures import FINGERPRINT_PATTERN, VerifyingKey
from moma_core.errors import CertificateError, ConfigError, NotAuthorizedError
from moma_core.pki.identity import NAME_PATTERN
from moma_core.runtime.checked_rows import read_rows, write_rows
from moma_core.runtime.files import WatchedFile, locked, make_folder

_logger = logging.getLogger(__name__)


@with_config(extra="forbid")
@dataclass(frozen=True, slots=True)
class PinnedSite:
    """One site that the teacher's owner pinned.

    Args:
        site: Name of the site.
        key: Fingerprint of its key.
        approved_at: When it was pinned.
    """

    site: Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
    key: Annotated[str, StringConstraints(pattern=FINGERPRINT_PATTERN)]
    approved_at: AwareDatetime

    def as_json(self) -> dict[str, str]:
        """Returns it as JSON holds it."""
        return {**asdict(self), "approved_at": self.approved_at.isoformat()}


NOT_APPROVED: Final = "the teacher's owner approved no key of the site"
"""Begins the refusal of a site that no repetition helps."""

_LIST = TypeAdapter(tuple[PinnedSite, ...])


class PinnedSites:
    """The pinned keys, read anew when the file changes. Thread-safe.

    Args:
        path: The file; `approve` makes it.
    """

    def __init__(self, path: Path) -> None:
        self._was_there = False
        self._file = WatchedFile(path, self._keys_in)
        if not self._was_there:
            _logger.info("no approvals yet; `moma-server site approve` approves a site")

    def key_of(self, site: str) -> VerifyingKey:
        """Returns the key with which a site signs.

        Raises:
            NotAuthorizedError: The owner pinned no such site.
        """
        key = self._file.content().get(site)
        if key is None:
            raise NotAuthorizedError(
                f"{NOT_APPROVED}: tell the owner the fingerprint that "
                f"`moma-client key` prints"
            )
        return key

    def fingerprints(self) -> dict[str, str]:
        """Returns every pinned site's key."""
        return {site: str(key) for site, key in self._file.content().items()}

    def _keys_in(self, path: Path) -> dict[str, VerifyingKey]:
        if not self._was_there and not path.exists():
            return {}  # a new teacher has approved nobody
        self._was_there = True
        try:
            found = read_pinned_sites(path)
        except CertificateError as error:
            _logger.error("no site is served: %s", error)
            return {}
        return {entry.site: VerifyingKey.parse(entry.key) for entry in found}


def read_pinned_sites(path: Path) -> tuple[PinnedSite, ...]:
    """Returns the pinned sites, oldest first.

    Raises:
        CertificateError: The file is missing or damaged.
    """
    try:
        return read_rows(path, _LIST)
    except OSError as error:
        raise CertificateError(f"cannot read the approvals {path}: {error}") from None
    except ValueError as error:
        raise CertificateError(f"the approvals {path} are damaged: {error}") from None


def approve(path: Path, *, site: str, key: VerifyingKey, now: datetime) -> None:
    """Approves a site by its key; who reads the file serves it from here on.

    Args:
        path: The list, made where it is missing; several processes may write to it.
        site: Its name.
        key: As the site's own operator read it out.
        now: With a time zone.

    Raises:
        ConfigError: The site is approved with another key: forget that first.
        CertificateError: The list is damaged; it is left alone.
    """
    make_folder(path.parent)
    with locked(path.parent):
        entries = read_pinned_sites(path) if path.exists() else ()
        for entry in entries:
            if entry.site == site and entry.key != str(key):
                raise ConfigError(
                    f"{site} is approved with another key, {entry.key}; "
                    f"forget that one first"
                )
            if entry.site == site:
                return
        _write(path, (*entries, PinnedSite(site, str(key), now)))


def forget(path: Path, site: str) -> None:
    """Approves a site no longer; its next message is refused.

    Raises:
        ConfigError: It was not approved.
        CertificateError: The list is missing or damaged; it is left alone.
    """
    with locked(path.parent):
        entries = read_pinned_sites(path) if path.exists() else ()
        left = tuple(entry for entry in entries if entry.site != site)
        if left == entries:
            raise ConfigError(f"{site} is not approved")
        _write(path, left)


def _write(path: Path, entries: tuple[PinnedSite, ...]) -> None:
    write_rows(path, [entry.as_json() for entry in entries], "the approvals")

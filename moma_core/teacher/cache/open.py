"""Opens a teacher cache's file, or begins it; says why another one is not used."""

import hmac
import logging
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from moma_core.errors import ConfigError
from moma_core.runtime.files import writing
from moma_core.teacher.cache.header import PAGE_BYTES, CacheHeader, CacheIdentity
from moma_core.teacher.cache.records import (
    SALT_BYTES,
    PlainRecords,
    Records,
    SealedRecords,
)

_logger = logging.getLogger(__name__)


def opened_header(
    path: Path, identity: CacheIdentity, key: bytes | None
) -> CacheHeader:
    """Returns the header of a file, which is made if it is not there.

    A file whose header is damaged is kept under another name, and begun anew: the
    header says what its records are. Caches of another identity stay.

    Raises:
        ConfigError: The file cannot be read or made.
    """
    try:
        if path.exists():
            header = _header_in(path)
            if header is not None and header.identity == identity:
                return header
            _set_aside(path)
        else:
            _warn_of_others(path, identity)
        return _begun(path, identity, key)
    except OSError as error:
        raise ConfigError(f"cannot open the teacher cache {path}: {error}") from error


def records_of(header: CacheHeader, key: bytes | None) -> Records:
    """Returns how records are read and written.

    Raises:
        ConfigError: The cache is sealed and the key is missing or another one, or
            there is a key and the cache is not sealed.
    """
    cache = header.identity.digest()
    name = f"{cache.hex()[:16]}.cache"
    if not header.salt:
        if key is not None:
            raise ConfigError(
                f"teacher cache {name} is not encrypted: move it away, and its views "
                f"are queried again, or leave out teacher.cache_key_file"
            )
        return PlainRecords(cache)
    if key is None:
        raise ConfigError(
            f"teacher cache {name} is encrypted: name teacher.cache_key_file"
        )
    records = SealedRecords(key, bytes.fromhex(header.salt), cache)
    if not hmac.compare_digest(records.key_check.hex(), header.key_check):
        raise ConfigError(
            f"teacher cache {name} is encrypted with another key than the one in "
            f"teacher.cache_key_file: name that one, or move the cache away"
        )
    return records


def cache_headers(folder: Path) -> Iterator[tuple[Path, CacheHeader]]:
    """Yields every cache of a folder that can be read."""
    for path in sorted(folder.glob("*.cache")):
        header = _header_in(path)
        if header is not None:
            yield path, header


def _header_in(path: Path) -> CacheHeader | None:
    with path.open("rb") as file:
        return CacheHeader.from_page(file.read(PAGE_BYTES))


def _begun(path: Path, identity: CacheIdentity, key: bytes | None) -> CacheHeader:
    """Makes the file with its whole header, or finds that another process did."""
    header = CacheHeader(identity)
    if key is not None:
        salt = secrets.token_bytes(SALT_BYTES)
        check = SealedRecords(key, salt, identity.digest()).key_check
        header = CacheHeader(identity, salt.hex(), check.hex())
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path, "the teacher cache"):
        try:
            with open(draft, "wb", opener=_private) as file:
                file.write(header.to_page())
                file.flush()
                os.fsync(file.fileno())
            os.link(draft, path)  # unlike a rename, never over another's
        except FileExistsError:
            return _header_in(path) or header
        finally:
            draft.unlink(missing_ok=True)
    return header


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_TRUNC, 0o600)


def _set_aside(path: Path) -> None:
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    path.rename(aside)
    _logger.warning(
        "the header of teacher cache %s is damaged: it is kept as %s, a new one begins",
        path.name,
        aside.name,
    )


def _warn_of_others(path: Path, identity: CacheIdentity) -> None:
    """Says what changed since the cache that is the most alike."""
    found = [
        (header.identity.changes_to(identity), other)
        for other, header in cache_headers(path.parent)
    ]
    if not found:
        return
    changes, other = min(found, key=lambda pair: len(pair[0]))
    _logger.warning(
        "teacher cache %s is kept but does not fit any more (%s): a new one begins as "
        "%s, and its views are queried",
        other.name,
        "; ".join(changes),
        path.name,
    )

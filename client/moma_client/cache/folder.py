"""The site's folders of teacher caches: of each teacher the caches, card, request key.

state_dir/teacher-cache/NAME/<digest>.cache  outputs, see moma_core/teacher/cache
                             card.json       the teacher's, as it was last described
                             request.key     request ids are made from it
                             <digest>.asked  requests that are perhaps not cached yet
                             rate.json       how fast the teacher answered, for `plan`
"""

import fcntl
import json
import logging
import os
import stat
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moma_client.cache.former import take_over_former
from moma_client.config.site import SiteConfig
from moma_client.metrics import ClientMetrics
from moma_core.data.augment.recipe import recipe_named
from moma_core.errors import CertificateError, ConfigError
from moma_core.pki.key_files import load_or_create_secret, read_private
from moma_core.runtime.canonical_json import parsed_json
from moma_core.runtime.files import (
    add_whole,
    replacing,
    was_moved,
    write_private,
    writing,
)
from moma_core.teacher.cache.header import CacheIdentity, CacheViews, cache_identity
from moma_core.teacher.cache.open import cache_headers
from moma_core.teacher.cache.records import parse_key
from moma_core.teacher.cache.store import TeacherCache
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.pixel_encoding import PixelEncoding

_logger = logging.getLogger(__name__)

_FOLDER_MODE = 0o700
_FEWEST_MEASURED = 16  # patches, below which a rate is chance


class MeasuredRate(NamedTuple):
    """How fast a teacher answered, measured."""

    patches: int
    seconds: float

    @property
    def patches_per_second(self) -> float:
        """What `plan` expects of it."""
        return self.patches / self.seconds


class CacheFolder:
    """What a site keeps of its teacher, between runs and for all its students.

    Args:
        config: Settings of this site.
    """

    def __init__(self, config: SiteConfig) -> None:
        self._config = config
        section = config.teacher
        self._all = config.state_dir / "teacher-cache"
        self.path = self._all / (section.name if section.is_remote else "local")
        take_over_former(self._all, self.path)

    def identity(self, card: TeacherCard) -> CacheIdentity:
        """Returns what the cache of this config and teacher holds outputs for."""
        config, section = self._config, self._config.teacher
        if not section.caches:
            raise ValueError("no output of this teacher is cached")
        views = CacheViews(
            recipe_named(config.views),
            config.view_size_px,
            config.training.seed,
            section.views,
            section.cache_precision,
            section.encoding if PixelEncoding.parse(section.encoding).is_lossy else "",
        )
        return cache_identity(card, views)

    def open(self, card: TeacherCard, rows: int) -> TeacherCache:
        """Opens the cache, or begins it.

        Args:
            card: The teacher's card.
            rows: Number of the site's patches.

        Raises:
            ConfigError: It cannot be read or written, or the key is wrong.
        """
        self._make()
        return TeacherCache(self.path, self.identity(card), rows, self._key())

    def keep_card(self, card: TeacherCard) -> None:
        """Keeps a card, so that a full cache needs no teacher to begin."""
        self._make()
        write_private(self.path / "card.json", card.to_json().encode())

    def kept_card(self) -> TeacherCard | None:
        """Returns the card of the config's teacher that is kept, if a cache is."""
        section, path = self._config.teacher, self.path / "card.json"
        if not section.caches or not path.exists():
            return None
        try:
            card = TeacherCard.load(path)
        except ConfigError as error:
            _logger.warning("the kept card is of no use: %s", error)
            return None
        headers = (header for _, header in cache_headers(self.path))
        caches = {header.identity.teacher_digest for header in headers}
        return card if card.name == section.name and card.digest in caches else None

    def request_key_file(self) -> Path:
        """Returns where the secret lies of which request ids are made."""
        return self.path / "request.key"

    def request_key(self) -> bytes:
        """Returns the secret of which request ids are made; made once."""
        self._make()
        return load_or_create_secret(self.request_key_file())

    def forget_requests(self) -> None:
        """Gives the next requests new ids: the teacher repeats no old ones."""
        self.request_key_file().unlink(missing_ok=True)
        for journal in self.path.glob("*.asked"):
            journal.unlink()

    @contextmanager
    def measured(self, metrics: ClientMetrics, *, ranks: int = 1) -> Iterator[None]:
        """Keeps how fast the teacher answered while the block ran, for `plan`.

        Args:
            metrics: Counts the patches that this process sends.
            ranks: Number of processes that send as many.
        """
        teacher = self.path.name
        before, since = metrics.sent_to(teacher), time.monotonic()
        yield
        patches = ranks * (metrics.sent_to(teacher) - before)
        if patches >= _FEWEST_MEASURED:
            self.keep_rate(MeasuredRate(patches, time.monotonic() - since))

    def keep_rate(self, rate: MeasuredRate) -> None:
        """Keeps the newest measurement."""
        self._make()
        content = json.dumps(rate._asdict()).encode()
        write_private(self.path / "rate.json", content)

    def kept_rate(self) -> MeasuredRate | None:
        """Returns the newest measurement, if there is one."""
        try:
            values = parsed_json((self.path / "rate.json").read_text("utf-8"))
            rate = MeasuredRate(int(values["patches"]), float(values["seconds"]))
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            return None
        return rate if rate.patches > 0 and rate.seconds > 0 else None

    def _make(self) -> None:
        try:
            for folder in (self._all, self.path):
                folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
                if stat.S_IMODE(folder.stat().st_mode) != _FOLDER_MODE:
                    folder.chmod(_FOLDER_MODE)  # it was there before
        except OSError as error:
            raise ConfigError(f"cannot make {self.path}: {error}") from error

    def _key(self) -> bytes | None:
        section = self._config.teacher
        if not section.caches or section.cache_key_file is None:
            return None
        try:
            return parse_key(read_private(section.cache_key_file))
        except CertificateError as error:
            raise ConfigError(f"teacher.cache_key_file: {error}") from None


class RequestJournal:
    """What was requested and is perhaps not cached yet, one request a line.

    A request is charged when it is sent, and a repetition is free if it is the same
    patches again. So the slots of a request are written down first, and a program that
    was killed repeats just that request. One program writes at a time.

    Args:
        path: The file; it is made if it is missing.

    Raises:
        ConfigError: It cannot be written, or another program writes it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = self._locked()
        self._file.seek(0)
        found = (_group_in(line) for line in self._file.read().splitlines())
        self._groups = dict.fromkeys(group for group in found if group is not None)

    def _locked(self) -> BinaryIO:
        """Opens the file for this program alone."""
        while True:
            with writing(self._path, "the journal of requests"):
                handle = os.open(
                    self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600
                )
                file = os.fdopen(handle, "a+b")
                os.fchmod(handle, 0o600)  # it may have been there before
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                raise ConfigError("another program fills this teacher cache") from None
            if not was_moved(handle, self._path):
                return file
            file.close()  # another program wrote it anew, and is done

    def groups(self) -> list[NDArray[np.int64]]:
        """Returns the requests, oldest first; a torn line was never sent."""
        return [np.array(group, np.int64) for group in self._groups]

    def add(self, group: NDArray[np.int64]) -> None:
        """Notes a request that is about to be sent, once; it then survives a kill.

        Raises:
            DiskError: The disk does not take it; then the request must not be sent.
        """
        slots = tuple(group.tolist())
        if slots in self._groups:
            return
        with writing(self._path, "the journal of requests"):
            add_whole(self._file.fileno(), _line_of(slots))
        self._groups[slots] = None

    def keep(self, groups: Iterable[NDArray[np.int64]]) -> None:
        """Forgets all requests but these: the rest is cached, or was refused.

        A kill leaves all that there were, or these.

        Raises:
            DiskError: The disk does not take them; all that there were are kept.
        """
        chosen = {tuple(group.tolist()) for group in groups}
        kept = dict.fromkeys(slots for slots in self._groups if slots in chosen)
        with replacing(self._path, "the journal of requests") as draft:
            draft.writelines(map(_line_of, kept))
            handle = os.dup(draft.fileno())  # the draft is locked, and stays so
        fcntl.fcntl(handle, fcntl.F_SETFL, os.O_APPEND)
        self._file.close()
        self._file, self._groups = os.fdopen(handle, "ab"), kept

    def close(self) -> None:
        """Closes the file, and lets another program have it."""
        self._file.close()


def _line_of(slots: tuple[int, ...]) -> bytes:
    text = json.dumps(slots).encode()
    return b"\n%08x %b\n" % (zlib.crc32(text), text)  # behind what a kill tore


def _group_in(line: bytes) -> tuple[int, ...] | None:
    checksum, _, text = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(text):
        return None
    return tuple(parsed_json(text))

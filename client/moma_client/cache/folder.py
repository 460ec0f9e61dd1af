"""The site's folder of teacher caches: the caches, the teacher's card, the request key.

state_dir/teacher-cache/<digest>.cache   answers; see moma_core/teacher/cache/store.py
                    card.json        the teacher's, as it was last described
                    request.key      request ids are made from it
                    <digest>.asked   asked, and perhaps not kept yet
                    rate.json        how fast the teacher answered, for `plan`
"""

import json
import logging
import secrets
import stat
from typing import NamedTuple

from moma_client.config.site import SiteConfig
from moma_core.data.augment.recipe import recipe_named
from moma_core.errors import CertificateError, ConfigError
from moma_core.pki.key_files import read_private
from moma_core.runtime.files import write_private
from moma_core.teacher.cache.header import CacheIdentity, CacheViews, cache_identity
from moma_core.teacher.cache.open import cache_headers
from moma_core.teacher.cache.records import parse_key
from moma_core.teacher.cache.store import TeacherCache
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.pixel_encoding import PixelEncoding

_logger = logging.getLogger(__name__)

_FOLDER_MODE = 0o700


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
        config: The site's.
    """

    def __init__(self, config: SiteConfig) -> None:
        self._config = config
        self.path = config.state_dir / "teacher-cache"
        self._take_over()

    def identity(self, card: TeacherCard) -> CacheIdentity:
        """Returns what the cache of this config and teacher is made for."""
        config, section = self._config, self._config.teacher
        if not section.caches:
            raise ValueError("no view of this teacher is kept")
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
            card: The teacher's.
            rows: Of the site's source.

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

    def request_key(self) -> bytes:
        """Returns the secret of which request ids are made; made once."""
        self._make()
        path = self.path / "request.key"
        if not path.exists():
            write_private(path, secrets.token_bytes(32))
        return path.read_bytes()

    def forget_requests(self) -> None:
        """Makes the next requests new ones: the teacher repeats no old ones."""
        (self.path / "request.key").unlink(missing_ok=True)
        for journal in self.path.glob("*.asked"):
            journal.unlink()

    def keep_rate(self, rate: MeasuredRate) -> None:
        """Keeps the newest measurement."""
        self._make()
        content = json.dumps(rate._asdict()).encode()
        write_private(self.path / "rate.json", content)

    def kept_rate(self) -> MeasuredRate | None:
        """Returns the newest measurement, if there is one."""
        try:
            values = json.loads((self.path / "rate.json").read_text("utf-8"))
            rate = MeasuredRate(int(values["patches"]), float(values["seconds"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return rate if rate.patches > 0 and rate.seconds > 0 else None

    def _make(self) -> None:
        try:
            self.path.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
            if stat.S_IMODE(self.path.stat().st_mode) != _FOLDER_MODE:
                self.path.chmod(_FOLDER_MODE)  # it was there before
        except OSError as error:
            raise ConfigError(f"cannot make {self.path}: {error}") from error

    def _take_over(self) -> None:
        """Renames what an earlier release kept as `view-bank/*.bank`."""
        former = self.path.with_name("view-bank")
        if not former.is_dir() or self.path.exists():
            return
        try:
            for file in former.glob("*.bank"):
                file.rename(file.with_suffix(".cache"))
            former.rename(self.path)
        except OSError as error:
            raise ConfigError(f"cannot rename {former}: {error}") from error

    def _key(self) -> bytes | None:
        section = self._config.teacher
        if not section.caches or section.cache_key_file is None:
            return None
        try:
            return parse_key(read_private(section.cache_key_file))
        except CertificateError as error:
            raise ConfigError(f"teacher.cache_key_file: {error}") from None

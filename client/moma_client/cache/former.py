"""Takes over what earlier releases kept of a site's teacher.

They kept it as `view-bank/*.bank`, then directly in `teacher-cache`; each teacher has
a folder of its own now. What is there is moved to its teacher's, and nothing is asked
again.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from moma_core.errors import ConfigError
from moma_core.pki.identity import NAME_PATTERN
from moma_core.runtime.files import locked
from moma_core.teacher.cache.open import cache_headers
from moma_core.teacher.card.card import TeacherCard

_CARD = "card.json"
_OF_THE_CARD = ("request.key", "rate.json", _CARD)  # it says whose they are


class _Move(NamedTuple):
    """A file, and the name of the teacher that it is of."""

    file: Path
    teacher: str


def take_over_former(caches: Path, present: Path) -> None:
    """Moves what lies in `caches` to the folders of its teachers.

    Args:
        caches: The site's folder of all teacher caches; may be missing.
        present: The folder in it of the teacher that is asked now; what names no
            teacher is taken to be of this one.

    Raises:
        ConfigError: It cannot be moved.
    """
    try:
        _rename_first_folder(caches)
        if any(_moves(caches, present)):
            with locked(caches):
                for move in list(_moves(caches, present)):
                    folder = caches / move.teacher
                    folder.mkdir(mode=0o700, exist_ok=True)
                    move.file.rename(folder / move.file.name)
    except OSError as error:
        raise ConfigError(f"cannot take over {caches}: {error}") from error


def _rename_first_folder(caches: Path) -> None:
    former = caches.with_name("view-bank")
    if not former.is_dir() or caches.exists():
        return
    try:
        with locked(former):
            for file in former.glob("*.bank"):
                file.rename(file.with_suffix(".cache"))
            former.rename(caches)
    except FileNotFoundError:
        return  # another process of this site was first


def _moves(caches: Path, present: Path) -> Iterator[_Move]:
    """Yields the files that lie beside the teachers' folders, the card last."""
    owners = {
        path.stem: header.identity.teacher for path, header in cache_headers(caches)
    }
    for path in [*caches.glob("*.cache"), *caches.glob("*.asked")]:
        yield _Move(path, _proper(owners.get(path.stem, ""), present))
    for name in _OF_THE_CARD:
        if (caches / name).exists():
            yield _Move(caches / name, _proper(_name_on(caches / _CARD), present))


def _name_on(card: Path) -> str:
    try:
        return TeacherCard.load(card).name
    except ConfigError:
        return ""


def _proper(name: str, present: Path) -> str:
    return name if re.fullmatch(NAME_PATTERN, name) else present.name

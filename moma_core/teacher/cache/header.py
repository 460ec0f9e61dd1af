"""What a teacher cache was made for, and the page at its start that says so."""

import hashlib
import json
import struct
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from moma_core.data.augment.recipe import ViewRecipe
from moma_core.teacher.card.card import TeacherCard

Precision = Literal["float16", "float32"]

PAGE_BYTES = 4096
_MAGIC = b"MOMAVB1\n"
_LENGTH = struct.Struct(">I")
_CHECKSUM_BYTES = 32
_RESIZE = "bilinear, antialiased"  # what a client does to views of another size
_Hex = Annotated[str, Field(pattern="^([0-9a-f]{2})*$")]


@dataclass(frozen=True, slots=True)
class CacheIdentity:
    """Everything on which outputs depend beside the pixels of their view.

    Where one of these changes, another cache begins.

    Args:
        teacher: Its name in the federation.
        teacher_digest: SHA-256 of its weights, hex.
        teacher_precision: Of its arithmetic.
        input_size_px: Side of the patches that it takes.
        mean: Per channel, as its card says.
        std: Per channel, as its card says.
        resize: How a view is brought to that side.
        embedding_length: D.
        class_count: C.
        classes: SHA-256 of the class names in order, hex.
        precision: In which outputs are kept.
        recipe: What may be done to a patch to make a view of it.
        view_size_px: Side of the views.
        seed: Of the views.
        views: Of each patch, V.
        pixels: As what the teacher saw them, if it saw others than the view's:
            a lossy encoding; empty: as they are.
    """

    teacher: str
    teacher_digest: str
    teacher_precision: str
    input_size_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: str
    embedding_length: int
    class_count: int
    classes: str
    precision: Precision
    recipe: str
    view_size_px: int
    seed: int
    views: int
    pixels: str = ""

    def digest(self) -> bytes:
        """Returns the SHA-256 that names the cache."""
        values = asdict(self)
        if not self.pixels:
            del values["pixels"]  # so named before there were encodings
        return hashlib.sha256(_MAGIC + _canonical(values)).digest()

    def changes_to(self, other: "CacheIdentity") -> list[str]:
        """Returns one phrase for each field that differs, for example `seed 1 -> 2`."""
        pairs = (
            (field.name, getattr(self, field.name), getattr(other, field.name))
            for field in fields(self)
        )
        return [
            f"{name} {_short(old)} -> {_short(new)}"
            for name, old, new in pairs
            if old != new
        ]


@dataclass(frozen=True, slots=True)
class CacheViews:
    """The site's part of a cache's identity.

    Args:
        recipe: What may be done to a patch; its photometric part is the student's.
        view_size_px: Side of the views.
        seed: Of the training run.
        views: Of each patch, V.
        precision: In which outputs are kept.
        pixels: A lossy encoding in which the views leave; empty: they lose nothing.
    """

    recipe: ViewRecipe
    view_size_px: int
    seed: int
    views: int
    precision: Precision = "float16"
    pixels: str = ""


def cache_identity(card: TeacherCard, views: CacheViews) -> CacheIdentity:
    """Returns what a cache of this teacher's outputs for these views is made for."""
    recipe = asdict(views.recipe)
    del recipe["photometric"]  # no teacher sees it
    return CacheIdentity(
        teacher=card.name,
        teacher_digest=card.digest,
        teacher_precision=card.precision,
        input_size_px=card.input_size_px,
        mean=card.mean,
        std=card.std,
        resize=_RESIZE,
        embedding_length=card.embedding_length,
        class_count=len(card.class_names),
        classes=hashlib.sha256(_canonical(card.class_names)).hexdigest(),
        precision=views.precision,
        recipe=", ".join(f"{name} {value}" for name, value in recipe.items()),
        view_size_px=views.view_size_px,
        seed=views.seed,
        views=views.views,
        pixels=views.pixels,
    )


@dataclass(frozen=True, slots=True)
class CacheHeader:
    """The first page of a cache's file.

    Args:
        identity: What the cache is made for.
        salt: Of the key that its records are sealed with, hex; empty: not sealed.
        key_check: Distinguishes the right key file from a wrong one, hex.
    """

    identity: CacheIdentity
    salt: _Hex = ""
    key_check: _Hex = ""

    def to_page(self) -> bytes:
        """Returns the page, PAGE_BYTES long."""
        content = _canonical(asdict(self))
        page = _MAGIC + _LENGTH.pack(len(content)) + content
        page += hashlib.sha256(page).digest()
        if len(page) > PAGE_BYTES:
            raise ValueError(f"a header of {len(page)} bytes does not fit its page")
        return page.ljust(PAGE_BYTES, b"\0")

    @classmethod
    def from_page(cls, page: bytes) -> "CacheHeader | None":
        """Returns the header, or None if the page is damaged or no cache's."""
        start = len(_MAGIC) + _LENGTH.size
        if len(page) < PAGE_BYTES or not page.startswith(_MAGIC):
            return None
        end = start + _LENGTH.unpack(page[len(_MAGIC) : start])[0]
        checksum = hashlib.sha256(page[:end]).digest()
        if page[end : end + _CHECKSUM_BYTES] != checksum:
            return None
        try:
            return TypeAdapter(cls).validate_json(page[start:end])
        except ValidationError:
            return None  # of another version


def _canonical(values: object) -> bytes:
    return json.dumps(values, sort_keys=True).encode()


def _short(value: object) -> str:
    """Digests are known by their first letters."""
    text = str(value)
    return text[:12] if len(text) == 2 * _CHECKSUM_BYTES else text

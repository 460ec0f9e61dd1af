"""The `data` section of a config file, and the source that it names."""

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import (
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from moma_core.config import ConfigPath, Section
from moma_core.data.consistency import check_consistency
from moma_core.data.images import MAX_SIDE_PX, MIN_SIDE_PX
from moma_core.data.patch import PatchIndex, PatchSource
from moma_core.data.sources.csv_manifest import list_csv_manifest
from moma_core.data.sources.demo_tissue import EmbeddedSource
from moma_core.data.sources.fault_tolerant import TolerantSource
from moma_core.data.sources.image_files import FilePatches, FileTable
from moma_core.data.sources.image_folder import list_image_folder
from moma_core.data.sources.medmnist import (
    DEFAULT_MEMORY_LIMIT_BYTES,
    KNOWN_CLASS_NAMES,
    MedmnistSource,
)
from moma_core.data.sources.paper_datasets import PresetName, open_preset
from moma_core.data.sources.pixel_cache import CacheKind
from moma_core.data.sources.slides import SlideKeys, open_slides
from moma_core.data.splits import (
    ReindexedSource,
    SplitFractions,
    hide_labels,
)
from moma_core.data.stain_normalisation import (
    StainNormalisationSection,
    StainNormalisedSource,
    stain_target,
)
from moma_core.errors import ConfigError, DataError

_logger = logging.getLogger(__name__)

ClassNames = tuple[Annotated[str, Field(min_length=1)], ...]


class _SourceSection(Section):
    """What all sources have in common."""

    keep_labelled: int | None = Field(
        default=None, ge=0, description="Training labels that are used; null: all."
    )
    label_seed: int = Field(
        default=0, ge=0, description="Draws which labels `keep_labelled` keeps."
    )
    max_unreadable: int = Field(
        default=10, ge=0, description="Unreadable patches skipped before the run stops."
    )
    stain_normalisation: StainNormalisationSection | None = Field(
        default=None,
        description="Gives every patch the colours of one; null: they keep their own.",
    )


class _FilesSection(_SourceSection):
    """What sources of image files have in common."""

    fractions: SplitFractions = Field(
        default_factory=SplitFractions,
        description="Sizes of the splits where the data name none.",
    )
    patch_size_px: int | None = Field(
        default=None, ge=MIN_SIDE_PX, le=MAX_SIDE_PX, description="Side; null: any."
    )
    cache: CacheKind = Field(
        default="none",
        description="Where patches are kept that were decoded once: ram, while the "
        "program runs; disk, in cache_dir, for good; none.",
    )
    cache_bytes: int = Field(
        default=4 << 30,
        ge=1 << 20,
        description="Of decoded patches, at most; reserved when the first is kept. "
        "Later rows are decoded anew.",
    )
    cache_dir: ConfigPath | None = Field(
        default=None, description="Folder of `cache: disk`; its files hold patches."
    )

    only_faster: ClassVar[frozenset[str]] = frozenset(
        {"cache", "cache_bytes", "cache_dir"}
    )
    """Keys that change no patch, and so no run."""

    @model_validator(mode="after")
    def _disk_has_a_folder(self) -> Self:
        if self.cache == "disk" and self.cache_dir is None:
            raise ValueError("cache: disk needs cache_dir, a folder on that disk")
        return self


class _NamedClasses(Section):
    """Sources whose class names may be given."""

    class_names: ClassNames | None = Field(
        default=None,
        min_length=2,
        description="Class names by index; null: those of the data, sorted.",
    )

    @field_validator("class_names")
    @classmethod
    def _names_are_distinct(cls, names: ClassNames | None) -> ClassNames | None:
        if names is not None and len(set(names)) != len(names):
            raise ValueError("a class name appears twice")
        return names


class ImageFolderSection(_FilesSection, _NamedClasses):
    """`root/<split>/<class>/...` or `root/<class>/...`."""

    kind: Literal["image_folder"]
    root: ConfigPath = Field(description="Folder of the classes or splits.")
    patient_pattern: str | None = Field(
        default=None,
        description="Regular expression; its first group, below the class folder, is "
        "the patient.",
    )

    @field_validator("patient_pattern")
    @classmethod
    def _pattern_has_a_group(cls, pattern: str | None) -> str | None:
        try:
            if pattern is not None and re.compile(pattern).groups < 1:
                raise ValueError("the expression has no group for the patient")
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from None
        return pattern


class CsvManifestSection(_FilesSection, _NamedClasses):
    """A CSV file with `path,label,patient_id,slide_id,split,mpp,centre`."""

    kind: Literal["csv_manifest"]
    path: ConfigPath = Field(description="The manifest.")
    root: ConfigPath | None = Field(
        default=None,
        description="Folder where its paths start, or below which they are absolute; "
        "null: its own folder, and no path is absolute.",
    )


class MedmnistSection(_SourceSection, _NamedClasses):
    """A MedMNIST archive."""

    kind: Literal["medmnist"]
    path: ConfigPath = Field(description="The archive, `.npz`.")
    name: Literal["pathmnist"] | None = Field(
        default=None, description="A known set, in place of class_names."
    )
    cache_dir: ConfigPath | None = Field(
        default=None, description="Where large archives are unpacked once."
    )
    memory_limit_bytes: int = Field(
        default=DEFAULT_MEMORY_LIMIT_BYTES,
        gt=0,
        description="Pixels that may be held in memory without `cache_dir`.",
    )

    @model_validator(mode="after")
    def _names_come_once(self) -> Self:
        if self.name is not None and self.class_names is not None:
            raise ValueError("give name or class_names, not both")
        return self


class EmbeddedSection(_SourceSection):
    """The picture that comes with scikit-image; a smoke test."""

    kind: Literal["embedded"]
    part: Literal["teacher", "site-a", "site-b"] = Field(
        description="Whose patches of the picture."
    )


class PresetSection(_FilesSection):
    """A data set of the paper."""

    kind: Literal["preset"]
    name: PresetName = Field(description="Which data set of the paper.")
    root: ConfigPath = Field(description="Folder of the data set.")
    reader: Literal[1, 2] = Field(
        default=1, description="Whose labels, in usz alone: reader 1 or 2."
    )


class SlidesSection(_SourceSection, _NamedClasses, SlideKeys):
    """Whole slides; patches are read from them when they are needed."""

    kind: Literal["slides"]
    fractions: SplitFractions = Field(
        default_factory=SplitFractions,
        description="Sizes of the splits where the manifest names none.",
    )


DataSection = Annotated[
    ImageFolderSection
    | CsvManifestSection
    | MedmnistSection
    | EmbeddedSection
    | PresetSection
    | SlidesSection,
    Field(discriminator="kind"),
]


_SECTION: TypeAdapter[DataSection] = TypeAdapter(DataSection)


def open_source(
    data: DataSection | Mapping[str, object] | str | os.PathLike[str],
) -> PatchSource:
    """Returns a source of patches, its splits checked, its labels hidden.

    Args:
        data: The `data` section of a config; or the same keys as a mapping; or a path:
            a folder is read as an `image_folder`, a `.csv` file as a `csv_manifest`, a
            `.npz` file as MedMNIST's.

    Raises:
        ConfigError: The keys do not fit, or something that the source needs is not
            installed.
        DataError: The data are missing or break a rule; the message may name files
            and patients: it is for the site alone.
    """
    section = data if isinstance(data, Section) else _section_of(data)
    opened = _opened(section)
    check_consistency(opened, opened if isinstance(opened, FilePatches) else None)
    _check_presence(opened.index)
    for each in opened.index.passed_over:
        if not each.is_ordinary:
            _logger.warning("among the patches: %s", each)
    source: PatchSource = TolerantSource(opened, section.max_unreadable)
    if section.stain_normalisation is not None:
        source = StainNormalisedSource(
            source, stain_target(section.stain_normalisation)
        )
    if section.keep_labelled is None:
        return source
    index = hide_labels(
        source.index, keep_labelled=section.keep_labelled, seed=section.label_seed
    )
    return ReindexedSource(source, index)


def _section_of(
    data: Mapping[str, object] | str | os.PathLike[str],
) -> DataSection:
    """Reads keys, or what a path is by its ending."""
    if not isinstance(data, Mapping):
        path = Path(data)
        match path.suffix.lower():
            case ".csv" | ".tsv":
                data = {"kind": "csv_manifest", "path": path}
            case ".npz":
                known = "pathmnist" if path.stem.startswith("pathmnist") else None
                data = {"kind": "medmnist", "path": path, "name": known}
            case _:
                data = {"kind": "image_folder", "root": path}
    try:
        return _SECTION.validate_python(data)
    except ValidationError as error:
        rules = "; ".join(
            f"{'.'.join(map(str, rule['loc']))}: {rule['msg']}"
            for rule in error.errors()
        )
        raise ConfigError(f"this is no source of patches: {rules}") from None


def open_pictures(section: DataSection) -> FilePatches | None:
    """Returns patches that are files, with no tolerance; None: they are none.

    Raises:
        DataError: As `open_source`.
    """
    source = _opened(section) if isinstance(section, _FilesSection) else None
    return source if isinstance(source, FilePatches) else None


def _opened(section: DataSection) -> PatchSource:
    opened = _without_cache(section)
    if isinstance(section, _FilesSection) and isinstance(opened, FilePatches):
        opened.keep_pixels(section.cache, section.cache_dir, section.cache_bytes)
    return opened


def _without_cache(section: DataSection) -> PatchSource:
    match section:
        case ImageFolderSection():
            table = list_image_folder(
                section.root, patient_pattern=section.patient_pattern
            )
            return _patches(table, section)
        case CsvManifestSection():
            return _patches(list_csv_manifest(section.path, section.root), section)
        case MedmnistSection():
            return _opened_medmnist(section)
        case PresetSection():
            return open_preset(
                section.name,
                section.root,
                reader=section.reader,
                fractions=section.fractions,
                patch_size_px=section.patch_size_px,
            )
        case EmbeddedSection():
            return EmbeddedSource(section.part)
        case SlidesSection():
            return open_slides(section, section.class_names, section.fractions)


def _patches(
    table: FileTable, section: ImageFolderSection | CsvManifestSection
) -> FilePatches:
    return table.patches(section.class_names, section.fractions, section.patch_size_px)


def _check_presence(index: PatchIndex) -> None:
    """Refuses a list of which no picture is there; some may lack, and are tolerated."""
    for each in index.passed_over:
        if each.kind == "missing" and each.count == len(index):
            raise DataError(
                f"none of the {each.count} pictures is there, as {each.names[0]}: "
                f"paths start at data.root, or else at the manifest's folder"
            )


def _opened_medmnist(section: MedmnistSection) -> PatchSource:
    known = None if section.name is None else KNOWN_CLASS_NAMES[section.name]
    return MedmnistSource(
        section.path,
        class_names=known or section.class_names,
        cache_dir=section.cache_dir,
        memory_limit_bytes=section.memory_limit_bytes,
    )

"""The paper's data sets: the folder layout that we expect, and what its labels mean.

A preset is a regular expression over the paths below the root. NCT-CRC-HE-100K,
CRC-VAL-HE-7K and Kather texture 2016 are released as patches, and Prostate USZ comes
with its authors' patch script: their own layouts are read. PANDA, UBC (Gleason 2019)
and AGGC are released as slides or cores with masks; their patches are expected in one
folder for each slide, each name ending in `_class_` and the mask's own value.

panda    <slide>/<any>_class_<0-5>.png. Values of Radboud's masks: 1 stroma and 2 benign
         epithelium are benign, 3 to 5 are the Gleason patterns, 0 (background or
         unknown) is left out. Karolinska's masks only say benign or cancer and do not
         fit. No patient is published: a slide counts as one. Split by fractions.
usz      train_validation_patches_750/<core>/<core>_patch_<n>_class_<0-3>.jpg and
         test_patches_750/patho_<1|2>/<core>/..., the second with either reader's
         labels. 0 is benign, 1 to 3 are Gleason patterns 3 to 5. The tissue
         microarray, first in a core's name, fixes the split: ZT111, ZT199 and ZT204
         train, ZT76 validates, ZT80 is unseen. A core counts as a patient.
ubc      <core>/<any>_class_<0-6>.png, cores named slide001_core003. 1 and 6 are
         benign, 3 to 5 are Gleason patterns, 0 (not annotated) is left out. All are
         unseen. No patient is published: a microarray slide counts as one.
aggc     <slide>/<any>_class_<Stroma|Normal|G3|G4|G5>.png, slides named Subset1_Train_7
         or, one specimen under several scanners, Subset3_Train_7_Akoya. Stroma and
         Normal are benign. A specimen counts as a patient. Split by fractions.
nct_crc  NCT-CRC-HE-100K/<class>/<any>.tif, divided into train and validation, and
         CRC-VAL-HE-7K/<class>/<any>.tif, other patients and unseen. Nine classes. No
         patient is published.
kather16 <01-08>_<class>/<any>.tif, all unseen. Its classes take their names among the
         nine of NCT-CRC; COMPLEX has no counterpart and is left out. A patch's name
         holds the slide it was cut from, which counts as a patient.

Images may be of any format that we read. Sources: Bulten et al., Nat Med 28:154 (2022);
Arvaniti et al., Sci Rep 8:12054 (2018); Nir et al., Med Image Anal 50:167 (2018); Huo
et al., Commun Med 4:84 (2024); Kather et al., PLoS Med 16:e1002730 (2019); Kather et
al., Sci Rep 6:27988 (2016).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from moma_core.data.inventory import Inventory, printable
from moma_core.data.listing import PictureListing
from moma_core.data.patch import TRAIN, UNSEEN, VALIDATION
from moma_core.data.sources.image_files import FilePatches, FileTable
from moma_core.data.sources.medmnist import KNOWN_CLASS_NAMES
from moma_core.data.splits import SplitFractions
from moma_core.errors import DataError

PresetName = Literal["panda", "usz", "ubc", "aggc", "nct_crc", "kather16"]

GLEASON_CLASSES = ("benign", "grade 3", "grade 4", "grade 5")
COLON_CLASSES = KNOWN_CLASS_NAMES["pathmnist"]


@dataclass(frozen=True, slots=True)
class _Preset:
    """One data set.

    Args:
        class_names: By class index; ordered where they are grades.
        pattern: Fits every path; groups `label` and, where known, `patient`, `slide`
            and `part`.
        labels: From the set's own label to a class name; None leaves a patch out.
        splits: From `part` to its split; None, or no entry, divides by fractions.
        folders: Below the root, those that are there are read.
    """

    class_names: tuple[str, ...]
    pattern: str
    labels: Mapping[str, str | None]
    splits: Mapping[str, str | None]
    folders: tuple[str, ...] = (".",)


def open_preset(
    name: PresetName,
    root: Path,
    *,
    reader: Literal[1, 2] = 1,
    fractions: SplitFractions | None = None,
    patch_size_px: int | None = None,
) -> FilePatches:
    """Returns a data set of the paper.

    Args:
        name: Which one.
        root: The folder that the module's docstring describes.
        reader: Whose labels the unseen patches of `usz` take.
        fractions: Divides patients where the set has no splits of its own.
        patch_size_px: Side that every patch must have, or None for any.

    Raises:
        DataError: An image does not follow the layout, or there is none.
    """
    preset = _usz(reader) if name == "usz" else _PRESETS[name]
    fractions = fractions or SplitFractions()
    if UNSEEN in preset.splits.values():
        fractions = fractions.without_unseen()
    table = FileTable(root)
    for path, match in _matches(preset, root, table.inventory):
        groups = match.groupdict()
        label = _class_name(preset, groups["label"])
        if label is None:
            table.inventory.note("left_out", path)
        else:
            table.add(
                path,
                label=label,
                split=preset.splits.get(groups.get("part", "")),
                patient=groups.get("patient"),
                slide=groups.get("slide"),
            )
    return table.patches(preset.class_names, fractions, patch_size_px)


def _matches(
    preset: _Preset, root: Path, inventory: Inventory
) -> Iterator[tuple[str, re.Match[str]]]:
    """Yields each image's path below the root with what the pattern found in it."""
    folders = [name for name in preset.folders if (root / name).is_dir()]
    if not folders:
        raise DataError(f"{root} has none of the folders {', '.join(preset.folders)}")
    pattern = re.compile(preset.pattern)
    listing = PictureListing(root, inventory)
    for folder in folders:
        for path in listing.pictures("" if folder == "." else folder):
            match = pattern.fullmatch(path)
            if match is None:
                raise DataError(
                    f"the image {printable(path)} in {root} does not fit the layout"
                )
            yield path, match


def _class_name(preset: _Preset, label: str) -> str | None:
    if label not in preset.labels:
        known = ", ".join(preset.labels)
        raise DataError(f"label {label!r} is unknown, the set has {known}")
    return preset.labels[label]


def _usz(reader: int) -> _Preset:
    return _Preset(
        class_names=GLEASON_CLASSES,
        pattern=r"[a-z_0-9]+/(?:patho_\d/)?(?P<slide>(?P<part>ZT\d+)_[^/]+)"
        r"/(?P=slide)_patch_\d+_class_(?P<label>\d+)\.\w+",
        labels=dict(zip("0123", GLEASON_CLASSES, strict=True)),
        splits={
            "ZT111": TRAIN,
            "ZT199": TRAIN,
            "ZT204": TRAIN,
            "ZT76": VALIDATION,
            "ZT80": UNSEEN,
        },
        folders=("train_validation_patches_750", f"test_patches_750/patho_{reader}"),
    )


_BENIGN, _GRADE_3, _GRADE_4, _GRADE_5 = GLEASON_CLASSES
_GRADES = {"3": _GRADE_3, "4": _GRADE_4, "5": _GRADE_5}

_PRESETS = {
    "panda": _Preset(
        class_names=GLEASON_CLASSES,
        pattern=r"(?P<slide>[^/]+)/[^/]+_class_(?P<label>\w+)\.\w+",
        labels={"0": None, "1": _BENIGN, "2": _BENIGN, **_GRADES},
        splits={},
    ),
    "ubc": _Preset(
        class_names=GLEASON_CLASSES,
        pattern=r"(?P<slide>(?P<patient>(?P<part>slide)\d+)_core\d+)"
        r"/[^/]+_class_(?P<label>\w+)\.\w+",
        labels={"0": None, "1": _BENIGN, "6": _BENIGN, **_GRADES},
        splits={"slide": UNSEEN},
    ),
    "aggc": _Preset(
        class_names=GLEASON_CLASSES,
        pattern=r"(?P<slide>(?P<patient>Subset\d_[A-Za-z]+_\d+)(?:_[A-Za-z]+)?)"
        r"/[^/]+_class_(?P<label>\w+)\.\w+",
        labels={
            "Stroma": _BENIGN,
            "Normal": _BENIGN,
            "G3": _GRADE_3,
            "G4": _GRADE_4,
            "G5": _GRADE_5,
        },
        splits={},
    ),
    "nct_crc": _Preset(
        class_names=COLON_CLASSES,
        pattern=r"(?P<part>[^/]+)/(?P<label>[^/]+)/[^/]+",
        labels={name: name for name in COLON_CLASSES},
        splits={"CRC-VAL-HE-7K": UNSEEN},
        folders=("NCT-CRC-HE-100K", "CRC-VAL-HE-7K"),
    ),
    "kather16": _Preset(
        class_names=COLON_CLASSES,
        pattern=r"0\d(?P<part>_)(?P<label>[A-Z]+)"
        r"/[^/_]+_(?P<slide>(?P<patient>CRC-Prim-HE-\d+)[^/.]*)[^/]+",
        labels={
            "TUMOR": "TUM",
            "STROMA": "STR",
            "COMPLEX": None,
            "LYMPHO": "LYM",
            "DEBRIS": "DEB",
            "MUCOSA": "NORM",
            "ADIPOSE": "ADI",
            "EMPTY": "BACK",
        },
        splits={"_": UNSEEN},
    ),
}

"""A trained student on the site's disk: weights and the card that explains them."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from moma_client.student.runs import CARD
from moma_core.data.images import MAX_SIDE_PX
from moma_core.data.patch import check_class_names
from moma_core.data.resolution import LARGEST_MPP
from moma_core.data.stain_normalisation import StainTarget
from moma_core.end_to_end.signatures import STUDENT_CARD, VerifyingKey, check_file
from moma_core.errors import ConfigError, DataError, printable_line
from moma_core.models.backbone import Backbone
from moma_core.models.encoder import Encoder
from moma_core.models.reused_classifier import ProjectedEncoder
from moma_core.models.weights import (
    check_safetensors,
    file_digest,
    load_weights,
    save_weights,
)
from moma_core.runtime.files import make_folder, writing
from moma_core.teacher.card.card import LONGEST_EMBEDDING
from moma_core.teacher.card.licence import Licence

_LARGEST_CARD_BYTES = 8 << 20  # of ten thousand classes with their counts
_LONGEST_FAULT = 200
_LEAST_FLOAT, _LARGEST_FLOAT = 1e-6, 1e6


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where an exported student comes from; no patient, slide or file is named.

    Args:
        federation: Federation in which it was trained.
        site: Site that trained it.
        site_key: Fingerprint of the site's key, which signs the card.
        run: Name of the run.
        date: Date of the export, UTC, ISO 8601.
        teacher_key: Fingerprint of the teacher; empty: none was pinned.
        terms: Digest of the teacher's terms; empty: it stated none, or had no part.
        patches_asked: Patches that the run queried, repetitions counted, rounded to
            tens of patches in all their views; None: not known.
        patches_charged: Patches charged to the site over the life of the agreement, all
            runs together, as the teacher last said, rounded alike; None: not known.
        patches: Numbers of patches by what they were for, rounded to tens.
        figures: Figures by name, those that the site's egress policy lets out.
        versions: Versions of the tools, by name.
        rounding: To what `patches`, the queries and `figures` are rounded, in words.
        queries: Of several teachers, by name: `asked` and `charged` of each, of which
            the numbers above are the sums.
    """

    federation: str
    site: str
    site_key: str
    run: str
    date: str
    teacher_key: str
    terms: str
    patches_asked: int | None
    patches_charged: int | None
    patches: dict[str, int]
    figures: dict[str, float]
    versions: dict[str, str]
    rounding: dict[str, str] = field(default_factory=dict)
    queries: dict[str, dict[str, int | None]] = field(default_factory=dict)


WEIGHTS = "student.safetensors"

Kept = Literal["last", "best"]
"""Which student lies in a method's folder; the other one in a folder of its name."""


@dataclass(frozen=True, slots=True)
class LearnedFrom:
    """One of the teachers that a student learned from.

    Args:
        name: Name of the teacher.
        digest: SHA-256 of its weights, hex.
        scenario: Same, relevant or irrelevant, and why.
        weight: Of its terms in the round at hand; 1 over all teachers together.
        licence: Licence of the teacher, if it stated one.
    """

    name: str
    digest: str
    scenario: str
    weight: float
    licence: Licence | None = None


def joined_licence(licences: Iterable[Licence | None]) -> Licence | None:
    """Returns what holds for a student of all these teachers; None: none was stated.

    What one of them forbids is forbidden.
    """
    stated = [licence for licence in licences if licence is not None]
    if len(stated) < 2:
        return stated[0] if stated else None
    return Licence(
        name="; ".join(each.name for each in stated),
        text="\n".join(each.text for each in stated),
        derived_models="; ".join(each.derived_models for each in stated),
        may_publish=all(each.may_publish for each in stated),
        may_sell=all(each.may_sell for each in stated),
    )


@dataclass(frozen=True, slots=True)
class StudentCard:
    """What one needs to use a student, and where it comes from.

    Args:
        method: "moma", or the name of a baseline.
        digest: SHA-256 of the weights file, hex.
        architecture: A timm name.
        class_names: Name of the class of each logit.
        view_size_px: Side of the square patches it takes.
        mean: Per channel, of pixels in [0, 1].
        std: Per channel.
        teacher: Name of its teacher, of several: joined by commas; empty for a baseline
            without one, and where labels alone taught.
        teacher_digest: SHA-256 of the teacher's weights, of several likewise.
        scenario: Same, relevant or irrelevant, and why; without a teacher: why the
            labels alone taught. Empty for a baseline without one.
        steps: Optimiser steps so far.
        projected_length: Length of the teacher's embeddings, where the student
            classifies with the teacher's classifier (simkd); else 0.
        teacher_licence: Licence of the teacher when the student learned from it; of
            several, what all of them allow.
        kept: Which student it is: `last`, or `best` on the validation split.
        kept_by: The figure and its value where `training` looked at one; else empty.
        micro_batch_size: Patches that it saw at once while it trained; 0: a batch.
        skipped_steps: Steps that were left out because they were not finite.
        provenance: Once it is exported, where it comes from.
        decoding: How pictures become pixels before mean and std; empty: not known.
        teachers: Each teacher, where there were several.
        resolution_mpp: Microns a pixel of the views that it was trained on; None: its
            patches do not state it, or differ.
        stain_normalisation: Colours that its patches were given, and that whatever it
            is shown needs as well; None: those they have.
        temperature: What its logits are divided by before they become probabilities,
            fitted on the validation split; None: none was fitted.
        patch_size_px: Side at which its patches were read, before they became views:
            a slide is read alike; None: not known, or they differ.
        ordered: Whether the classes are grades, in the order of their names.
    """

    method: str
    digest: str
    architecture: str
    class_names: tuple[str, ...]
    view_size_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    teacher: str
    teacher_digest: str
    scenario: str
    steps: int
    projected_length: int = 0
    teacher_licence: Licence | None = None
    kept: Kept = "last"
    kept_by: str = ""
    micro_batch_size: int = 0
    skipped_steps: int = 0
    provenance: Provenance | None = None
    decoding: str = ""
    teachers: tuple[LearnedFrom, ...] = ()
    resolution_mpp: float | None = None
    stain_normalisation: StainTarget | None = None
    temperature: float | None = None
    patch_size_px: int | None = None
    ordered: bool = False

    def to_json(self) -> str:
        """Returns what stands in the card's file."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @property
    def model(self) -> str:
        """Digest of what the weights mean: architecture and class names, in order."""
        identity = json.dumps([self.architecture, self.class_names])
        return hashlib.sha256(identity.encode()).hexdigest()

    @property
    def behaviour(self) -> str:
        """Digest of all that decides what comes of a patch; not of where it is from."""
        decides = asdict(self)
        kept = {name: decides[name] for name in _DECIDES}
        return hashlib.sha256(json.dumps(kept).encode()).hexdigest()


_DECIDES = (
    "digest",
    "architecture",
    "class_names",
    "view_size_px",
    "mean",
    "std",
    "projected_length",
    "resolution_mpp",
    "stain_normalisation",
    "temperature",
    "patch_size_px",
    "ordered",
)
"""Keys of a card that decide outputs, or how they are shown."""


def save_student(folder: Path, student: Encoder, card: StudentCard) -> StudentCard:
    """Writes both files and returns the card with the weights' digest.

    Raises:
        DiskError: The disk does not take them; the old student is as it was.
    """
    make_folder(folder)
    weights, text = folder / f"{WEIGHTS}.partial", folder / f"{CARD}.partial"
    digest = save_weights(student, weights)
    card = replace(card, digest=digest)
    with writing(folder / CARD, "the student's card"):
        text.write_text(card.to_json(), "utf-8")
    # A kill leaves the old student whole, but for the moment between two renames.
    weights.replace(folder / WEIGHTS)
    text.replace(folder / CARD)
    return card


def load_student(
    folder: Path, key: VerifyingKey | None = None
) -> tuple[Encoder, StudentCard]:
    """Reads a student and checks its weights against its card.

    Args:
        folder: Folder that holds both files.
        key: Key of the site that must have signed the card; None: nobody must.

    Raises:
        ConfigError: There is none yet, it was changed, or its weights are no
            safetensors file.
        CertificateError: The card is not signed with the key.
    """
    card = read_card(folder)  # first: it reads no more than a card may have
    if key is not None:
        check_file(folder / CARD, key, STUDENT_CARD)
    check_safetensors(folder / WEIGHTS)
    found = file_digest(folder / WEIGHTS)
    if found != card.digest:
        message = f"{folder / WEIGHTS} has digest {found}, its card says {card.digest}"
        raise ConfigError(message)
    classes = len(card.class_names)
    student: Encoder = Backbone(card.architecture, classes)
    if card.projected_length:
        student = ProjectedEncoder(student, card.projected_length, classes)
    load_weights(student, folder / WEIGHTS)
    return student, card


def read_card(folder: Path) -> StudentCard:
    """Reads a student's card alone.

    Raises:
        ConfigError: There is none yet, or it is none.
    """
    path = folder / CARD
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_CARD_BYTES + 1)
        if len(content) > _LARGEST_CARD_BYTES:
            raise ConfigError(f"{path} is no student card: it is too large for one")
        card = TypeAdapter(StudentCard).validate_json(content)
    except OSError:
        raise ConfigError(f"there is no student in {folder} yet") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "(file)"
        fault = printable_line(f"{where}: {first['msg']}", _LONGEST_FAULT)
        raise ConfigError(f"{path} is no student card: {fault}") from None
    violation = next(_violations(card), None)
    if violation is not None:
        raise ConfigError(f"{path} is no student card: {violation}")
    return card


def _violations(card: StudentCard) -> Iterator[str]:
    """Yields what no student has; a card may come from another site, with its weights.

    Whatever is made by a number on it is made before the weights are looked at.
    """
    for name, value, least, largest in (
        ("view_size_px", card.view_size_px, 1, MAX_SIDE_PX),
        ("patch_size_px", card.patch_size_px, 1, MAX_SIDE_PX),
        ("projected_length", card.projected_length, 0, LONGEST_EMBEDDING),
        ("resolution_mpp", card.resolution_mpp, _LEAST_FLOAT, LARGEST_MPP),
        ("temperature", card.temperature, _LEAST_FLOAT, _LARGEST_FLOAT),
    ):
        if value is not None and not least <= value <= largest:  # NaN is never so
            yield f"{name} is {least:g} to {largest:g}, got {value}"
    if not all(_LEAST_FLOAT <= std <= _LARGEST_FLOAT for std in card.std):
        yield "std is out of range"
    if not _are_finite(card.mean):
        yield "mean is out of range"
    yield from _name_violations(card.class_names)
    stain = card.stain_normalisation
    if stain is not None and not _is_target(stain):
        yield "stain_normalisation is no target"


def _name_violations(names: tuple[str, ...]) -> Iterator[str]:
    try:
        check_class_names(names)
    except DataError as error:
        yield str(error)
    if not all(names):
        yield "a class has no name"
    if not names or len(set(names)) != len(names):
        yield "it names no class, or one twice"


def _is_target(stain: StainTarget) -> bool:
    lengths = (6, 2) if stain.method == "macenko" else (3, 3)
    is_whole = (len(stain.first), len(stain.second)) == lengths
    return is_whole and _are_finite((*stain.first, *stain.second))


def _are_finite(values: Iterable[float]) -> bool:
    return all(abs(value) <= _LARGEST_FLOAT for value in values)  # NaN is never so

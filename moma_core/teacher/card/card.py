"""The teacher card: a teacher's public description, and whether it can be true."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from moma_core.data.patch import MOST_CLASSES
from moma_core.data.resolution import LARGEST_MPP
from moma_core.errors import (
    ConfigError,
    DataError,
    TeacherUnavailableError,
    printable_line,
)
from moma_core.runtime.files import write_private
from moma_core.teacher.card.licence import Licence, card_values
from moma_core.teacher.card.reference_patch import (
    LARGEST_PNG_BYTES,
    LARGEST_TOLERANCE,
    ReferencePatch,
    floats_of,
)

Output = Literal["embedding", "logits"]

LONGEST_LABEL = 200
LONGEST_TERMS = 2_000
LONGEST_LICENCE = 20_000
LONGEST_EMBEDDING = 65_536
LARGEST_INPUT_PX = 4_096

_LARGEST_STD = 1e6
_MOST_PATCHES = 2**53
_SHA256_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class TeacherCard:
    """A teacher's public description; queries are made by it.

    Args:
        name: The teacher's name in the federation.
        digest: SHA-256 of its weights, hex.
        architecture: The timm name of its encoder.
        embedding_length: D of its embeddings.
        organ: For example "colon"; decides the scenario.
        task: For example "tissue types"; decides the scenario.
        class_names: Names by logit.
        input_size_px: Side of the square patches it takes.
        mean: Per channel, of pixels in [0, 1]; applied by the teacher itself.
        std: Per channel; applied by the teacher itself.
        precision: Of its arithmetic, for example "float32".
        momentum_sessions: Whether a site may have a copy that its student updates,
            which is close to handing out the weights.
        membership_advantage: In [-1, 1], what a threshold on the loss gains over
            guessing which patches it was trained on, as measured where it was made
            (`moma_core.evaluation.membership_inference`); None: nobody measured.
        stain: Of the slides that it was trained on, for example "H&E"; empty: not said.
        mpp: Microns a pixel of the patches that it takes; None: not said.
        pooling: From feature map to embedding, as timm names it; empty: not said.
        outputs: What it discloses of each output.
        budget_terms: On which terms patches are granted, in words.
        default_grant_patches: What a site is granted that nobody named; None: not said.
        licence: Terms of use; None: it states none.
        golden: A patch and the outputs for it; None: there is none.
        views: `geometry_only` where it was trained on views that keep a patch's
            colours, since its classes are colours; empty: on others, or not said. Left
            out of JSON where it is empty, so that sites of before read the rest.
    """

    name: str
    digest: str
    architecture: str
    embedding_length: int
    organ: str
    task: str
    class_names: tuple[str, ...]
    input_size_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    precision: str
    momentum_sessions: bool = False
    membership_advantage: float | None = None
    stain: str = ""
    mpp: float | None = None
    pooling: str = ""
    outputs: tuple[Output, ...] = ("embedding", "logits")
    budget_terms: str = ""
    default_grant_patches: int | None = None
    licence: Licence | None = None
    golden: ReferencePatch | None = None
    views: Literal["", "geometry_only"] = ""

    def is_same_model(self, other: "TeacherCard") -> bool:
        """Whether another card differs at most in policy, terms and reference patch."""
        mine = replace(
            self,
            momentum_sessions=other.momentum_sessions,
            outputs=other.outputs,
            budget_terms=other.budget_terms,
            default_grant_patches=other.default_grant_patches,
            licence=other.licence,
            golden=other.golden,
            views=other.views,
        )
        return mine == other

    def to_json(self) -> str:
        """Returns what `load` reads."""
        return json.dumps(card_values(self), indent=2) + "\n"

    def save(self, path: Path) -> None:
        """Writes the card as JSON.

        Raises:
            DiskError: The disk does not take it.
        """
        write_private(path, self.to_json().encode(), "the teacher's card")

    @classmethod
    def load(cls, path: Path) -> "TeacherCard":
        """Reads a card.

        Raises:
            ConfigError: The file is missing or no card.
        """
        try:
            card = TypeAdapter(cls).validate_json(path.read_bytes())
        except OSError as error:
            raise ConfigError(
                f"cannot read the teacher card {path}: {error.strerror}; it is the "
                f"card.json that was made with the teacher's weights"
            ) from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "(file)"
            fault = printable_line(f"{where}: {first['msg']}", LONGEST_LABEL)
            message = f"{path} is no teacher card: {fault}"
            raise ConfigError(message) from None
        violation = first_violation(card)
        if violation is not None:
            raise ConfigError(f"{path} is no teacher card: {violation}")
        return card


def first_violation(card: TeacherCard) -> str | None:
    """Returns the first thing that cannot be true, as half a sentence; None: nothing.

    Args:
        card: Its types are in order.
    """
    return next(_violations(card), None)


def _violations(card: TeacherCard) -> Iterator[str]:
    if card.mpp is not None and not 0 < card.mpp <= LARGEST_MPP:  # NaN is never so
        yield f"mpp is above 0 and at most {LARGEST_MPP:g}, got {card.mpp}"
    if not card.outputs or len(set(card.outputs)) != len(card.outputs):
        yield f"outputs are one or more, none twice, got {card.outputs}"
    if "logits" in card.outputs and not card.class_names:
        yield "outputs has logits, and class_names has none"
    granted = card.default_grant_patches
    if granted is not None and not 0 <= granted <= _MOST_PATCHES:
        yield f"default_grant_patches is 0 to {_MOST_PATCHES}, got {granted}"
    yield from _text_violations(card)
    if card.golden is not None:
        yield from _reference_patch_violations(card, card.golden)


def _text_violations(card: TeacherCard) -> Iterator[str]:
    texts = [
        ("stain", card.stain, LONGEST_LABEL),
        ("pooling", card.pooling, LONGEST_LABEL),
        ("budget_terms", card.budget_terms, LONGEST_TERMS),
    ]
    if card.licence is not None:
        licence = card.licence
        texts += [
            ("licence.name", licence.name, LONGEST_LABEL),
            ("licence.text", licence.text, LONGEST_LICENCE),
            ("licence.derived_models", licence.derived_models, LONGEST_TERMS),
        ]
        if not licence.name.strip():
            yield "licence.name is empty"
    for name, text, longest in texts:
        if len(text) > longest:
            yield f"{name} has {len(text)} characters, at most {longest} are read"
        # It is shown in a terminal, which obeys control characters.
        if not text.replace("\n", "").isprintable():
            yield f"{name} has a character that cannot be printed"


def _reference_patch_violations(
    card: TeacherCard, golden: ReferencePatch
) -> Iterator[str]:
    if not 0 < golden.tolerance <= LARGEST_TOLERANCE:
        yield (
            f"golden.tolerance is above 0 and at most {LARGEST_TOLERANCE}, got "
            f"{golden.tolerance}"
        )
    if golden.seed < 0 or golden.seed >= 2**63:
        yield f"golden.seed is from 0, got {golden.seed}"
    if len(golden.png) > LARGEST_PNG_BYTES * 4 // 3:
        yield f"golden.png has more than {LARGEST_PNG_BYTES} bytes"
        return
    try:
        golden.pixels(card.input_size_px)
        found = {
            "embedding": len(floats_of(golden.embedding)),
            "logits": len(floats_of(golden.logits)),
        }
    except DataError as error:
        yield f"golden: {error}"
        return
    due = {"embedding": card.embedding_length, "logits": len(card.class_names)}
    for name, length in due.items():
        expected = length if name in card.outputs else 0
        if found[name] != expected:
            yield f"golden.{name} has {found[name]} values, {expected} are due"


def check_remote_card(card: TeacherCard) -> None:
    """Checks the values of another party's card whose types are in order.

    Raises:
        TeacherUnavailableError: A value cannot be true.
    """
    violation = next(chain(_model_violations(card), _violations(card)), None)
    if violation is not None:
        raise TeacherUnavailableError(f"the card's {violation}")


def _model_violations(card: TeacherCard) -> Iterator[str]:
    """Yields what a card from this disk, made with its weights, has right anyway."""
    for name, value, least, largest in (
        ("embedding_length", card.embedding_length, 1, LONGEST_EMBEDDING),
        ("class_names", len(card.class_names), 0, MOST_CLASSES),  # 0: embeddings alone
        ("input_size_px", card.input_size_px, 1, LARGEST_INPUT_PX),
    ):
        if not least <= value <= largest:
            yield f"{name} is {least} to {largest}, got {value}"
    if not _SHA256_HEX.fullmatch(card.digest):
        yield "digest is no SHA-256 in hex"
    if len(set(card.class_names)) != len(card.class_names):
        yield "class_names has a class twice"
    labels = (card.name, card.architecture, card.organ, card.task, card.precision)
    if not all(
        0 < len(text) <= LONGEST_LABEL and text.isprintable()
        for text in (*labels, *card.class_names)
    ):
        yield "name, architecture, organ, task, precision or class is empty or overlong"
    spreads = all(0 < std < _LARGEST_STD for std in card.std)
    if not all(map(math.isfinite, card.mean)) or not spreads:
        yield "mean or std is out of range"
    advantage = card.membership_advantage
    if advantage is not None and not -1 <= advantage <= 1:  # NaN is never so
        yield f"membership_advantage is from -1 to 1, got {advantage}"

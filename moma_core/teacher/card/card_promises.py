"""Whether what a card promises can be true: its newer fields, each with its bounds.

One function for a card on this disk and for one from a teacher elsewhere; who calls it
says whose fault it is.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from moma_core.errors import DataError
from moma_core.teacher.card.reference_patch import (
    LARGEST_PNG_BYTES,
    LARGEST_TOLERANCE,
    GoldenPatch,
    floats_of,
)

if TYPE_CHECKING:
    from moma_core.teacher.card.card import TeacherCard

LONGEST_LABEL = 200
LONGEST_TERMS = 2_000
LONGEST_LICENCE = 20_000

_LARGEST_MPP = 100.0
_MOST_PATCHES = 2**53


def promise_fault(card: "TeacherCard") -> str | None:
    """Returns the first thing that cannot be true, as half a sentence; None: nothing.

    Args:
        card: Its types are in order.
    """
    return next(_faults(card), None)


def _faults(card: "TeacherCard") -> Iterator[str]:
    if card.mpp is not None and not 0 < card.mpp <= _LARGEST_MPP:  # NaN is never so
        yield f"mpp is above 0 and at most {_LARGEST_MPP:g}, got {card.mpp}"
    if not card.outputs or len(set(card.outputs)) != len(card.outputs):
        yield f"outputs are one or more, none twice, got {card.outputs}"
    if "logits" in card.outputs and not card.class_names:
        yield "outputs has logits, and class_names has none"
    granted = card.default_grant_patches
    if granted is not None and not 0 <= granted <= _MOST_PATCHES:
        yield f"default_grant_patches is 0 to {_MOST_PATCHES}, got {granted}"
    yield from _text_faults(card)
    if card.golden is not None:
        yield from _golden_faults(card, card.golden)


def _text_faults(card: "TeacherCard") -> Iterator[str]:
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


def _golden_faults(card: "TeacherCard", golden: GoldenPatch) -> Iterator[str]:
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

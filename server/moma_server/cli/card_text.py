"""A teacher's card as a person reads it."""

from collections.abc import Iterator

from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.card.licence import terms_lines


def card_lines(card: TeacherCard) -> Iterator[str]:
    """Yields one line a field, then the terms."""
    audit = card.membership_advantage
    granted = card.default_grant_patches
    rows = {
        "teacher": card.name,
        "weights": card.digest,
        "architecture": card.architecture,
        "embedding": f"{card.embedding_length} values, pooling {_said(card.pooling)}",
        "organ": card.organ,
        "task": card.task,
        "stain": _said(card.stain),
        "classes": ", ".join(card.class_names) or "none: embeddings alone",
        "patches": f"{card.input_size_px} px, {_said(card.mpp)} microns a pixel",
        "mean, std": f"{list(card.mean)}, {list(card.std)}",
        "precision": card.precision,
        "outputs": ", ".join(card.outputs),
        "budget": f"{_said(granted)} patches a site by default",
        "budget terms": _said(card.budget_terms),
        "momentum": "on, close to handing out the weights"
        if card.momentum_sessions
        else "off",
        "membership": "not measured" if audit is None else f"advantage {audit:.3f}",
        "reference patch": _golden(card),
    }
    for name, text in rows.items():
        yield f"{name:15} {text}"
    if card.licence is None:
        yield f"{'licence':15} not said"
    else:
        yield from terms_lines(card.name, card.licence)


def _golden(card: TeacherCard) -> str:
    if card.golden is None:
        return "none"
    kind = "a picture" if card.golden.png else f"synthetic, seed {card.golden.seed}"
    return f"{kind}, tolerance {card.golden.tolerance:g}"


def _said(value: object) -> str:
    return "not said" if value in ("", None) else str(value)

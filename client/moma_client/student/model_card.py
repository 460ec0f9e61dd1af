"""An exported student's card as a person reads it."""

from collections.abc import Mapping

from moma_client.student.files import StudentCard
from moma_client.student.provenance import Provenance


def model_card(card: StudentCard, provenance: Provenance) -> str:
    """Returns `MODEL_CARD.md`; what is signed is `student.json`."""
    size = card.view_size_px
    parts = [
        f"# Student `{card.method}` of site {provenance.site}",
        f"{card.architecture}, patches of {size} x {size} px in RGB, normalised by "
        f"mean {list(card.mean)} and standard deviation {list(card.std)} of pixels in "
        f"[0, 1]. It tells {len(card.class_names)} classes apart, in this order:",
        "\n".join(f"1. {name}" for name in card.class_names),
        "It is a research model. It was not validated for diagnosis.",
        "## Where it comes from",
        _table(
            {
                "federation": provenance.federation,
                "run": provenance.run,
                "date": provenance.date,
                "optimiser steps": card.steps,
                **_of_teacher(card, provenance),
                "weights (SHA-256)": card.digest,
                "signed by": provenance.site_key,
            }
        ),
        "Patches, rounded to tens:",
        _table(provenance.patches),
        "## Figures",
        _table(provenance.figures)
        if provenance.figures
        else "None may leave the site.",
        *_terms(card, provenance),
        "## Made with",
        _table(provenance.versions),
    ]
    return "\n\n".join(parts) + "\n"


def _of_teacher(card: StudentCard, provenance: Provenance) -> dict[str, object]:
    if not card.teacher:
        return {"teacher": "none"}
    return {
        "teacher": card.teacher,
        "teacher's key": provenance.teacher_key or "none was pinned",
        "teacher's weights (SHA-256)": card.teacher_digest,
        "scenario": card.scenario,
        "patches asked": _known(provenance.patches_asked),
        "patches charged to the site": _known(provenance.patches_charged),
    }


def _terms(card: StudentCard, provenance: Provenance) -> list[str]:
    licence = card.teacher_licence
    if licence is None:
        return []
    return [
        "## Terms of its teacher",
        f"Licence: {licence.name}",
        licence.text,
        f"Derived models: {licence.derived_models}",
        f"This student may {'' if licence.may_publish else 'not '}be published and "
        f"may {'' if licence.may_sell else 'not '}be sold.",
        f"Digest of these terms, which the site accepted: {provenance.terms}",
    ]


def _table(rows: Mapping[str, object]) -> str:
    head = ["| | |", "|---|---|"]
    return "\n".join([*head, *(f"| {key} | {rows[key]} |" for key in rows)])


def _known(value: int | None) -> object:
    return "not known" if value is None else value

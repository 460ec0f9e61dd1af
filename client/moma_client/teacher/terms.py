"""The terms of a teacher: whether this site accepted them, and may train at all.

Both are looked at before a patch is sent, by `doctor`, by `plan` and by a run.
"""

from collections.abc import Iterator

from moma_client.config.teacher import TeacherSection
from moma_core.errors import TermsError
from moma_core.runtime.finding import Finding
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.card.licence import Licence, terms_digest, terms_lines

_PERMISSION = "derived_models_permitted: true"


def check_terms(card: TeacherCard, section: TeacherSection) -> None:
    """Refuses terms that were not accepted, or that forbid what would be trained.

    Raises:
        TermsError: It holds the terms, and the lines that accept them.
    """
    if card.licence is None:
        return
    digest = terms_digest(card.name, card.licence)
    if section.accepted_terms != digest:
        raise TermsError("\n".join(_not_accepted(card, card.licence, section)))
    if lacks_permission(card, section):
        raise TermsError(f"{_forbidden(card, card.licence)}; nothing was sent")


def lacks_permission(card: TeacherCard, section: TeacherSection) -> bool:
    """Whether the licence forbids derived models, and the site has no permission."""
    forbids = card.licence is not None and card.licence.forbids_derived_models
    return forbids and not section.derived_models_permitted


def look_at_terms(card: TeacherCard, section: TeacherSection) -> Iterator[Finding]:
    """Yields the terms, whether they are accepted, and whether students are allowed."""
    licence = card.licence
    if licence is None:
        yield Finding("terms", "warning", "the card states no licence")
        return
    digest, accepted = terms_digest(card.name, licence), section.accepted_terms
    shown = tuple(terms_lines(card.name, licence))
    facts: dict[str, object] = {"terms": digest, "accepted": accepted == digest}
    if accepted == digest:
        text = f"{licence.name}, accepted as {digest[:12]}"
        yield Finding("terms", "ok", text, more=shown, facts=facts)
    else:
        reason = "are not accepted" if accepted is None else "changed"
        text = f"they {reason}; to accept them, put into its section the line"
        more = (f"accepted_terms: {digest}", *shown)
        yield Finding("terms", "problem", text, refused=True, more=more, facts=facts)
    yield from look_at_derived_models(card, section)


def look_at_derived_models(
    card: TeacherCard, section: TeacherSection
) -> Iterator[Finding]:
    """Yields what is to be said of a licence that forbids derived models."""
    licence = card.licence
    if licence is None or not licence.forbids_derived_models:
        return
    facts: dict[str, object] = {"permitted": section.derived_models_permitted}
    if section.derived_models_permitted:
        text = (
            f"the licence of teacher {card.name} ({licence.name}) forbids them; this "
            f"site's config says that its owner permitted them"
        )
        yield Finding("derived models", "warning", text, facts=facts)
    else:
        text = _forbidden(card, licence)
        yield Finding("derived models", "problem", text, refused=True, facts=facts)


def _forbidden(card: TeacherCard, licence: Licence) -> str:
    return (
        f"the licence of teacher {card.name} ({licence.name}) forbids derived models, "
        f"and a student is one: get its owner's permission in writing, then say "
        f"{_PERMISSION} in its section of the config"
    )


def _not_accepted(
    card: TeacherCard, licence: Licence, section: TeacherSection
) -> Iterator[str]:
    reason = f"the terms of teacher {card.name} are not accepted"
    if section.accepted_terms is not None:
        reason = (
            f"the terms of teacher {card.name} are not those that were accepted "
            f"({section.accepted_terms[:12]})"
        )
    yield f"{reason}; nothing was sent"
    yield from terms_lines(card.name, licence)
    yield "to accept them, write into its section of the config:"
    yield f"  accepted_terms: {terms_digest(card.name, licence)}"
    if lacks_permission(card, section):
        yield "and, once its owner permitted derived models in writing:"
        yield f"  {_PERMISSION}"

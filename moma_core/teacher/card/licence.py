"""A teacher's licence, and what it says about the students that learn from it.

An operator accepts the terms once, by their digest: other words are other terms.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from moma_core.runtime.canonical_json import canonical_json

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True, slots=True)
class Licence:
    """On which terms a teacher may be used.

    Args:
        name: Of the licence, for example "CC-BY-NC-4.0".
        text: Its text, or where it stands.
        derived_models: What may be done with a student, in words.
        may_publish: Whether a student may be published.
        may_sell: Whether a student may be sold, or be part of what is sold.
        forbids_derived_models: Whether it forbids models derived from the teacher, as
            a student may be: a site trains none without a permission of its own.
    """

    name: str
    text: str
    derived_models: str
    may_publish: bool = False
    may_sell: bool = False
    forbids_derived_models: bool = False


def card_values(card: "DataclassInstance") -> dict[str, Any]:
    """Returns a card, or a licence, as JSON is made of it.

    What a licence does not forbid, and views of which nothing is said, are left out:
    terms and signatures of a time before these keys stay what they were, and programs
    of that time read the card. Of a licence that does forbid, they refuse the card, and
    so ask nothing.

    Args:
        card: A dataclass, with the licence somewhere in it or itself one.
    """
    return asdict(card, dict_factory=_without_unset)


def _without_unset(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unset = (("forbids_derived_models", False), ("views", ""))
    return dict(pair for pair in pairs if pair not in unset)


def terms_digest(teacher: str, licence: Licence) -> str:
    """Returns the SHA-256 of a teacher's terms, hex; the weights are no part of it.

    Args:
        teacher: Its name.
        licence: Its licence.
    """
    terms = {"teacher": teacher, "licence": card_values(licence)}
    return hashlib.sha256(canonical_json(terms)).hexdigest()


def terms_lines(teacher: str, licence: Licence) -> Iterator[str]:
    """Yields the terms as a person reads them, before accepting them."""
    yield f"terms of teacher {teacher}"
    yield f"  licence           {licence.name}"
    for line in licence.text.splitlines():
        yield f"    {line}"
    yield f"  derived models    {licence.derived_models}"
    if licence.forbids_derived_models:
        yield "                    FORBIDDEN without a permission of your own"
    yield f"  may be published  {'yes' if licence.may_publish else 'no'}"
    yield f"  may be sold       {'yes' if licence.may_sell else 'no'}"
    yield f"  digest            {terms_digest(teacher, licence)}"

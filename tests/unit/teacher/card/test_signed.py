"""The card as it travels: what is signed, what is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from moma_core.end_to_end.hpke import SUITES, SealingKey
from moma_core.errors import NotAuthorizedError, TeacherUnavailableError
from moma_core.teacher.card.bounds import Description, RequestBounds
from moma_core.teacher.card.licence import Licence
from moma_core.teacher.card.signed import (
    LARGEST_CARD_BYTES,
    IssuedCard,
    SealingOffer,
    SignedCard,
)
from tests.support.teacher.sealed import key_of
from tests.support.teacher.teacher_server import CARD

KEY = key_of("teacher-a")
END = datetime(2030, 1, 1, tzinfo=UTC)


def issued(**fields: Any) -> IssuedCard:
    card = replace(CARD, **fields)
    offers = tuple(SealingOffer(SealingKey.create(name).public, END) for name in SUITES)
    bounds = RequestBounds(max(1, card.input_size_px), 16)
    return IssuedCard("moma", 7, Description(card, bounds), offers)


@pytest.mark.parametrize("audited", [None, 0.0, -0.0125, 0.1375])
def test_a_card_survives_its_way(audited: float | None) -> None:
    sent = issued(membership_advantage=audited, class_names=("gut", "böse"))

    assert IssuedCard.opened(sent.signed(KEY), KEY.public) == sent


def test_a_card_of_another_key_is_refused() -> None:
    forged = issued().signed(key_of("the coordinator"))

    with pytest.raises(NotAuthorizedError, match="the teacher card is not of ed25519:"):
        IssuedCard.opened(forged, KEY.public)


@pytest.mark.parametrize("place", [0, 100, -1])
def test_a_card_with_one_bit_changed_is_refused(place: int) -> None:
    content, signature = issued().signed(KEY)
    changed = bytearray(content)
    changed[place] ^= 1

    with pytest.raises(NotAuthorizedError):
        IssuedCard.opened(SignedCard(bytes(changed), signature), KEY.public)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("name", ""),
        ("organ", "x" * 201),
        ("task", "two\nlines"),
        ("digest", "ab"),
        ("embedding_length", 0),
        ("embedding_length", 10**6),
        ("embedding_length", "3"),
        ("class_names", ()),
        ("class_names", ("benign", "benign")),
        ("input_size_px", 0),
        ("input_size_px", 10**4),
        ("mean", (0.5, 0.5)),
        ("std", (0.5, 0.5, 0.0)),
        ("membership_advantage", 1.5),
        ("momentum_sessions", 1),
        ("stain", "H&E\x1b[2J"),
        ("mpp", 0.0),
        ("outputs", ("logits", "logits")),
        ("golden", {"embedding": "", "logits": "", "tolerance": 1.0}),
    ],
)
def test_a_card_that_cannot_be_true_is_refused(name: str, value: Any) -> None:
    sent = issued(**{name: value} if name != "input_size_px" else {})
    values = json.loads(sent.to_json())
    values["card"][name] = value

    with pytest.raises(TeacherUnavailableError, match="card"):
        IssuedCard.opened(_signed(_canonical(values)), KEY.public)


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "unknown key": lambda values: values.update(more=1),
    "unknown key of the card": lambda values: values["card"].update(more=1),
    "no card": lambda values: values.pop("card"),
    "no patches": lambda values: values["bounds"].update(max_patches_per_request=0),
    "unknown suite": lambda values: values["sealing"][0].update(suite="rot13"),
    "short key": lambda values: values["sealing"][0].update(public="ab"),
    "no hex": lambda values: values["sealing"][0].update(public="zz"),
    "no end": lambda values: values["sealing"][0].update(not_after=2**60),
    "65 keys": lambda values: values.update(sealing=values["sealing"][:1] * 65),
    "issued as text": lambda values: values.update(issued="7"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_terms_that_cannot_be_true_are_refused(change: str) -> None:
    values = json.loads(issued().to_json())
    CHANGES[change](values)

    with pytest.raises(TeacherUnavailableError, match="card"):
        IssuedCard.opened(_signed(_canonical(values)), KEY.public)


def test_another_spelling_of_a_card_is_refused() -> None:
    values = json.loads(issued().to_json())

    with pytest.raises(TeacherUnavailableError, match="canonical"):
        IssuedCard.opened(_signed(json.dumps(values).encode()), KEY.public)


def test_an_overlong_card_is_not_even_read() -> None:
    with pytest.raises(TeacherUnavailableError, match="at most 4194304"):
        IssuedCard.opened(
            SignedCard(bytes(LARGEST_CARD_BYTES + 1), bytes(64)), KEY.public
        )


def test_the_terms_name_card_and_bounds_and_not_the_issue() -> None:
    one = issued()
    later = replace(one, issued=8, offers=())

    assert later.card_digest == one.card_digest
    assert issued(organ="breast").card_digest != one.card_digest


def _signed(content: bytes) -> SignedCard:
    return SignedCard(content, KEY.sign("teacher card", content))


def _canonical(values: Any) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()


def test_the_flag_of_a_licence_travels_only_where_it_forbids() -> None:
    allows = Licence("MIT", "text", "as you like")
    forbids = replace(allows, forbids_derived_models=True)

    for licence in (allows, forbids):
        signed = issued(licence=licence).signed(KEY)

        opened = IssuedCard.opened(signed, KEY.public)

        assert opened.description.card.licence == licence
        sent = json.loads(signed.content)["card"]["licence"]
        assert ("forbids_derived_models" in sent) == (licence is forbids)

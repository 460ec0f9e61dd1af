"""A question and its answer are good for one reader, one place and one asker."""

import hashlib
from dataclasses import replace
from typing import Any

import pytest

from moma_core.end_to_end.hpke import SUITES, SealingKey, SuiteName
from moma_core.end_to_end.sealed_messages import (
    MessageContext,
    OpenedRequest,
    Parties,
    PendingResponse,
    Sealed,
    open_request,
    seal_request,
)
from moma_core.end_to_end.signatures import SigningKey
from moma_core.errors import CertificateError, MalformedRequestError, NotAuthorizedError

SITE, TEACHER, STRANGER = (SigningKey.create() for _ in range(3))
PARTIES = Parties(
    federation="moma", site="site-a", teacher="teacher-a", card_digest=b"t" * 32
)
PLACE = MessageContext(method="Embed", request_id=b"r" * 16, issued_ms=1)
PATCH, SAID = b"a patch of a patient", b"what the teacher says"


@pytest.fixture(params=SUITES)
def key(request: Any) -> SealingKey:
    suite: SuiteName = request.param
    return SealingKey.create(suite)


def asked(
    key: SealingKey, signing: SigningKey = SITE
) -> tuple[Sealed, PendingResponse]:
    return seal_request(PLACE, PARTIES, [PATCH], key.public, signing)


def opened(
    question: Sealed,
    key: SealingKey,
    place: MessageContext = PLACE,
    parties: Parties = PARTIES,
) -> OpenedRequest:
    found = (key.public.key_id, lambda _id: key)
    return open_request(place, parties, question, SITE.public, found)


def flipped(content: bytes, place: int) -> bytes:
    changed = bytearray(content)
    changed[place] ^= 1
    return bytes(changed)


def test_teacher_and_site_understand_each_other_and_a_carrier_reads_nothing(
    key: SealingKey,
) -> None:
    question, pending = asked(key)
    got = opened(question, key)
    answer = got.respond(SAID, TEACHER)

    assert got.take_message() == PATCH
    assert pending.open(answer, TEACHER.public) == SAID
    assert PATCH not in question.content
    assert SAID not in answer.content


def test_the_same_question_is_never_the_same_bytes(key: SealingKey) -> None:
    assert asked(key)[0].content != asked(key)[0].content


def test_another_key_cannot_ask_in_the_sites_name(key: SealingKey) -> None:
    forged, _ = asked(key, STRANGER)

    with pytest.raises(NotAuthorizedError, match="site-a"):
        opened(forged, key)


@pytest.mark.parametrize(
    "moved",
    [
        {"method": "Budget"},
        {"request_id": b"s" * 16},
        {"position": 1},
        {"issued_ms": 2},
    ],
)
def test_a_question_is_good_in_its_own_place(
    key: SealingKey, moved: dict[str, Any]
) -> None:
    with pytest.raises(NotAuthorizedError):
        opened(asked(key)[0], key, place=replace(PLACE, **moved))


@pytest.mark.parametrize(
    "others",
    [
        {"federation": "other"},
        {"site": "site-b"},
        {"teacher": "teacher-b"},
        {"card_digest": b"u" * 32},
    ],
)
def test_a_question_is_good_between_its_own_parties(
    key: SealingKey, others: dict[str, Any]
) -> None:
    with pytest.raises(NotAuthorizedError):
        opened(asked(key)[0], key, parties=replace(PARTIES, **others))


@pytest.mark.parametrize("place", [0, 40, -1])
def test_a_changed_question_or_answer_is_refused(key: SealingKey, place: int) -> None:
    question, pending = asked(key)
    answer = opened(question, key).respond(SAID, TEACHER)

    with pytest.raises(NotAuthorizedError):
        opened(question._replace(content=flipped(question.content, place)), key)
    with pytest.raises(NotAuthorizedError):
        opened(question._replace(signature=flipped(question.signature, place)), key)
    changed = answer._replace(content=flipped(answer.content, place))
    with pytest.raises(NotAuthorizedError):
        pending.open(changed, TEACHER.public)


def test_an_answer_is_the_pinned_teachers_and_to_this_question(key: SealingKey) -> None:
    question, pending = asked(key)
    _, another = asked(key)
    got = opened(question, key)

    with pytest.raises(NotAuthorizedError):
        pending.open(got.respond(SAID, STRANGER), TEACHER.public)
    with pytest.raises(NotAuthorizedError):
        another.open(got.respond(SAID, TEACHER), TEACHER.public)


def test_what_was_sealed_to_another_key_or_elsewhere_does_not_open(
    key: SealingKey,
) -> None:
    other = SealingKey.create(key.public.suite)
    sealed = other.public.seal(PATCH, b"context")

    with pytest.raises(CertificateError, match="do not open"):
        key.open(sealed, b"context")
    with pytest.raises(CertificateError, match="do not open"):
        other.open(sealed, b"another context")


def test_a_site_that_signs_what_does_not_open_is_told_so(key: SealingKey) -> None:
    other = SealingKey.create(key.public.suite)
    context = PLACE.to_bytes(PARTIES, key.public.key_id)
    content = other.public.seal(PATCH, context)
    signed = context + hashlib.sha256(content).digest()

    with pytest.raises(MalformedRequestError, match="do not open"):
        opened(Sealed(content, SITE.sign("sealed question", signed)), key)

"""A token is one word, says what it grants, and never shows its secret by accident."""

import pytest

from moma_core.errors import CertificateError
from moma_core.pki.enrolment_token import EnrolmentToken
from moma_core.pki.names import PeerName

PEER = PeerName("colon-study.example", "teacher", "teacher-a")


@pytest.fixture
def token() -> EnrolmentToken:
    return EnrolmentToken.create(PEER, "ab" * 32)


def test_a_token_is_one_word_and_reads_back(token: EnrolmentToken) -> None:
    text = str(token)

    assert text.isascii()
    assert text.replace("_", "").replace(".", "").replace("-", "").isalnum()
    assert EnrolmentToken.parse(f" {text}\n") == token


def test_two_tokens_have_nothing_secret_in_common(token: EnrolmentToken) -> None:
    other = EnrolmentToken.create(PEER, "ab" * 32)

    assert other.secret != token.secret
    assert other.identifier != token.identifier
    assert other.secret_hash != token.secret_hash


def test_a_log_line_shows_no_secret(token: EnrolmentToken) -> None:
    assert token.secret.hex() not in repr(token)
    assert token.secret.hex() not in f"{[token]}"


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-1],
        lambda text: text[1:],
        lambda text: text.replace("_teacher_", "_coordinator2_"),
        lambda text: text.replace("_teacher_", "_"),
        lambda text: text.upper(),
        lambda text: text + "_more",
        lambda text: text * 5,
        lambda _: "",
    ],
)
def test_a_damaged_token_is_refused_without_showing_it(
    token: EnrolmentToken, damage: object
) -> None:
    assert callable(damage)

    with pytest.raises(CertificateError) as refusal:
        EnrolmentToken.parse(damage(str(token)))

    assert token.secret.hex()[:16] not in str(refusal.value)

"""Signed cards, and the messages of a round."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from moma_core.federation.bounds import MessageBounds
from moma_core.federation.messages import Envelope, unpack_report, unpack_task
from moma_core.teacher.card.bounds import Description, RequestBounds
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.card.reference_patch import expect
from moma_core.teacher.card.signed import IssuedCard, SignedCard
from moma_core.teacher.pixel_encoding import PixelEncoding
from moma_core.teacher.query import PatchQuery
from moma_server.federation.edge.methods import FLEET_CALLS, CallLimits
from tests.support.federation.flower_objects import message_objects, repeated_chunk
from tests.support.site.teacher_caches import CARD as OTHER_CARD
from tests.support.teacher.sealed import TEACHER, key_of
from tests.unit.bad_input.table import BadInput

_SIDE_PX = 8
_CARD = replace(OTHER_CARD, embedding_length=4, architecture="resnet18")
_BOUNDS = RequestBounds(_SIDE_PX, 4)
_ID = bytes(range(16))
_PIXELS = np.zeros((1, _SIDE_PX, _SIDE_PX, 3), np.uint8)
_QUERY = PatchQuery(_ID, _PIXELS)


def _issued(card: TeacherCard = _CARD) -> bytes:
    return IssuedCard("moma", 7, Description(card, _BOUNDS), ()).to_json()


def _card(name: str, says: str, content: Callable[[], bytes]) -> BadInput:
    key = key_of(TEACHER)

    def read(_: object) -> object:
        text = content()
        signed = SignedCard(text, key.sign("teacher card", text))
        return IssuedCard.opened(signed, key.public)

    return BadInput(name, read, says)


def _pictured(picture: bytes) -> bytes:
    embedding, logits = np.ones(4, np.float32), np.ones(2, np.float32)
    golden = expect(embedding, logits, precision="float32", png=picture)
    return _issued(replace(_CARD, golden=golden))


def _bomb() -> bytes:
    """Returns a PNG whose head names more pixels than any memory holds."""
    (picture,) = PixelEncoding.parse("png").pictures(_PIXELS)
    return picture[:16] + b"\x7f\xff\xff\xff" * 2 + picture[24:]


def _unsigned(_: object) -> object:
    signed = SignedCard(_issued(), bytes(64))
    return IssuedCard.opened(signed, key_of(TEACHER).public)


CARDS = (
    BadInput(
        "a card that nobody signed",
        _unsigned,
        "the signature of the teacher card is not of "
        "ed25519:5e2c8146cdd9eb3bbd00d1ec486da3fde3aecdc12501e70d9be5f75683c28302:"
        " check teacher.key with the teacher's owner, by telephone",
    ),
    _card(
        "a signed card that is no JSON",
        "the card's (all) is not as it should be: Invalid JSON: EOF while "
        "parsing an object at line 1 column 1",
        lambda: b"{",
    ),
    _card(
        "a signed card in another spelling",
        "the card is no canonical JSON",
        lambda: _issued() + b" ",
    ),
    _card(
        "a signed card of no deviation",
        "the card's mean or std is out of range",
        lambda: _issued(replace(_CARD, std=(0.0, 1.0, 1.0))),
    ),
    _card(
        "a signed card of NaN",
        "the card's mpp is above 0 and at most 100, got nan",
        lambda: _issued().replace(b'"mpp":null', b'"mpp":NaN'),
    ),
    _card(
        "a signed card with a key that is a command",
        "the card's card. [2J is not as it should be: Unexpected keyword argument",
        lambda: _issued().replace(b'"mpp"', b'"\\u001b[2J"'),
    ),
    _card(
        "a signed card whose stain is a command",
        "the card's stain has a character that cannot be printed",
        lambda: _issued(replace(_CARD, stain="\x1b[2J")),
    ),
    _card(
        "a signed card of too many megabytes",
        "the card has 5242880 bytes, at most 4194304 are read",
        lambda: bytes(5 << 20),
    ),
    _card(
        "a reference patch that is no picture",
        "the card's golden: a reference patch is no PNG in base64",
        lambda: _pictured(b"patch"),
    ),
    _card(
        "a reference patch that unpacks to far more",
        "the card's golden: a reference patch is no PNG in base64",
        lambda: _pictured(_bomb()),
    ),
)


def _repeated(_: object) -> object:
    _, parts = message_objects("task", "{}", b"x" * 100)
    repeated_chunk(parts, 3000)
    return MessageBounds(4096).check(parts)


def _call(name: str, content: bytes) -> object:
    return FLEET_CALLS[name].read(content, CallLimits(max_body_bytes=99, max_objects=9))


_TASK = (
    '{"kind": "train", "run": "r", "round": 7, "rounds": 5, "local_epochs": 1, '
    '"mode": "fedavg"}'
)

ROUNDS = (
    BadInput(
        "a message that names one part 3,000 times",
        _repeated,
        "an array that repeats its parts is not taken",
    ),
    BadInput(
        "a part of a message without a head",
        lambda _: MessageBounds(9).check({"a": b"x"}),
        "a part of the message has no head",
    ),
    BadInput(
        "a record that nobody agreed on",
        lambda _: MessageBounds(9).check({"a": b"MetricRecord  2\0{}"}),
        "a message with other records is not taken",
    ),
    BadInput(
        "a message of a million parts",
        lambda _: MessageBounds(9).check_ids(
            ["a message of 1000000 parts is not taken, it has 16 at most"] * 10**6
        ),
        "a message of 1000000 parts is not taken, it has 16 at most",
    ),
    BadInput(
        "a round behind the last one",
        lambda _: unpack_task(Envelope(_TASK, None), max_weights_bytes=0),
        "the task's round lies behind its last round",
    ),
    BadInput(
        "a report that is no JSON",
        lambda _: unpack_report(Envelope("{", None), max_weights_bytes=0),
        "the header breaks its contract",
    ),
    BadInput(
        "a report of a megabyte",
        lambda _: unpack_report(Envelope(" " * (1 << 20), None), max_weights_bytes=0),
        "a header of 1048576 characters is not read",
    ),
    BadInput(
        "a call at the edge that is no message",
        lambda _: _call("pull-messages", b"\xff"),
        "a call was refused: malformed",
    ),
    BadInput(
        "a call at the edge with more in it",
        lambda _: _call("pull-messages", b"\x98\x06\x01"),
        "a call was refused: malformed",
    ),
)

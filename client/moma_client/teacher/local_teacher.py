"""A teacher whose weights lie on the site's own disk."""

from moma_client.config.teacher import LocalTeacherSection
from moma_core.end_to_end.signatures import TEACHER_CARD, VerifyingKey, check_file
from moma_core.models.backbone import Normalise
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.local import FrozenTeacher, check_weights, load_network


def read_local_card(section: LocalTeacherSection) -> TeacherCard:
    """Returns the card of the weights on this disk.

    Raises:
        ConfigError: Card and weights cannot be read, or do not fit each other.
        CertificateError: The key that is pinned did not sign the card.
    """
    card = TeacherCard.load(section.card)
    if section.key is not None:
        check_file(section.card, VerifyingKey.parse(section.key), TEACHER_CARD)
    check_weights(card, section.weights_file)
    return card


def local_teacher(card: TeacherCard, section: LocalTeacherSection) -> FrozenTeacher:
    """Returns what answers on this disk.

    Raises:
        ConfigError: Its weights cannot be read.
        MismatchError: Its architecture is not as the card says.
    .
    """
    network = load_network(card, section.weights_file)
    return FrozenTeacher(network, Normalise(card.mean, card.std))

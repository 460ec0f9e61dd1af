"""What a plan counts where a copy of the teacher follows the student.

Retries, lost sessions and resumptions are not counted: they may sync once more.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from moma_client.config.site import MomentumTeacherSection, SiteConfig
from moma_client.egress.to_teacher import weights_to_wire
from moma_client.student.factory import scenario_of
from moma_core.distill.methods.names import asks_each_step
from moma_core.models.backbone import Backbone
from moma_core.models.ema import MomentumTerms, moving_weights
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.ema_update import SyncHead, weights_to_bytes
from moma_core.teacher.query import SESSION_ID_BYTES
from moma_proto.convert.sealed import sealed_sizes

_DIGEST_BYTES = 32


class Group(NamedTuple):
    """Patches that are asked together.

    Args:
        patches: How many.
        session: The momentum session whose copy is asked; empty: the teacher.
        is_whole: Whether they must be in one request.
    """

    patches: int
    session: bytes = b""
    is_whole: bool = False


def groups_of_following(
    config: SiteConfig, section: MomentumTeacherSection, sizes: Sequence[int]
) -> Counter[Group]:
    """Counts what a run asks of the copy, and what its baselines ask of the teacher.

    Baselines ask the same under the same request ids: they count once together.

    Args:
        config: The site's.
        section: Its teacher's.
        sizes: Patches of every step of the run.
    """
    session, is_whole = bytes(SESSION_ID_BYTES), section.batch_norm == "adapt"
    is_plain_asked = any(map(asks_each_step, config.baselines))
    groups: Counter[Group] = Counter()
    for step, size in enumerate(sizes):
        moves = (step + 1) % section.sync_every_steps == 0
        twice = moves and section.schedule == "published"
        groups[Group(size, session, is_whole)] += 2 if twice else 1
        if is_plain_asked:
            groups[Group(size)] += 1
    return groups


def sync_bytes(
    config: SiteConfig, classes: tuple[str, ...], card: TeacherCard, steps: int
) -> int:
    """Returns the size of the messages of one sync; no weights are fetched for it.

    Raises:
        ConfigError: timm does not know the student, or the scenario does not apply.
    """
    order = scenario_of(config, card, classes).class_order
    terms = MomentumTerms(
        config.distillation.momentum,
        class_order=None if order is None else tuple(order.tolist()),
    )
    student = Backbone(config.student.architecture, len(classes))
    content = weights_to_bytes(moving_weights(student, terms))
    head = SyncHead(
        bytes(SESSION_ID_BYTES), steps, len(content), b"\x01" * _DIGEST_BYTES
    )
    messages = weights_to_wire(head, content)
    return sum(sealed_sizes(message.ByteSize(), 0)[0] for message in messages)

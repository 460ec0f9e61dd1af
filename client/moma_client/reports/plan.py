"""`moma-client plan`: what a run would ask of its teacher, before anything is sent.

The teacher is asked for its card and the site's budget; no patch leaves. Sizes are
those of the very messages that would be sent.
"""

import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from moma_client.cache.demand import batch_plan, cached_views, wanted_views
from moma_client.cache.folder import CacheFolder, cached_section
from moma_client.config.site import SiteConfig
from moma_client.config.teacher import (
    LocalTeacherSection,
    MomentumTeacherSection,
    RemoteTeacherSection,
)
from moma_client.egress.to_teacher import patches_to_wire, weights_to_wire
from moma_client.metrics import silent_metrics
from moma_client.student.factory import scenario_of
from moma_client.teacher.connect import FAIL_FAST, connect, remote_settings
from moma_client.teacher.remote_teacher import Budget
from moma_core.data.patch import TRAIN, PatchIndex, PatchSource
from moma_core.data.sources.factory import open_source
from moma_core.distillation.methods.names import asks_each_step
from moma_core.errors import CertificateError, RefusedError, TeacherUnavailableError
from moma_core.models.backbone import Backbone
from moma_core.models.ema import MomentumTerms, updated_weights
from moma_core.teacher.cache.header import PAGE_BYTES
from moma_core.teacher.cache.store import cache_path, record_bytes
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.ema_update import SyncHead, weights_to_bytes
from moma_core.teacher.pixel_encoding import RAW
from moma_core.teacher.query import (
    REQUEST_ID_BYTES,
    SESSION_ID_BYTES,
    EmbedResult,
    PatchQuery,
)
from moma_proto.convert.sealed import sealed_sizes
from moma_proto.convert.teacher import answer_to_wire

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
    content = weights_to_bytes(updated_weights(student, terms))
    head = SyncHead(
        bytes(SESSION_ID_BYTES), steps, len(content), b"\x01" * _DIGEST_BYTES
    )
    messages = weights_to_wire(head, content)
    return sum(sealed_sizes(message.ByteSize(), 0)[0] for message in messages)


class PlanTerms(NamedTuple):
    """What a teacher says when it is asked nothing.

    Args:
        card: Its card, or the one that the cache keeps, or None.
        budget: None if it is away.
        patches_per_request: Its bound, or else the site's.
        away: Why it could not be asked.
    """

    card: TeacherCard | None
    budget: Budget | None
    patches_per_request: int
    away: str


def asked_terms(config: SiteConfig, section: RemoteTeacherSection) -> PlanTerms:
    """Asks the teacher; if it is away, the kept card must do.

    Raises:
        RefusedError: The teacher does not admit this site.
    """
    settings = replace(remote_settings(config, section), retries=FAIL_FAST)
    with closing(connect(settings, b"", threading.Event(), silent_metrics())) as remote:
        try:
            size = remote.patches_per_request()
            return PlanTerms(remote.describe(), remote.budget(), size, "")
        except (TeacherUnavailableError, CertificateError) as error:
            if isinstance(error, RefusedError):
                raise
            kept = CacheFolder(config).kept_card()
            return PlanTerms(kept, None, settings.patches_per_request, str(error))


def kept_terms(config: SiteConfig, section: RemoteTeacherSection) -> PlanTerms:
    """Takes the kept card; nobody is asked."""
    size = remote_settings(config, section).patches_per_request
    return PlanTerms(CacheFolder(config).kept_card(), None, size, "not asked")


@dataclass(frozen=True, slots=True)
class QueryPlan:
    """What a run asks; None where it cannot be known.

    Args:
        mode: Answers are kept in a cache, asked in every epoch, or of no concern.
        teacher: Its name; empty for one on this disk.
        away: Why it could not be asked; empty if it was.
        labelled: Patches to train on with a label.
        unlabelled: Patches to train on without.
        views: Of each patch, V; 0 online.
        epochs: Of the run; None: as many as show every view.
        answers: That the run uses, each counted once if it is kept.
        in_bank: Of these, are there already, counted by place: no patch is read, and
            one that moved or changed is asked all the same.
        queries: Patches to ask, the rest.
        golden: Patches to ask beside them, once, which tell whether who answers is
            the teacher of the card.
        requests: Messages in which they are asked.
        sent_bytes: Of these messages and the syncs, as protobuf, without HTTP/2 and
            TLS.
        received_bytes: Of the answers, likewise.
        syncs: Of the student's weights to a teacher that follows; 0 to any other.
        weights_bytes: Of the sent ones, those of the syncs.
        disk_bytes: That all answers take in the cache.
        granted: Patches, over the life of the agreement.
        left: Of these, not charged yet.
        patches_per_second: At which the teacher answers.
        rate_is_measured: Whether by this site, or given.
        site: Who asks, as the teacher's owner names it.
    """

    mode: Literal["bank", "online", "local"]
    teacher: str
    away: str
    labelled: int
    unlabelled: int
    views: int = 0
    epochs: int | None = None
    answers: int = 0
    in_bank: int = 0
    queries: int = 0
    golden: int = 0
    requests: int | None = None
    sent_bytes: int | None = None
    received_bytes: int | None = None
    syncs: int = 0
    weights_bytes: int | None = 0
    disk_bytes: int | None = None
    granted: int | None = None
    left: int | None = None
    patches_per_second: float | None = None
    rate_is_measured: bool = False
    site: str = ""

    @property
    def share_of_left(self) -> float | None:
        """Of the budget that is left; above 1 it does not suffice."""
        return self.charged / self.left if self.left else None

    @property
    def charged(self) -> int:
        """What the teacher charges at most."""
        return self.queries + self.golden

    @property
    def wanted_grant(self) -> int:
        """What `budget.sites` must have for this site, so that it suffices."""
        return (self.granted or 0) - (self.left or 0) + self.charged

    @property
    def expected_seconds(self) -> float | None:
        """At the rate, if there is one."""
        rate = self.patches_per_second
        return self.queries / rate if rate else None

    def as_json(self) -> dict[str, object]:
        """Returns every figure by name."""
        return {
            **asdict(self),
            "share_of_left": self.share_of_left,
            "expected_seconds": self.expected_seconds,
        }


def plan_queries(
    config: SiteConfig,
    *,
    epochs: int | None,
    patches_per_second: float | None,
    ask_teacher: bool = True,
) -> QueryPlan:
    """Returns what a run would ask.

    Args:
        config: The site's.
        epochs: Of the run. None: one, where each asks anew; else as many as show
            every view.
        patches_per_second: None: as it was measured when the site last asked.
        ask_teacher: Whether it is asked for its card and the budget; else the kept
            card must do.

    Raises:
        DataError: The patches cannot be read, or are too few.
        ConfigError: The teacher cache cannot be opened.
        UnsignedRefusalError: The teacher does not admit this site, it is said.
    """
    source, section = open_source(config.data), config.teacher
    index = source.index
    labelled = len(index.rows(TRAIN, labelled=True))
    unlabelled = len(index.rows(TRAIN, labelled=False))
    if isinstance(section, LocalTeacherSection):
        return QueryPlan("local", "", "", labelled, unlabelled)
    terms = asked_terms(config, section) if ask_teacher else kept_terms(config, section)
    is_cached = cached_section(config) is not None
    mode: Literal["bank", "online"] = "bank" if is_cached else "online"
    plan = QueryPlan(
        mode, section.name, terms.away, labelled, unlabelled, site=config.site
    )
    plan = _with_rate(config, _with_terms(plan, terms), patches_per_second)
    counted = _kept if is_cached else _online
    plan, groups = counted(config, index, terms.card, replace(plan, epochs=epochs))
    return _with_syncs(config, source, terms, _with_messages(plan, terms, groups))


def _with_terms(plan: QueryPlan, terms: PlanTerms) -> QueryPlan:
    if terms.budget is not None:
        granted, charged = terms.budget
        plan = replace(plan, granted=granted, left=max(0, granted - charged))
    if terms.card is not None and terms.card.golden is not None:
        plan = replace(plan, golden=1)
    return plan


def _with_rate(
    config: SiteConfig, plan: QueryPlan, patches_per_second: float | None
) -> QueryPlan:
    kept = CacheFolder(config).kept_rate()
    if patches_per_second is None and kept is not None:
        rate = kept.patches_per_second
        return replace(plan, patches_per_second=rate, rate_is_measured=True)
    return replace(plan, patches_per_second=patches_per_second)


def _kept(
    config: SiteConfig, index: PatchIndex, card: TeacherCard | None, plan: QueryPlan
) -> tuple[QueryPlan, Counter[Group]]:
    """Counts each view once, and not at all if it is in the cache."""
    wanted = wanted_views(config, index, plan.epochs)
    lacking = [len(rows) for rows in wanted]
    answers = sum(lacking)
    if card is not None:
        folder = CacheFolder(config)
        identity = folder.identity(card)
        section = cached_section(config)
        is_sealed = section is not None and section.cache_key_file is not None
        size = record_bytes(identity, sealed=is_sealed)
        plan = replace(plan, disk_bytes=PAGE_BYTES + answers * size)
        if cache_path(folder.path, identity).exists():
            with closing(folder.open(card, len(index))) as cache:
                held = cached_views(cache, index, len(wanted))
            lacking = [
                len(held.lacking(rows, number)) for number, rows in enumerate(wanted)
            ]
    plan = replace(
        plan,
        views=len(wanted),
        answers=answers,
        in_bank=answers - sum(lacking),
        queries=sum(lacking),
    )
    return plan, Counter(map(Group, lacking))  # no request holds two views of a patch


def _online(
    config: SiteConfig, index: PatchIndex, _card: TeacherCard | None, plan: QueryPlan
) -> tuple[QueryPlan, Counter[Group]]:
    """Counts every row of every step, as each rank asks for its own."""
    rows, devices = batch_plan(config, index), config.training.devices
    epochs, section = plan.epochs or 1, config.teacher
    sizes = [rows.size(step) // devices for step in range(rows.steps_per_epoch)]
    groups = Counter(
        {Group(n): devices * epochs * c for n, c in Counter(sizes).items()}
    )
    if isinstance(section, MomentumTeacherSection):
        groups = groups_of_following(config, section, sizes * epochs)
        plan = replace(plan, syncs=len(sizes) * epochs // section.sync_every_steps)
    asked = sum(group.patches * count for group, count in groups.items())
    return replace(plan, epochs=epochs, answers=asked, queries=asked), groups


def _with_syncs(
    config: SiteConfig, source: PatchSource, terms: PlanTerms, plan: QueryPlan
) -> QueryPlan:
    """Adds the weights that go to a teacher that follows."""
    if not plan.syncs:
        return plan
    if terms.card is None or plan.sent_bytes is None:
        return replace(plan, weights_bytes=None)
    steps = batch_plan(config, source.index).steps_per_epoch * (plan.epochs or 1)
    weights = plan.syncs * sync_bytes(config, source.class_names, terms.card, steps)
    return replace(plan, weights_bytes=weights, sent_bytes=plan.sent_bytes + weights)


def _with_messages(
    plan: QueryPlan, terms: PlanTerms, groups: Counter[Group]
) -> QueryPlan:
    """Cuts groups into requests as the client does, and writes one of each size."""
    messages: Counter[Group] = Counter()
    for group, count in groups.items():
        most = group.patches if group.is_whole else terms.patches_per_request
        full, rest = divmod(group.patches, most)
        messages[group._replace(patches=most)] += full * count
        messages[group._replace(patches=rest)] += count if rest else 0
    plan = replace(plan, requests=sum(messages.values()))
    card = terms.card
    if card is None:
        return plan
    sizes = {group: _message_bytes(card, group) for group in +messages}
    return replace(
        plan,
        sent_bytes=sum(sizes[group][0] * n for group, n in (+messages).items()),
        received_bytes=sum(sizes[group][1] * n for group, n in (+messages).items()),
    )


def _message_bytes(card: TeacherCard, group: Group) -> tuple[int, int]:
    """Returns the size of a request and of its answer."""
    name, side, patches = bytes(REQUEST_ID_BYTES), card.input_size_px, group.patches
    pixels = np.zeros((patches, side, side, 3), np.uint8)
    query = PatchQuery(name, pixels, group.session)
    answer = EmbedResult(
        name,
        np.zeros((patches, card.embedding_length), np.float32),
        np.zeros((patches, len(card.class_names)), np.float32),
    )
    sent = patches_to_wire(query, RAW)  # no encoding makes it larger
    return sealed_sizes(sent.ByteSize(), answer_to_wire(answer).ByteSize())

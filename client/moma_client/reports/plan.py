"""`moma-client plan`: what a run would query of its teacher, before anything is sent.

The teacher sends its card and the site's budget; no patch leaves. Sizes are
those of the very messages that would be sent.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np

from moma_client.cache.folder import CacheFolder
from moma_client.cache.views import available_views, batch_plan, required_views
from moma_client.config.site import SiteConfig
from moma_client.config.teacher import LocalTeacherSection, MomentumTeacherSection
from moma_client.egress.to_teacher import patches_to_wire, weights_to_wire
from moma_client.reports.query_plan import QueryPlan
from moma_client.student.checks import look_at_task
from moma_client.student.factory import (
    ema_terms,
    needs_teachers,
    scenario_of,
    trained_as,
)
from moma_client.teacher.connect import open_teacher
from moma_client.teacher.local_teacher import read_local_card
from moma_client.teacher.remote_teacher import PATCHES_PER_REQUEST, BudgetState
from moma_client.teacher.retry import FAIL_FAST
from moma_client.teacher.terms import look_at_derived_models
from moma_core.data.patch import TRAIN, PatchIndex, PatchSource
from moma_core.data.sources.factory import open_source
from moma_core.distillation.methods.names import uses_outputs
from moma_core.distillation.scenario import Scenario
from moma_core.errors import (
    CertificateError,
    ConfigError,
    RefusedError,
    TeacherUnavailableError,
)
from moma_core.federation.schedule import FEWEST_STEPS
from moma_core.models.backbone import Backbone
from moma_core.models.ema import updated_weights
from moma_core.runtime.finding import Finding, found_by
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
from moma_proto.convert.teacher import result_to_wire

_DIGEST_BYTES = 32


def plan_queries(
    config: SiteConfig,
    *,
    epochs: int | None,
    patches_per_second: float | None,
    request_terms: bool = True,
) -> QueryPlan:
    """Returns what a run would query.

    Args:
        config: Settings of this site.
        epochs: Epochs of the run. None: one, where each queries anew; else as many as
            show every view.
        patches_per_second: Rate of the teacher; None: as measured last.
        request_terms: Whether to request the teacher's card and the budget; else the
            kept card must do.

    Raises:
        DataError: The patches cannot be read, or are too few.
        ConfigError: The teacher cache cannot be opened.
        UnsignedRefusalError: The teacher is said not to serve this site.
    """
    source, section = open_source(config.data), config.teacher
    index = source.index
    if not section.is_remote:
        return _local_plan(config, source, section, epochs)
    terms = _requested_terms(config) if request_terms else _kept_terms(config)
    mode: Literal["bank", "online"] = "bank" if section.caches else "online"
    plan = QueryPlan(
        *(mode, section.name, terms.away),
        len(index.rows(TRAIN, labelled=True)),
        len(index.rows(TRAIN, labelled=False)),
        site=config.site,
        epochs=epochs,
        steps_per_epoch=batch_plan(config, index).steps_per_epoch,
        findings=_of_task(config, source, terms.card),
    )
    plan = _with_rate(config, _with_terms(plan, terms), patches_per_second)
    plan, groups = _counted(config, source, terms.card, plan)
    return _with_syncs(config, source, terms, _with_messages(plan, terms, groups))


def _local_plan(
    config: SiteConfig,
    source: PatchSource,
    section: LocalTeacherSection,
    epochs: int | None,
) -> QueryPlan:
    index = source.index
    found = found_by(
        "scenario", lambda: _look_at_card(config, source, read_local_card(section))
    )
    return QueryPlan(
        *("local", "", ""),
        len(index.rows(TRAIN, labelled=True)),
        len(index.rows(TRAIN, labelled=False)),
        epochs=epochs,
        steps_per_epoch=batch_plan(config, index).steps_per_epoch,
        findings=tuple(found),
    )


def _scenario(
    config: SiteConfig, source: PatchSource, card: TeacherCard | None
) -> list[Scenario]:
    """Returns the scenario, if it is known."""
    if card is None:
        return []
    try:
        return [scenario_of(config, card, source.class_names)]
    except ConfigError:  # is among the findings
        return []


def _of_task(
    config: SiteConfig, source: PatchSource, card: TeacherCard | None
) -> tuple[Finding, ...]:
    if card is None:
        return ()
    return tuple(found_by("scenario", lambda: _look_at_card(config, source, card)))


def _look_at_card(
    config: SiteConfig, source: PatchSource, card: TeacherCard
) -> Iterator[Finding]:
    yield from look_at_derived_models(card, config.teacher)
    yield from look_at_task(config, source, card)


class _Group(NamedTuple):
    """Patches that are queried together.

    Args:
        patches: Number of patches.
        session: Momentum session that is queried; empty: the teacher as it is.
        is_whole: Whether they must be in one request.
    """

    patches: int
    session: bytes = b""
    is_whole: bool = False


class _Terms(NamedTuple):
    """What a teacher says of itself.

    Args:
        card: Card of the teacher, or the one that the cache keeps, or None.
        budget: Budget of this site; None if the teacher is away.
        patches_per_request: Limit of the teacher, or else of the site.
        away: Why the teacher did not answer; empty: it did.
    """

    card: TeacherCard | None
    budget: BudgetState | None
    patches_per_request: int
    away: str


def _requested_terms(config: SiteConfig) -> _Terms:
    """Requests them of the teacher; if it is away, the kept card must do.

    Raises:
        RefusedError: The teacher does not serve this site.
    """
    with open_teacher(config, retries=FAIL_FAST) as remote:
        try:
            size = remote.patches_per_request()
            return _Terms(remote.describe(), remote.budget(), size, "")
        except (TeacherUnavailableError, CertificateError) as error:
            if isinstance(error, RefusedError):
                raise
            kept = CacheFolder(config).kept_card()
            return _Terms(kept, None, PATCHES_PER_REQUEST, str(error))


def _kept_terms(config: SiteConfig) -> _Terms:
    """Takes the kept card; nothing is requested."""
    kept = CacheFolder(config).kept_card()
    return _Terms(kept, None, PATCHES_PER_REQUEST, "not asked")


def _with_terms(plan: QueryPlan, terms: _Terms) -> QueryPlan:
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


def _counted(
    config: SiteConfig, source: PatchSource, card: TeacherCard | None, plan: QueryPlan
) -> tuple[QueryPlan, Counter[_Group]]:
    scenarios = _scenario(config, source, card)
    plan = replace(plan, falls_back=trained_as("moma", config, scenarios) != "moma")
    if not needs_teachers(config, scenarios):
        return replace(plan, disk_bytes=0), Counter()
    counted = _kept if config.teacher.caches else _online
    return counted(config, source.index, card, plan)


def _kept(
    config: SiteConfig, index: PatchIndex, card: TeacherCard | None, plan: QueryPlan
) -> tuple[QueryPlan, Counter[_Group]]:
    """Counts each view once, and not at all if it is in the cache."""
    required = required_views(config, index, plan.epochs)
    missing = [len(rows) for rows in required]
    answers = sum(missing)
    if card is not None:
        folder = CacheFolder(config)
        identity = folder.identity(card)
        is_sealed = config.teacher.caches and config.teacher.cache_key_file is not None
        size = record_bytes(identity, sealed=is_sealed)
        plan = replace(plan, disk_bytes=PAGE_BYTES + answers * size)
        if cache_path(folder.path, identity).exists():
            with closing(folder.open(card, len(index))) as cache:
                available = available_views(cache, index, len(required))
            missing = [
                len(available.missing(rows, number))
                for number, rows in enumerate(required)
            ]
    plan = replace(
        plan,
        views=len(required),
        answers=answers,
        in_bank=answers - sum(missing),
        queries=sum(missing),
    )
    return plan, Counter(map(_Group, missing))  # no request holds two views of a patch


def _online(
    config: SiteConfig, index: PatchIndex, _card: TeacherCard | None, plan: QueryPlan
) -> tuple[QueryPlan, Counter[_Group]]:
    """Counts every row of every step, as each rank queries its own."""
    rows, devices = batch_plan(config, index), config.training.devices
    epochs, section = plan.epochs or 1, config.teacher
    sizes = [rows.size(step) // devices for step in range(rows.steps_per_epoch)]
    groups = Counter(
        {_Group(n): devices * epochs * c for n, c in Counter(sizes).items()}
    )
    if section.is_remote and section.is_updated and not plan.falls_back:
        groups = _momentum_groups(config, section, sizes * epochs)
        plan = replace(plan, syncs=len(sizes) * epochs // section.sync_every_steps)
    queried = sum(group.patches * count for group, count in groups.items())
    if plan.epochs is None:
        fewest = math.ceil(FEWEST_STEPS / rows.steps_per_epoch)
        plan = replace(plan, fewest_epochs=fewest)
    return replace(plan, epochs=epochs, answers=queried, queries=queried), groups


def _with_syncs(
    config: SiteConfig, source: PatchSource, terms: _Terms, plan: QueryPlan
) -> QueryPlan:
    """Adds the weights that go to a teacher with a momentum session."""
    if not plan.syncs:
        return plan
    if terms.card is None or plan.sent_bytes is None:
        return replace(plan, weights_bytes=None)
    steps = batch_plan(config, source.index).steps_per_epoch * (plan.epochs or 1)
    weights = plan.syncs * _sync_bytes(config, source.class_names, terms.card, steps)
    return replace(plan, weights_bytes=weights, sent_bytes=plan.sent_bytes + weights)


def _with_messages(
    plan: QueryPlan, terms: _Terms, groups: Counter[_Group]
) -> QueryPlan:
    """Cuts groups into requests as the client does, and writes one of each size."""
    messages: Counter[_Group] = Counter()
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


def _message_bytes(card: TeacherCard, group: _Group) -> tuple[int, int]:
    """Returns the size of a request and of its answer."""
    name, side, patches = bytes(REQUEST_ID_BYTES), card.input_size_px, group.patches
    pixels = np.zeros((patches, side, side, 3), np.uint8)
    query = PatchQuery(name, pixels, group.session)
    result = EmbedResult(
        name,
        np.zeros((patches, card.embedding_length), np.float32),
        np.zeros((patches, len(card.class_names)), np.float32),
    )
    sent = patches_to_wire(query, RAW)  # no encoding makes it larger
    return sealed_sizes(sent.ByteSize(), result_to_wire(result).ByteSize())


def _momentum_groups(
    config: SiteConfig, section: MomentumTeacherSection, sizes: Sequence[int]
) -> Counter[_Group]:
    """Counts the queries of a momentum session, and those of baselines beside them.

    Baselines query the same under the same request ids: they count once together.

    Args:
        config: Settings of this site.
        section: Settings of its teacher.
        sizes: Number of patches of every step of the run.
    """
    session, is_whole = bytes(SESSION_ID_BYTES), section.batch_norm == "adapt"
    has_baselines = any(map(uses_outputs, config.baselines))
    groups: Counter[_Group] = Counter()
    for step, size in enumerate(sizes):
        syncs = (step + 1) % section.sync_every_steps == 0
        twice = syncs and section.schedule == "published"
        groups[_Group(size, session, is_whole)] += 2 if twice else 1
        if has_baselines:
            groups[_Group(size)] += 1
    return groups


def _sync_bytes(
    config: SiteConfig, classes: tuple[str, ...], card: TeacherCard, steps: int
) -> int:
    """Returns the size of the messages of one sync; no weights are fetched for it.

    Raises:
        ConfigError: timm does not know the student, or the scenario does not apply.
    """
    terms = ema_terms(config, scenario_of(config, card, classes))
    student = Backbone(config.student.architecture, len(classes))
    content = weights_to_bytes(updated_weights(student, terms))
    head = SyncHead(
        bytes(SESSION_ID_BYTES), steps, len(content), b"\x01" * _DIGEST_BYTES
    )
    messages = weights_to_wire(head, content)
    return sum(sealed_sizes(message.ByteSize(), 0)[0] for message in messages)

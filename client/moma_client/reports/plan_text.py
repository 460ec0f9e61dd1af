"""A plan as a person reads it."""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

from moma_client.config.site import SiteConfig
from moma_client.reports.plan import plan_queries
from moma_client.reports.query_plan import QueryPlan
from moma_client.reports.teacher_probe import Probe, plan_probe, run_probe
from moma_client.student.checks import look_at_data, look_at_fallback
from moma_core.data.sources.factory import open_source
from moma_core.distillation.scenario import Scenario
from moma_core.federation.schedule import FEWEST_STEPS
from moma_core.runtime.finding import Finding, refuse

_logger = logging.getLogger(__name__)


def printed_plan(
    config: SiteConfig,
    *,
    epochs: int | None,
    patches_per_second: float | None,
    probe: int | None = None,
    as_json: bool,
) -> Iterator[str]:
    """Yields a plan, and what is to be said of patches and task before a run.

    Args:
        config: Settings of this site.
        epochs: Of a whole run; None: not known.
        patches_per_second: Rate of the teacher; None: as measured last.
        probe: Labelled patches to ask each teacher about; None: nothing is asked.
        as_json: Whether a script reads it.

    Raises:
        DataError: The set cannot be learned from or judged; nothing was requested.
        MomaError: As `plan_queries` and `run_probe` have it.
    """
    source = open_source(config.data)
    found = list(look_at_data(config, source, epochs))
    refuse(found)
    probes = [plan_probe(each, source, probe) for each in config.each_teacher if probe]
    plans = [
        plan_queries(each, epochs=epochs, patches_per_second=patches_per_second)
        for each in config.each_teacher
    ]
    found += _fallback(config, plans)
    if as_json:
        for each in probes:
            _logger.warning("probe: %s", each.notice)
        yield _json(_with_probes(plans, probes), found)
        return
    yield from _lines(config, plans, found)
    for each in probes:
        yield f"probe        {each.notice}"
        for finding in run_probe(each):
            yield from finding.lines()


def _lines(
    config: SiteConfig, plans: Sequence[QueryPlan], found: Sequence[Finding]
) -> Iterator[str]:
    for plan in plans:
        if config.teachers:
            yield f"teacher      {plan.teacher or 'on this disk'}, one of {len(plans)}"
        yield from plan_lines(plan)
    for finding in found:
        if finding.state == "warning" or finding.check == "steps":
            yield from finding.lines()
    for plan in plans:
        for finding in plan.findings:
            yield from finding.lines()


def _fallback(config: SiteConfig, plans: Sequence[QueryPlan]) -> list[Finding]:
    """Returns whether all of several teachers are irrelevant; one plan says it."""
    known = [finding.facts for plan in plans for finding in plan.findings]
    names = [facts["scenario"] for facts in known if "scenario" in facts]
    if not config.teachers or names != ["irrelevant"] * len(plans):
        return []
    return [*look_at_fallback(config, [Scenario("irrelevant", "", None)])]


def _with_probes(
    plans: Sequence[QueryPlan], probes: Sequence[Probe]
) -> Sequence[QueryPlan]:
    """Asks, and returns plans with what was found."""
    if not probes:
        return plans
    return [
        replace(plan, findings=(*plan.findings, *run_probe(probe)))
        for plan, probe in zip(plans, probes, strict=True)
    ]


def _json(plans: Sequence[QueryPlan], found: Sequence[Finding]) -> str:
    """Returns the plan; of several teachers, a list of plans."""
    general = [finding.as_json() for finding in found]
    each = [plan.as_json() for plan in plans]
    if len(plans) > 1:
        return json.dumps({"teachers": each, "findings": general})
    own = [finding.as_json() for finding in plans[0].findings]
    return json.dumps({**each[0], "findings": [*general, *own]})


def plan_lines(plan: QueryPlan) -> Iterator[str]:
    """Yields the plan as a person reads it."""
    yield f"patches      {plan.labelled} labelled, {plan.unlabelled} unlabelled"
    if plan.mode == "local":
        yield "teacher      on this disk: nothing is asked, nothing is sent"
        return
    if plan.away:
        yield f"teacher      {plan.teacher} is away: {plan.away}"
    if plan.falls_back and not plan.answers:
        reference = ", but for its reference patch, once" if plan.golden else ""
        yield f"teacher      irrelevant: asked about no patch of this site{reference}"
        return
    if plan.mode == "bank":
        yield f"views        {plan.views} of each at most, {plan.answers} answers"
        by_place = ", if no patch moved or changed since" if plan.in_bank else ""
        yield f"in the cache  {plan.in_bank}{by_place}"
    else:
        known = "; --epochs plans a run of so many" if plan.fewest_epochs else ""
        yield f"epochs       {plan.epochs}, each of which asks anew{known}"
    yield f"to ask       {plan.queries} patches in {_known(plan.requests)} requests"
    if plan.golden:
        yield (
            f"before it    {plan.golden} reference patch, which tells whether who "
            f"answers is the teacher of the card"
        )
    yield (
        f"on the wire  {size_text(plan.sent_bytes)} sent, "
        f"{size_text(plan.received_bytes)} received, as messages"
    )
    if plan.syncs:
        yield (
            f"weights      sent {plan.syncs} times, "
            f"{size_text(plan.weights_bytes)} of it; "
            f"again after a lost session or a kill, which is not counted"
        )
    if plan.mode == "bank":
        yield f"on disk      {size_text(plan.disk_bytes)} with every answer"
    yield f"budget       {budget_line(plan)}"
    yield f"time         {_time_line(plan)}"


def budget_line(plan: QueryPlan) -> str:
    """Returns whether the budget suffices, and if not, what to ask for."""
    if plan.left is None:
        return "not known while the teacher is away"
    asked, uses = f"a run asks {plan.charged} patches", f"uses {plan.charged}"
    if plan.fewest_epochs:
        asked = (
            f"an epoch asks {plan.charged} patches, the {FEWEST_STEPS} steps that a "
            f"student needs ({plan.fewest_epochs} epochs) {plan.charged_by_run}"
        )
        uses = f"{asked}, more if the coordinator plans more: {plan.charged_by_run}"
    if plan.charged_by_run > plan.left:
        return (
            f"{asked}, {plan.left} of {plan.granted} are left: ask the owner of "
            f"teacher {plan.teacher} for budget.sites.{plan.site}: {plan.wanted_grant}"
        )
    line = (
        f"{uses} of {plan.left} patches that are left (of {plan.granted} granted); "
        f"{plan.left - plan.charged_by_run} stay"
    )
    share = plan.share_of_left
    return line if share is None else f"{line} ({share:.1%} used)"


def _time_line(plan: QueryPlan) -> str:
    seconds, rate = plan.expected_seconds, plan.patches_per_second
    if seconds is None or rate is None:
        return "not known: nothing was measured yet, and no --patches-per-second given"
    origin = "measured when the site last asked" if plan.rate_is_measured else "given"
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02} at {rate:.1f} patches a second ({origin})"


def _known(value: int | None) -> str:
    return "?" if value is None else str(value)


def size_text(count: int | None) -> str:
    """Returns a number of bytes as a person reads it."""
    if count is None:
        return "an unknown number of bytes"
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} bytes"

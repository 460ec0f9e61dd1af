"""A teacher's panels: budgets and coverage, queries, denials, the audit log."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from moma_core.dashboard.view import (
    Alert,
    Cell,
    Column,
    Fact,
    Panel,
    Table,
    ago,
    count,
    length,
    short,
)
from moma_core.metrics_http.registry import Samples
from moma_core.report_page.page import percent

Audit = Mapping[str, Any]
"""What `moma-server status --json` says under `audit`."""

LOW_BUDGET_RATIO = 0.1
"""As `MomaBudgetLow` of `deploy/prometheus` has it."""

STALE_SECONDS = 900
"""As `MomaCheckpointStale` has it."""

_OUTCOMES = ("answered", "denied", "failed", "cancelled", "abandoned")
_BUDGET, _LEFT = "moma_teacher_budget_patches", "moma_teacher_budget_remaining_ratio"
_COVERAGE = "moma_teacher_embedding_coverage_ratio"
_LIMIT = "moma_teacher_embedding_coverage_limit_ratio"
_REQUESTS = "moma_teacher_requests_total"
_SIGNED = "moma_audit_checkpoint_timestamp_seconds"
_MISMATCHES = "moma_audit_reconcile_mismatch_total"


def panels(audit: Audit | None, samples: Samples, now: datetime) -> list[Panel]:
    """Returns a teacher's panels.

    Args:
        audit: Status of its log; None: there is none yet.
        samples: Of the server's metrics.
        now: The present.
    """
    return [
        Panel("teacher", "Teacher", _facts(samples), (_accounts(samples),)),
        Panel("queries", "Queries", tables=(_queries(samples), _denials(samples))),
        Panel("audit", "Audit log", _audit_facts(audit, samples, now)),
    ]


def alerts(samples: Samples, now: datetime) -> list[Alert]:
    """Returns what `deploy/prometheus` alerts of and one look can tell."""
    found = []
    for labels, left in samples.rows(_LEFT):
        if left < LOW_BUDGET_RATIO and (samples.value(_BUDGET, **labels) or 0) > 0:
            text = f"{short(labels['site'])} has {percent(left)} of its budget left."
            found.append(Alert("MomaBudgetLow", "warning", text))
    for labels, seen in samples.rows(_COVERAGE):
        limit = samples.value(_LIMIT, teacher=labels["teacher"])
        if limit is not None and seen > limit:
            text = f"{short(labels['site'])} has seen more than the policy allows."
            found.append(Alert("MomaCoverageOverPolicy", "critical", text))
    signed = samples.value(_SIGNED) or 0.0
    if signed and now.timestamp() - signed > STALE_SECONDS:
        age = length(now.timestamp() - signed)
        text = f"The log's newest checkpoint is {age} old."
        found.append(Alert("MomaCheckpointStale", "critical", text))
    mismatches = samples.value(_MISMATCHES) or 0.0
    if mismatches:
        text = f"The log contradicts receipts: {count(mismatches)}."
        found.append(Alert("MomaAuditMismatch", "critical", text))
    return found


def _facts(samples: Samples) -> list[Fact]:
    inflight = samples.value("moma_teacher_inflight_requests")
    number = samples.value("moma_teacher_request_duration_seconds_count") or 0.0
    seconds = samples.value("moma_teacher_request_duration_seconds_sum") or 0.0
    return [
        Fact(
            "State",
            "not serving yet" if inflight is None else "serving",
            "open" if inflight is None else "good",
        ),
        Fact("Queries under way", count(inflight or 0)),
        Fact("Mean time of a query", f"{seconds / number:.3f} s" if number else "none"),
    ]


def _accounts(samples: Samples) -> Table:
    rows = []
    for labels, granted in _by_site(samples, _BUDGET):
        left = samples.value(_LEFT, **labels)
        coverage = samples.value(_COVERAGE, **labels)
        limit = samples.value(_LIMIT, teacher=labels["teacher"])
        is_low = left is not None and granted > 0 and left < LOW_BUDGET_RATIO
        is_over = None not in (coverage, limit) and (coverage or 0) > (limit or 0)
        unique = samples.value("moma_teacher_unique_patches", **labels) or 0
        rows.append(
            (
                Cell(short(labels["site"])),
                Cell(count(granted)),
                Cell("not known" if left is None else count(left * granted)),
                Cell(
                    "not known" if left is None else percent(left),
                    "bad" if is_low else "",
                ),
                Cell(count(unique)),
                Cell(
                    "not measured" if coverage is None else percent(coverage),
                    "bad" if is_over else "",
                ),
                Cell("none" if limit is None else percent(limit)),
            )
        )
    columns = (
        Column("Site"),
        Column("Granted patches", is_number=True),
        Column("Left", is_number=True),
        Column("Share left", is_number=True),
        Column("Different patches", is_number=True),
        Column("Coverage", is_number=True),
        Column("Limit of coverage", is_number=True),
    )
    caption = "Budget and coverage of the embedding space, by site"
    return Table("budget-table", caption, columns, rows, "No site has a budget.")


def _queries(samples: Samples) -> Table:
    sites = sorted({labels["site"] for labels, _ in samples.rows(_REQUESTS)})
    rows = []
    for site in sites:
        totals = [samples.total(_REQUESTS, site=site, outcome=o) for o in _OUTCOMES]
        rows.append((Cell(_named(site)), *(Cell(count(total)) for total in totals)))
    heads = [Column(outcome.capitalize(), is_number=True) for outcome in _OUTCOMES]
    columns = (Column("Site"), *heads)
    caption = "Queries that are in the log, by site and how they ended"
    return Table("query-table", caption, columns, rows, "There was no query yet.")


def _denials(samples: Samples) -> Table:
    rows = [
        (Cell(_named(labels["site"])), Cell(labels["reason"]), Cell(count(number)))
        for labels, number in _by_site(samples, "moma_teacher_denied_total")
        if number
    ]
    columns = (Column("Site"), Column("Reason"), Column("Denied", is_number=True))
    caption = "Denied queries, by site and reason"
    return Table("denial-table", caption, columns, rows, "Nothing was denied.")


def _audit_facts(audit: Audit | None, samples: Samples, now: datetime) -> list[Fact]:
    if audit is None:
        return [Fact("Log", "there is none yet")]
    mismatches = samples.value(_MISMATCHES) or 0.0
    checked = audit["verification"]
    said, is_good = "never: moma-server audit verify --config server.yaml", False
    if checked is not None:
        is_good = checked["outcome"] == "verified"
        said = f"{checked['outcome']} on {checked['at']}: {checked['sentence']}"
    return [
        Fact("Log", short(audit["log"])),
        Fact("Entries", count(audit["entries"])),
        Fact("Root of the newest checkpoint", audit["root"]),
        Fact("Signed", ago(audit["signed_at"], now)),
        Fact("Contradicted receipts", count(mismatches), "bad" if mismatches else ""),
        Fact("Last verification", short(said), "good" if is_good else "open"),
    ]


def _by_site(samples: Samples, name: str) -> list[tuple[Mapping[str, str], float]]:
    return sorted(samples.rows(name), key=lambda row: sorted(row[0].items()))


def _named(site: str) -> str:
    return short(site) or "nobody known"

"""The dashboard of a site: its run, losses, figures, teachers, and what left it."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import chain

from moma_client.config.site import SiteConfig
from moma_client.config.teacher import LocalTeacherSection
from moma_client.reports.student_report.history import loss_curves, round_figures
from moma_client.student.runs import RunFolder, list_runs
from moma_client.teacher.usage import read_all_queries
from moma_core.dashboard.certificates import certificate_alerts, certificate_panel
from moma_core.dashboard.view import (
    Alert,
    Cell,
    Column,
    Fact,
    Panel,
    Spark,
    Table,
    View,
    count,
    length,
    short,
)
from moma_core.metrics_http.registry import Registry, Samples
from moma_core.report_page.page import percent

_FIGURES = ("accuracy", "macro_f1", "kappa_unweighted", "kappa_quadratic")
_SPLITS = ("validation", "unseen")
_GRANTED = "moma_client_budget_patches"
_CHARGED = "moma_client_budget_charged_patches"
_MISMATCH = "moma_client_audit_mismatch_total"


def site_view(config: SiteConfig, registry: Registry, now: datetime) -> View:
    """Returns what a site shows of its own run, as it is now.

    Args:
        config: Settings of this site.
        registry: Its metrics, as its own page shows them.
        now: The present.
    """
    samples = Samples(registry)
    runs = list_runs(config)
    run = runs[-1] if runs else None
    alerts = [
        *_mismatch_alerts(samples),
        *certificate_alerts(samples, now, prefix="MomaSite"),
    ]
    return View(
        title=f"Site {config.site}",
        subtitle=f"moma-client in the federation {config.federation}; for this site "
        f"alone",
        alerts=sorted(alerts, key=lambda alert: alert.severity),
        panels=[
            _run_panel(config, run, samples),
            Panel("losses", "Losses", tables=(_losses(run, samples),)),
            Panel(
                "figures",
                "Figures",
                tables=(_figures(run),),
                note="Of this site's own patches, with the number of them. What of it "
                "the coordinator is told, moma-client egress lists.",
            ),
            Panel("teachers", "Teachers", tables=(_teachers(config, run, samples),)),
            Panel("egress", "What left this site", tables=_egress(samples)),
            certificate_panel(samples, now),
        ],
        made_at=now,
    )


def _run_panel(config: SiteConfig, run: RunFolder | None, samples: Samples) -> Panel:
    if run is None:
        note = "No round was asked of this site yet."
        return Panel("run", "Run", note=note)
    steps = samples.total("moma_client_step_duration_seconds_count", phase="step")
    seconds = samples.total("moma_client_step_duration_seconds_sum", phase="step")
    waited = samples.total("moma_client_teacher_wait_seconds_total")
    kept = samples.total("moma_client_patches_total", source="bank")
    asked = samples.total("moma_client_patches_total", source="teacher")
    best = run.best.text() if run.best else "no figure yet"
    return Panel(
        "run",
        "Run",
        facts=(
            Fact("Run", short(run.name or run.folder.name)),
            Fact("Rounds reported", count(run.rounds)),
            Fact("State", "finished" if run.is_over else "not finished"),
            Fact("Students", short(", ".join(run.students)) or "none yet"),
            Fact("Best figure", short(best)),
            Fact("Task", short(f"{config.task.organ}, {config.task.task}")),
            Fact("Steps since the start", count(steps)),
            Fact(
                "Mean time of a step", f"{seconds / steps:.3f} s" if steps else "none"
            ),
            Fact("Time of all steps", length(seconds)),
            Fact("Waited for teachers, in steps and before", length(waited)),
            Fact("From the teacher cache", _cache_text(kept, asked)),
        ),
        note="Times and counts are of this program since it was started.",
    )


def _cache_text(kept: float, asked: float) -> str:
    share = f" ({percent(kept / (kept + asked))})" if kept + asked else ""
    return f"{count(kept)} of {count(kept + asked)} patches{share}"


def _losses(run: RunFolder | None, samples: Samples) -> Table:
    """Returns each student's terms over its steps, from what its run keeps."""
    rows = []
    if run is not None:
        for method in run.students:
            for term, points in loss_curves(run.folder / method).items():
                rows.append(_loss_row(method, term, points))
    if not rows:  # before the first lines are kept
        rows = [
            (
                Cell("moma"),
                Cell(labels["term"]),
                Cell(f"{value:.4f}"),
                Cell(""),
                Cell(""),
            )
            for labels, value in samples.rows("moma_client_loss")
        ]
    columns = (
        Column("Student"),
        Column("Term"),
        Column("Newest", is_number=True),
        Column("Step", is_number=True),
        Column("Over the steps"),
    )
    caption = "Terms of the loss, by student"
    return Table("loss-table", caption, columns, rows, "No step was taken yet.")


def _loss_row(
    method: str, term: str, points: Sequence[tuple[int, float]]
) -> tuple[Cell, ...]:
    step, newest = points[-1]
    label = f"{term} loss of {method} over steps"
    return (
        Cell(short(method)),
        Cell(term),
        Cell(f"{newest:.4f}"),
        Cell(count(step)),
        Cell("", spark=Spark(points, label)),
    )


def _figures(run: RunFolder | None) -> Table:
    rows = list(chain.from_iterable(_figure_rows(run))) if run else []
    columns = (
        Column("Student"),
        Column("Split"),
        Column("Figure"),
        Column("Newest", is_number=True),
        Column("95 % interval", is_number=True),
        Column("n", is_number=True),
        Column("Round", is_number=True),
        Column("Over the rounds"),
    )
    caption = "Figures of the students, by split"
    return Table("figure-table", caption, columns, rows, "Nothing was measured yet.")


def _figure_rows(run: RunFolder) -> Iterator[list[tuple[Cell, ...]]]:
    for split in _SPLITS:
        for figure in _FIGURES:
            found = round_figures(run.folder, run.students, figure, split)
            yield [
                (
                    Cell(short(method)),
                    Cell(split),
                    Cell(figure),
                    Cell(f"{each[-1].value:.3f}"),
                    Cell(_interval(each[-1].low, each[-1].high)),
                    Cell("" if (n := each[-1].patches) is None else count(n)),
                    Cell(count(each[-1].round)),
                    Cell(
                        "",
                        spark=Spark(
                            [(one.round, one.value) for one in each],
                            f"{split} {figure} of {short(method)} over rounds",
                        ),
                    ),
                )
                for method, each in found.items()
            ]


def _interval(low: float | None, high: float | None) -> str:
    return "none" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def _teachers(config: SiteConfig, run: RunFolder | None, samples: Samples) -> Table:
    recorded = read_all_queries(config, run.folder) if run else {}
    rows = []
    for section in (each.teacher for each in config.each_teacher):
        if isinstance(section, LocalTeacherSection):
            continue  # nothing is asked of it
        name = section.name
        granted = samples.value(_GRANTED, teacher=name)
        charged = samples.value(_CHARGED, teacher=name)
        sent = samples.total("moma_client_teacher_patches_total", teacher=name)
        left = None
        if granted is not None and charged is not None:
            left = max(0.0, granted - charged)
        rows.append(
            (
                Cell(short(name)),
                Cell(count(sent)),
                Cell(count(recorded[name].asked) if name in recorded else "none yet"),
                Cell("not told" if granted is None else count(granted)),
                Cell("not told" if charged is None else count(charged)),
                Cell(
                    "not told" if left is None else count(left),
                    "bad" if left == 0 else "",
                ),
            )
        )
    columns = (
        Column("Teacher"),
        Column("Sent since the start", is_number=True),
        Column("Sent in the run", is_number=True),
        Column("Granted patches", is_number=True),
        Column("Charged", is_number=True),
        Column("Left", is_number=True),
    )
    caption = "Patches asked of each teacher, and the budget as it last told it"
    return Table(
        "teacher-table", caption, columns, rows, "No teacher is asked over a network."
    )


def _egress(samples: Samples) -> tuple[Table, ...]:
    sent = [
        (Cell(labels["channel"]), Cell(count(value)))
        for labels, value in samples.rows("moma_client_egress_bytes_total")
    ]
    blocked = [
        (Cell(labels["rule"]), Cell(count(value)))
        for labels, value in samples.rows("moma_client_egress_blocked_total")
    ]
    return (
        Table(
            "sent-table",
            "Bytes that left since the program was started, by channel",
            (Column("Channel"), Column("Bytes", is_number=True)),
            sent,
            "Nothing has left since the program was started.",
        ),
        Table(
            "blocked-table",
            "Items that the egress policy kept in, by rule",
            (Column("Rule"), Column("Items", is_number=True)),
            blocked,
            "Nothing was kept in by the egress policy.",
        ),
    )


def _mismatch_alerts(samples: Samples) -> Iterator[Alert]:
    for labels, value in samples.rows(_MISMATCH):
        if not value:
            continue
        if labels["reason"] == "signature":
            text = "States of a log came that its teacher did not sign; ignored."
            yield Alert("MomaSiteForgedCheckpoint", "warning", text)
        else:
            text = f"A teacher's log has shown two faces ({labels['reason']})."
            yield Alert("MomaSiteAuditMismatch", "critical", text)

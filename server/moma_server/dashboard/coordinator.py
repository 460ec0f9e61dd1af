"""A coordinator's panels: the run, its sites, its rounds, and what sites told."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from moma_core.dashboard.view import (
    Alert,
    Cell,
    Column,
    Fact,
    Panel,
    Spark,
    Table,
    Tone,
    ago,
    count,
    length,
    listed,
    moment,
    short,
)
from moma_core.metrics_http.registry import Samples

Run = Mapping[str, Any]
"""What `moma-server status --json` says under `run`."""

_DAY = 86_400
_SHOWN_ROUNDS = 12
_MOST_FIGURES = 400
_LAST_SEEN = "moma_site_last_seen_timestamp_seconds"
_TONES: Mapping[str, Tone] = {
    "took_part": "good",
    "completed": "good",
    "late": "open",
    "away": "open",
    "failed": "bad",
    "refused": "bad",
    "missed_quorum": "bad",
}


def panels(
    run: Run | None, links: Mapping[str, int] | None, samples: Samples, now: datetime
) -> list[Panel]:
    """Returns a coordinator's panels.

    Args:
        run: Status of the run; None: it never ran.
        links: Links of each teacher to the relay; None: there is no relay.
        samples: Of the server's metrics.
        now: The present.
    """
    if run is None:
        return [Panel("run", "Run", note="The run has never started.")]
    sites = _sites(run, samples, now)
    rounds = _rounds(run["history"])
    return [
        Panel("run", "Run", facts=_facts(run, links, now)),
        Panel("sites", "Sites", tables=(sites,)),
        Panel("rounds", "Rounds", tables=(rounds,)),
        Panel(
            "figures",
            "Told figures",
            tables=(_figures(run["history"]),),
            note="As each site's egress policy let them out: rounded, and of cohorts "
            "that are large enough. Sites tell a coordinator neither the cohort's size "
            "nor an interval, so small differences mean nothing here.",
        ),
    ]


def alerts(run: Run | None, samples: Samples, now: datetime) -> list[Alert]:
    """Returns what `deploy/prometheus` alerts of and one look can tell."""
    if run is None or run["outcome"] == "finished":
        return []
    missed = sum(
        record["kind"] == "train"
        and record["outcome"] == "missed_quorum"
        and now.timestamp() - record["started_at"] < _DAY
        for record in run["history"]
    )
    if run["outcome"] is not None:  # nothing more comes of sites that connect
        text = "The run has stopped: a round missed its quorum at every try."
        return [Alert("MomaRoundsFail", "warning", text)]
    found = list(_silent(samples, now))
    away = _away(run)
    if away:
        text = f"Registered sites are not connected: {listed(away)}."
        found.append(Alert("MomaSitesOffline", "info", text))
    if missed > 1:
        text = f"{missed} rounds missed their quorum within a day."
        found.append(Alert("MomaRoundsFail", "warning", text))
    return found


def _silent(samples: Samples, now: datetime) -> Iterator[Alert]:
    for labels, seen in samples.rows(_LAST_SEEN):
        silence = now.timestamp() - seen
        if silence > _DAY:
            text = f"{short(labels['site'])} answered last {length(silence)} ago."
            yield Alert("MomaSiteSilent", "warning", text)


def _away(run: Run) -> list[str]:
    return sorted(set(run["registered"]) - set(run["online"]))


def _facts(run: Run, links: Mapping[str, int] | None, now: datetime) -> list[Fact]:
    state, goes_on = run["outcome"] or "running", run["outcome"] is None
    online, registered = len(run["online"]), len(run["registered"])
    away = listed(_away(run))
    facts = [
        Fact("Run", short(run["run"])),
        Fact("Mode", run["mode"]),
        Fact("Rounds", f"{run['completed']} of {run['rounds']} completed"),
        Fact("State", state, "bad" if state == "stopped" else "good"),
        Fact("Waiting for" if goes_on else "What next", run["waiting"] or "nobody"),
        Fact("Connected", f"{online} of {registered} sites"),
        Fact("Not connected", away or "nobody", "open" if away and goes_on else ""),
        Fact("Looked at", ago(run["updated_at"], now)),
    ]
    if links is not None:
        linked = ", ".join(f"{name} ({n})" for name, n in sorted(links.items()))
        facts.append(Fact("Teachers at the relay", short(linked) or "none"))
    return facts


def _sites(run: Run, samples: Samples, now: datetime) -> Table:
    rounds = [record for record in run["history"] if record["kind"] == "train"]
    names = sorted({*run["registered"], *(s for r in rounds for s in r["sites"])})
    not_here: Tone = "open" if run["outcome"] is None else ""
    rows = []
    for name in names:
        entries = [r["sites"][name] for r in rounds if name in r["sites"]]
        last = entries[-1] if entries else None
        state = last["state"] if last else "not yet asked"
        is_online = name in run["online"]
        seen = samples.value(_LAST_SEEN, site=name)
        took_part = sum(entry["state"] == "took_part" for entry in entries)
        rows.append(
            (
                Cell(short(name)),
                Cell(
                    "connected" if is_online else "not connected",
                    "good" if is_online else not_here,
                ),
                Cell(state.replace("_", " "), _TONES.get(state, "")),
                Cell(f"{took_part} of {len(entries)}"),
                Cell(count(last["patches"]) if last else ""),
                Cell("never" if seen is None else ago(seen, now)),
            )
        )
    columns = (
        Column("Site"),
        Column("Now"),
        Column("Last round"),
        Column("Rounds took part", is_number=True),
        Column("Patches told", is_number=True),
        Column("Last answer"),
    )
    caption = "Sites, what became of them in the last round, and when they answered"
    return Table("site-table", caption, columns, rows, "No site is registered yet.")


def _rounds(history: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for record in reversed(history[-_SHOWN_ROUNDS:]):
        name = "closing" if record["kind"] == "close" else str(record["round"])
        if record["attempt"] > 1:
            name += f", try {record['attempt']}"
        rows.append(
            (
                Cell(name),
                Cell(
                    record["outcome"].replace("_", " "),
                    _TONES.get(record["outcome"], ""),
                ),
                Cell(moment(record["started_at"])),
                Cell(length(record["seconds"]), ""),
                Cell(_present(record)),
                Cell(_missing(record["sites"])),
            )
        )
    columns = (
        Column("Round"),
        Column("Outcome"),
        Column("Began"),
        Column("Lasted", is_number=True),
        Column("Took part"),
        Column("Did not"),
    )
    caption = f"The last rounds, the newest first, {_SHOWN_ROUNDS} at most"
    return Table("round-table", caption, columns, rows, "No round has ended yet.")


def _present(record: Mapping[str, Any]) -> str:
    """Returns how many took part of those who were asked, and who."""
    names = record["took_part"]
    counts = f"{len(names)} of {len(record['sites'])}"
    return f"{counts}: {listed(names)}" if names else counts


def _missing(sites: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns who did not take part, and why, as the record has it."""
    said = []
    for name, entry in sorted(sites.items()):
        if entry["state"] != "took_part":
            reason = f": {entry['reason']}" if entry["reason"] else ""
            said.append(f"{name} ({entry['state']}{reason})")
    return listed(said, "; ") or "nobody"


def _figures(history: Sequence[Mapping[str, Any]]) -> Table:
    """Returns a row for each figure of each site, with its course over the rounds."""
    by_figure: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for record in history:
        if record["kind"] != "train":
            continue
        for site, entry in record["sites"].items():
            for name, value in entry["metrics"].items():
                points = by_figure.setdefault((site, name), [])
                points.append((record["round"], value))
    rows = []
    for (site, name), points in sorted(by_figure.items())[:_MOST_FIGURES]:
        values = [value for _, value in points]
        label = f"{short(name)} of {short(site)} over rounds"
        rows.append(
            (
                Cell(short(site)),
                Cell(short(name)),
                Cell(f"{values[-1]:.3f}"),
                Cell(f"{min(values):.3f}"),
                Cell(f"{max(values):.3f}"),
                Cell(count(points[-1][0])),
                Cell("", spark=Spark(points, label)),
            )
        )
    columns = (
        Column("Site"),
        Column("Figure"),
        Column("Newest", is_number=True),
        Column("Lowest", is_number=True),
        Column("Highest", is_number=True),
        Column("Of round", is_number=True),
        Column("Over the rounds"),
    )
    caption = "Figures that sites told, by site and figure"
    return Table("figure-table", caption, columns, rows, "No site has told a figure.")

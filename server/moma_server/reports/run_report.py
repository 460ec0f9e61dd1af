"""A coordinator's report: rounds, who took part, disclosed figures, queries."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from moma_core.errors import ConfigError
from moma_core.federation.disclosure import figure_in_words, figure_name
from moma_core.report_page.charts import Chart, Line, line_chart, state_chart
from moma_core.report_page.page import named_run, render_page, write_report
from moma_core.runtime.cli import counted
from moma_core.teacher.card.card import TeacherCard
from moma_server.config.server import ServerConfig
from moma_server.federation.run.records import (
    RecordFile,
    RoundRecord,
    SiteState,
)
from moma_server.federation.run.state import StateFile, ended, load_state
from moma_server.state import budget_store, run_folder

_TEMPLATE = Path(__file__).with_name("report.html")
_STATES: dict[str, str] = {
    "took_part": "took part",
    "failed": "failed",
    "refused": "refused",
    "late": "late",
    "away": "away",
}
_IN_SHORT = (
    "unseen_accuracy",
    "unseen_macro_f1",
    "validation_accuracy",
    "validation_macro_f1",
)
_MOST_CHARTS = 24  # figures that have one; the table has them all


@dataclass(frozen=True, slots=True, eq=False)
class RunFacts:
    """What a coordinator knows of its run.

    Args:
        federation: Name of the federation.
        state: The run, its plan and its sites.
        records: Its rounds, oldest first; the last try of a round counts.
        end: The record that ended it; None: it goes on.
        budgets: Granted and charged patches by site, where this server has the
            teacher too; None: it has none, and does not know.
        teacher: Card of the teacher in this server; None: it has none, or none yet.
    """

    federation: str
    state: StateFile
    records: Sequence[RoundRecord]
    end: RoundRecord | None
    budgets: Mapping[str, tuple[int, int]] | None
    teacher: TeacherCard | None

    @property
    def rounds(self) -> list[RoundRecord]:
        """The training rounds, each once: its last try."""
        last = {each.round: each for each in self.records if each.kind == "train"}
        return [last[number] for number in sorted(last)]

    @property
    def sites(self) -> list[str]:
        """Every site that is registered or was in a round."""
        seen = {name for each in self.records for name in each.sites}
        return sorted(seen | set(self.state.registered))

    def figures(self) -> dict[str, dict[str, list[tuple[int, float]]]]:
        """Returns round and value by key of the figure, then by site."""
        found: dict[str, dict[str, list[tuple[int, float]]]] = {}
        for record in self.records:
            for site, entry in record.sites.items():
                for key, value in entry.metrics.items():
                    points = found.setdefault(key, {}).setdefault(site, [])
                    points.append((record.round, value))
        return {key: found[key] for key in sorted(found)}

    def log_sizes(self) -> dict[str, list[tuple[int, int]]]:
        """Returns round and entries of the teacher's log, as each site says."""
        found: dict[str, list[tuple[int, int]]] = {}
        for record in self.rounds:
            for site, entry in record.sites.items():
                if entry.checkpoint is not None:
                    point = (record.round, entry.checkpoint.size)
                    found.setdefault(site, []).append(point)
        return found


def write_run_report(config: ServerConfig, out: Path, *, now: datetime) -> list[Path]:
    """Returns the files that it wrote.

    Args:
        config: Settings of a server that coordinates.
        out: Folder to write to; it must be empty.
        now: Date that it bears.

    Raises:
        ConfigError: The server does not coordinate, its run has not begun, the
            card of its teacher cannot be read, or the folder holds something.
        CheckpointError: A record is damaged.
    """
    facts = _facts(config)
    charts = _charts(facts)
    values = {
        "facts": facts,
        "charts": charts,
        "sentences": list(_sentences(facts)),
        "words": _STATES,
        "counts": {site: _counts(facts, site) for site in facts.sites},
        "reasons": list(_reasons(facts)),
        "figures": facts.figures(),
        "last": _last(facts),
        "times": {each.round: _time(each) for each in facts.rounds},
        "run": named_run(facts.state.run),
        "in_words": figure_in_words,
        "now": now,
    }
    page = render_page(_TEMPLATE, values)
    drawn = [chart for group in charts.values() for chart in group]
    return write_report(out, page, drawn, _numbers(facts))


def _facts(config: ServerConfig) -> RunFacts:
    if config.coordinator is None:
        raise ConfigError(
            "this server coordinates no rounds: `report` is for the coordinator"
        )
    folder = run_folder(config, config.coordinator)
    state = load_state(folder)
    if state is None:
        raise ConfigError(f"run {config.coordinator.run} has not begun: no report yet")
    records = RecordFile(folder / "records.jsonl").read()
    own = [each for each in records if each.run == state.run and each.kind != "run"]
    return RunFacts(
        config.federation,
        state,
        own,
        ended(state, records),
        _budgets(config),
        _teacher_card(config),
    )


def _teacher_card(config: ServerConfig) -> TeacherCard | None:
    """Returns the card of the teacher in this server, once there is one."""
    section = config.teacher
    if section is None or not section.card.is_file():
        return None
    return TeacherCard.load(section.card)


def _budgets(config: ServerConfig) -> dict[str, tuple[int, int]] | None:
    if config.teacher is None:
        return None
    ledger = budget_store(config, config.teacher)
    try:
        return {
            site: (ledger.rules.granted(site), ledger.charged(site))
            for site in ledger.sites()
        }
    finally:
        ledger.close()


def _sentences(facts: RunFacts) -> Iterator[str]:
    """Yields how the run went."""
    rounds, plan = facts.rounds, facts.state.plan
    done = [each for each in rounds if each.outcome == "completed"]
    ended = "goes on" if facts.end is None else f"is {facts.end.outcome}"
    yield (
        f"{named_run(facts.state.run)} (mode {plan.mode}, quorum {plan.quorum}) "
        f"{ended}: {len(done)} of {plan.rounds} rounds are completed."
    )
    tries = sum(each.kind == "train" for each in facts.records) - len(rounds)
    if tries:
        yield f"{counted(tries, 'try', 'tries')} missed the quorum."
    for site in facts.sites:
        counts = _counts(facts, site)
        took_part = counts.get("took_part", 0)
        others = [
            f"{counted(counts[state], 'time', 'times')} {word}"
            for state, word in _STATES.items()
            if state != "took_part" and counts.get(state)
        ]
        beside = f"; {', '.join(others)}" if others else ""
        yield f"{site} took part in {took_part} of {len(rounds)} rounds{beside}."
    yield _taught(facts)
    yield from _last_figures(facts)


def _taught(facts: RunFacts) -> str:
    """Returns task and teacher, as far as a coordinator knows them."""
    card = facts.teacher
    if card is None:
        return (
            "Which task the sites train for, and from which teacher, stands in their "
            "own settings: a coordinator is not told."
        )
    return (
        f"This server is the teacher {card.name}, too: organ {card.organ}, task "
        f"{card.task}."
    )


def _last_figures(facts: RunFacts) -> Iterator[str]:
    """Yields the newest accuracy and macro-F1 of MoMA's students, site by site."""
    for key, by_site in _last(facts).items():
        if key in _IN_SHORT:
            values = [f"{site} {value:.3f}" for site, value in sorted(by_site.items())]
            yield f"Last disclosed, {figure_in_words(key)}: {', '.join(values)}."


def _title(key: str) -> str:
    words = figure_in_words(key)
    return words[0].upper() + words[1:]


def _counts(facts: RunFacts, site: str) -> Counter[str]:
    return Counter(
        each.sites[site].state for each in facts.rounds if site in each.sites
    )


def _reasons(facts: RunFacts) -> Iterator[tuple[int, str, str, str]]:
    """Yields round, site, state and what the site said, where it said why."""
    for record in facts.rounds:
        for site, entry in sorted(record.sites.items()):
            if entry.reason:
                yield record.round, site, _STATES[entry.state], entry.reason


def _last(facts: RunFacts) -> dict[str, dict[str, float]]:
    """Returns the newest value of each figure, by key and site."""
    return {
        key: {site: points[-1][1] for site, points in by_site.items()}
        for key, by_site in facts.figures().items()
    }


def _time(record: RoundRecord) -> str:
    begin = datetime.fromtimestamp(record.started_at, UTC)
    return begin.strftime("%Y-%m-%d %H:%M")


def _charts(facts: RunFacts) -> dict[str, list[Chart]]:
    """Returns the charts by the section that they stand in."""
    return {
        "rounds": [*_round_charts(facts)],
        "figures": [*_figure_charts(facts)],
        "queries": [*_query_charts(facts)],
    }


def _round_charts(facts: RunFacts) -> Iterator[Chart]:
    rounds = facts.rounds
    if not rounds or not facts.sites:
        return
    rows = {
        site: [each.sites[site].state if site in each.sites else "" for each in rounds]
        for site in facts.sites
    }
    yield Chart(
        "participation",
        "Who took part in which round",
        "A mark for each site and round; none where the site was not yet registered.",
        state_chart(rows, [str(each.round) for each in rounds], _STATES),
    )
    minutes = [each.seconds / 60 for each in rounds]
    yield Chart(
        "duration",
        "How long a round took",
        "From the first task to the record, with waiting.",
        line_chart(
            [Line("", [each.round for each in rounds], minutes)],
            across="round",
            up="minutes",
        ),
    )


def _figure_charts(facts: RunFacts) -> Iterator[Chart]:
    """Yields a chart for each figure that several rounds have."""
    drawn = 0
    for key, by_site in facts.figures().items():
        name = figure_name(key)
        if name is None or max(len(points) for points in by_site.values()) < 2:
            continue
        if drawn == _MOST_CHARTS:
            return
        drawn += 1
        lines = [
            Line(site, [at for at, _ in points], [value for _, value in points])
            for site, points in sorted(by_site.items())
        ]
        yield Chart(
            f"figure-{key}",
            _title(key),
            f"As each site disclosed it, on its own {name.split} patches, rounded.",
            line_chart(
                lines, across="round", up=name.figure, is_share=name.range == (0.0, 1.0)
            ),
        )


def _query_charts(facts: RunFacts) -> Iterator[Chart]:
    lines = [
        Line(site, [at for at, _ in points], [float(size) for _, size in points])
        for site, points in sorted(facts.log_sizes().items())
    ]
    if lines:
        yield Chart(
            "teacher-log",
            "Entries in the teacher's log",
            "As each site last saw it: queries of all sites of that teacher together. "
            "Sites with different teachers show different logs.",
            line_chart(lines, across="round", up="entries"),
        )


def _numbers(facts: RunFacts) -> dict[str, Any]:
    """Returns the report for a script."""
    return {
        "federation": facts.federation,
        "run": facts.state.run,
        "outcome": None if facts.end is None else facts.end.outcome,
        "rounds": [each.model_dump() for each in facts.rounds],
        "took_part": {
            site: {state: _counts(facts, site)[state] for state in get_args(SiteState)}
            for site in facts.sites
        },
        "figures": facts.figures(),
        "log_sizes": facts.log_sizes(),
        "budgets": facts.budgets,
    }

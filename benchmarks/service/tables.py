"""The figures as Markdown."""

from collections.abc import Sequence

from benchmarks.service.summary import Entry, Summary


def as_markdown(found: Summary) -> str:
    """Returns a table for each part that was measured."""
    tables = (
        table(
            "teacher | px | batch | under way | service | patches/s | of bare "
            "| p50, ms | p95, ms | CPU of a batch, ms: site | teacher | its books "
            "| relay | CPU of bare's",
            [_compared(entry) for entry in found["compared"]],
        ),
        table(
            "layer | px | batch | queries a commit | CPU of a query, ms",
            [
                (
                    entry["layer"],
                    entry["side_px"],
                    entry["batch"],
                    entry["together"],
                    _figure(entry["cpu_ms"], 2),
                )
                for entry in found["layers"]
            ],
        ),
        table(
            "streams | queries/s | operations a commit",
            [
                (
                    entry["streams"],
                    _figure(entry["queries_per_second"], 0),
                    _figure(entry["operations_per_commit"], 1),
                )
                for entry in found["grouped"]
            ],
        ),
        table(
            "queries | s | resident, MiB",
            [
                (entry["queries"], entry["seconds"], entry["resident_mib"])
                for entry in found["memory"]
            ],
        ),
    )
    return "\n\n".join(filter(None, tables))


def _compared(entry: Entry) -> tuple[str, ...]:
    times = (
        "site_cpu_ms",
        "service_cpu_ms",
        "books_cpu_ms",
        "relay_cpu_ms",
    )
    return (
        entry["model"],
        entry["side_px"],
        entry["batch"],
        entry["in_flight"],
        entry["service"],
        _figure(entry["patches_per_second"], 0),
        _figure(entry["of_bare"], 2),
        f"{entry['p50_ms']['median']:.1f}",
        f"{entry['p95_ms']['median']:.1f}",
        *(f"{entry[name]['median']:.1f}" for name in times),
        _figure(entry["cpu_of_bare"], 2),
    )


def _figure(spread: Entry, digits: int) -> str:
    """Returns median and quartiles."""
    low, median, high = (spread[name] for name in ("low", "median", "high"))
    return f"{median:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def table(head: str, rows: Sequence[Sequence[object]]) -> str:
    """Returns rows under the columns of a head, as Markdown; empty without rows."""
    if not rows:
        return ""
    columns = head.split(" | ")
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)

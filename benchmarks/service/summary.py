"""From the raw rows to the figures of each comparison."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np

from benchmarks.csv_file import Line
from benchmarks.service.driving import WARM_BATCHES
from benchmarks.service.trials import SERVICES

Entry = dict[str, Any]
Summary = dict[str, list[Entry]]
Group = tuple[str, ...]

_LOAD = ("model", "side_px", "batch", "in_flight")


def summary(lines: Iterable[Line]) -> Summary:
    """Returns the entries of `compared`, `layers`, `grouped` and `memory`."""
    rows = list({line["key"]: line for line in lines}.values())  # the newest
    return {
        "compared": _compared(rows),
        "layers": _layers(rows),
        "grouped": _grouped(rows),
        "memory": _memory(rows),
    }


def _compared(rows: list[Line]) -> list[Entry]:
    """Holds each service against the bare one of the same repetition."""
    loads: defaultdict[Group, defaultdict[str, dict[str, Line]]]
    loads = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        if row["part"] == "compared":
            group = tuple(row[name] for name in _LOAD)
            loads[group][row["service"]][row["repetition"]] = row
    return [
        _entry(group, service, services[service], services["bare"])
        for group, services in loads.items()
        for service in SERVICES
        if service in services
    ]


def _entry(
    group: Group, service: str, own: dict[str, Line], bare: dict[str, Line]
) -> Entry:
    shared = sorted(own.keys() & bare.keys())
    rates = {number: _rate(line) for number, line in own.items()}
    ratios = [rates[number] / _rate(bare[number]) for number in shared]
    slower = [float(own[n]["p50_ms"]) - float(bare[n]["p50_ms"]) for n in shared]
    mine, others = (_cpu(lines) for lines in (own, bare))
    return {
        **dict(zip(_LOAD, group, strict=True)),
        "service": service,
        "repetitions": len(own),
        "patches_per_second": _spread(rates.values()),
        "of_bare": _spread(ratios),
        "p50_ms": _spread(float(line["p50_ms"]) for line in own.values()),
        "p95_ms": _spread(float(line["p95_ms"]) for line in own.values()),
        "p50_over_bare_ms": _spread(slower),
        "site_cpu_ms": _spread(_each(own, "site_cpu")),
        "service_cpu_ms": _spread(_each(own, "service_cpu")),
        "books_cpu_ms": _spread(_each(own, "books_cpu")),
        "relay_cpu_ms": _spread(_each(own, "relay_cpu")),
        "cpu_of_bare": _spread(others[n] / mine[n] for n in shared if mine[n]),
    }


def _rate(line: Line) -> float:
    """Returns patches a second."""
    return int(line["batches"]) * int(line["batch"]) / float(line["seconds"])


def _each(lines: dict[str, Line], name: str) -> list[float]:
    """Returns milliseconds for each batch."""
    return [1000 * _of_batch(line, name) for line in lines.values()]


def _cpu(lines: dict[str, Line]) -> dict[str, float]:
    """Returns CPU seconds of site, teacher and relay for each batch."""
    names = ("site_cpu", "service_cpu", "relay_cpu")
    return {
        number: sum(_of_batch(line, name) for name in names)
        for number, line in lines.items()
    }


def _of_batch(line: Line, name: str) -> float:
    batches = int(line["batches"]) + (0 if name == "site_cpu" else WARM_BATCHES)
    return float(line[name] or 0) / batches


def _layers(rows: list[Line]) -> list[Entry]:
    found: defaultdict[Group, list[float]] = defaultdict(list)
    for row in rows:
        if row["part"] == "layers":
            group = (row["service"], row["side_px"], row["batch"], row["streams"])
            found[group].append(1000 * float(row["service_cpu"]))
    return [
        {
            "layer": layer,
            "side_px": side_px,
            "batch": batch,
            "together": group,
            "cpu_ms": _spread(values),
        }
        for (layer, side_px, batch, group), values in found.items()
    ]


def _grouped(rows: list[Line]) -> list[Entry]:
    found: defaultdict[str, list[Line]] = defaultdict(list)
    for row in rows:
        if row["part"] == "grouped":
            found[row["streams"]].append(row)
    return [
        {
            "streams": streams,
            "queries_per_second": _spread(map(_rate, lines)),
            "operations_per_commit": _spread(
                # a query is two operations: one that reserves, one with the entry
                2 * int(line["entries"]) / int(line["commits"])
                for line in lines
            ),
        }
        for streams, lines in found.items()
    ]


def _memory(rows: list[Line]) -> list[Entry]:
    entries, queries, seconds = [], 0, 0.0
    for row in rows:
        if row["part"] == "memory":
            queries += int(row["batches"])
            seconds += float(row["seconds"])
            entries.append(
                {
                    "queries": queries,
                    "seconds": round(seconds),
                    "resident_mib": float(row["resident_mib"]),
                }
            )
    return entries


def _spread(values: Iterable[float]) -> Entry:
    """Returns median and quartiles."""
    found = np.fromiter(values, dtype=float)
    if not len(found):
        return {"median": float("nan"), "low": float("nan"), "high": float("nan")}
    low, median, high = np.quantile(found, (0.25, 0.5, 0.75))
    return {"median": float(median), "low": float(low), "high": float(high)}

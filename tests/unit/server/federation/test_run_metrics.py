"""Records as metrics: rebuilt after a restart, and bounded whatever a site sends."""

from pathlib import Path

from prometheus_client import CollectorRegistry

from moma_server.federation.run.metrics import RoundMetrics
from moma_server.federation.run.records import RecordFile, RoundRecord, SiteEntry
from moma_server.metrics.metrics import FederationMetrics


def record(number: int, **sites: SiteEntry) -> RoundRecord:
    return RoundRecord(
        kind="train",
        run="r1",
        round=number,
        outcome="completed",
        started_at=1.0,
        seconds=2.0,
        sites=sites,
    )


def took_part(**metrics: float) -> SiteEntry:
    return SiteEntry(state="took_part", metrics=metrics, answered_at=77.0)


def test_metrics_show_the_newest_round_and_count_all(tmp_path: Path) -> None:
    records = RecordFile(tmp_path / "records.jsonl")
    registry = CollectorRegistry()
    watch = RoundMetrics(records, FederationMetrics(registry))
    records.append(record(1, a=took_part(loss=0.5), b=took_part(loss=0.4)))
    watch.update()

    records.append(record(2, a=took_part(loss=0.3), b=SiteEntry(state="away")))
    watch.update()
    watch.show_nodes(["a", "b"], ["a"])

    value = registry.get_sample_value
    assert value("moma_federation_rounds_total", {"outcome": "completed"}) == 2
    assert value("moma_federation_round_duration_seconds_count") == 2
    assert value("moma_federation_sites", {"state": "took_part"}) == 1
    assert value("moma_federation_sites", {"state": "away"}) == 1
    assert value("moma_federation_sites", {"state": "online"}) == 1
    assert value("moma_site_metric", {"site": "a", "metric": "loss"}) == 0.3
    assert value("moma_site_last_seen_timestamp_seconds", {"site": "b"}) == 77.0


def test_a_restart_loses_no_count(tmp_path: Path) -> None:
    records = RecordFile(tmp_path / "records.jsonl")
    for number in range(1, 4):
        records.append(record(number, a=took_part()))
    registry = CollectorRegistry()

    RoundMetrics(records, FederationMetrics(registry)).update()

    rounds = registry.get_sample_value(
        "moma_federation_rounds_total", {"outcome": "completed"}
    )
    assert rounds == 3


def test_a_site_cannot_make_series_without_end(tmp_path: Path) -> None:
    records = RecordFile(tmp_path / "records.jsonl")
    registry = CollectorRegistry()
    watch = RoundMetrics(records, FederationMetrics(registry))

    for number in range(1, 5):
        names = {f"m{number}x{i}": 1.0 for i in range(40)}
        records.append(record(number, a=took_part(**names)))
    watch.update()

    shown = [
        sample
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "moma_site_metric"
    ]
    assert len(shown) == 64


def test_a_metric_without_a_proper_name_is_not_shown(tmp_path: Path) -> None:
    records = RecordFile(tmp_path / "records.jsonl")
    registry = CollectorRegistry()
    records.append(record(1, a=took_part(**{"patient 4711": 1.0, "loss": 2.0})))

    RoundMetrics(records, FederationMetrics(registry)).update()

    labels = {"site": "a", "metric": "patient 4711"}
    assert registry.get_sample_value("moma_site_metric", labels) is None
    assert (
        registry.get_sample_value("moma_site_metric", {"site": "a", "metric": "loss"})
        == 2.0
    )

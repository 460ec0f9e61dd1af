from prometheus_client import CollectorRegistry

from moma_client.metrics import ClientMetrics, register_build


def test_the_metrics_have_the_names_of_the_contract() -> None:
    registry = CollectorRegistry()
    metrics = ClientMetrics(registry)
    register_build(registry, "1.2.3")

    metrics.step_seconds.labels(phase="student").observe(0.1)
    metrics.loss.labels(term="contrastive").set(2.5)
    metrics.patches.labels(source="teacher").inc(16)
    metrics.egress_bytes.labels(channel="teacher").inc(100)
    metrics.egress_blocked.labels(rule="metric").inc()
    metrics.teacher_wait_seconds.inc(0.5)

    value = registry.get_sample_value
    step_count = "moma_client_step_duration_seconds_count"
    assert value(step_count, {"phase": "student"}) == 1
    assert value("moma_client_loss", {"term": "contrastive"}) == 2.5
    assert value("moma_client_patches_total", {"source": "teacher"}) == 16
    assert value("moma_client_egress_bytes_total", {"channel": "teacher"}) == 100
    assert value("moma_client_egress_blocked_total", {"rule": "metric"}) == 1
    assert value("moma_client_teacher_wait_seconds_total") == 0.5
    assert value("moma_build_info", {"version": "1.2.3"}) == 1

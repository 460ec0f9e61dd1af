from prometheus_client import CollectorRegistry

from moma_client.metrics import ClientMetrics
from moma_core.metrics_http.registry import register_build


def test_the_metrics_have_the_names_of_the_contract() -> None:
    registry = CollectorRegistry()
    metrics = ClientMetrics(registry)
    register_build(registry, "1.2.3")

    metrics.step_seconds.labels(phase="student").observe(0.1)
    metrics.loss.labels(term="contrastive").set(2.5)
    metrics.count_sent("teacher-a", 16)
    metrics.egress_bytes.labels(channel="teacher").inc(100)
    metrics.egress_blocked.labels(rule="metric").inc()
    metrics.teacher_wait_seconds.inc(0.5)

    value = registry.get_sample_value
    step_count = "moma_client_step_duration_seconds_count"
    assert value(step_count, {"phase": "student"}) == 1
    assert value("moma_client_loss", {"term": "contrastive"}) == 2.5
    assert value("moma_client_patches_total", {"source": "teacher"}) == 16
    assert value("moma_client_teacher_patches_total", {"teacher": "teacher-a"}) == 16
    assert value("moma_client_egress_bytes_total", {"channel": "teacher"}) == 100
    assert value("moma_client_egress_blocked_total", {"rule": "metric"}) == 1
    assert value("moma_client_teacher_wait_seconds_total") == 0.5
    assert value("moma_build_info", {"version": "1.2.3"}) == 1


def test_what_another_process_sent_is_added_for_its_teacher() -> None:
    here, there = ClientMetrics(CollectorRegistry()), ClientMetrics(CollectorRegistry())
    here.count_sent("teacher-a", 1)
    there.count_sent("teacher-a", 2)
    there.count_sent("teacher-b", 4)

    here.add(there.counts())

    assert (here.sent_to("teacher-a"), here.sent_to("teacher-b")) == (3, 4)
    assert here.counts().patches == 7

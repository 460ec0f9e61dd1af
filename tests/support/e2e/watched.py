"""A federation's servers whose metrics Prometheus may read, and what it should read."""

from collections import Counter

from moma_core.audit.tables import read_totals
from moma_core.pki.key_files import open_key
from moma_core.runtime.files import write_private
from moma_server.config.server import ServerConfig
from moma_server.metrics.metrics import SampleKey, sample_key
from moma_server.state import open_ledger
from tests.support.e2e.programs import until
from tests.support.e2e.world import TEACHER, World
from tests.support.machine.metrics_page import TOKEN
from tests.support.machine.prometheus import Prometheus

TEACHER_JOB = "moma-teacher"

_START_SECONDS = 240.0


def guard_teacher_page(world: World) -> None:
    """Has the teacher show its metrics as the shipped configuration asks for them."""
    folder, section = world.folder / "teacher", world.teacher_config().teacher
    assert section is not None
    write_private(folder / "metrics.token", TOKEN)
    key = open_key(section.identity.key, section.identity.passphrase_file)
    write_private(folder / "metrics.key", key)
    world.configure(
        "teacher",
        metrics={
            "certificate": "teacher.pem",
            "key": "metrics.key",
            "token_file": "metrics.token",
        },
    )


def teacher_sample(name: str, site: str, **labels: str) -> SampleKey:
    """Returns how a counter of the teacher's is named for a site."""
    return sample_key(
        f"moma_teacher_{name}_total", site=site, teacher=TEACHER, **labels
    )


def logged_numbers(config: ServerConfig) -> dict[SampleKey, float]:
    """Returns the samples that the audit log vouches for."""
    assert config.teacher is not None
    numbers: Counter[SampleKey] = Counter()
    with open_ledger(config, config.teacher) as ledger:
        totals = ledger.read(read_totals)
    for (site, outcome, reason), (entries, charged) in totals.items():
        numbers[teacher_sample("patches", site)] += charged
        numbers[teacher_sample("requests", site, outcome=outcome)] += entries
        if reason:
            numbers[teacher_sample("denied", site, reason=reason)] += entries
    return {key: float(value) for key, value in numbers.items() if value}


def teacher_is_scraped(prometheus: Prometheus) -> None:
    """Waits until the teacher that was started is scraped and serves."""
    until(
        lambda: (
            prometheus.asked("query", query="moma_teacher_inflight_requests")
            and prometheus.up(TEACHER_JOB)
        ),
        seconds=_START_SECONDS,
        what="the server is scraped",
    )

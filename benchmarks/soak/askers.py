"""Sites that ask without an end, each in a thread, and what came of it."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.service.askers import Asker
from benchmarks.service.driving import Load, Patches
from benchmarks.service.federation import HOST, Federation
from benchmarks.service.sites import sealed_asker
from moma_core.errors import MomaError

_START_SECONDS = 120.0
_HEALTH_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Asked:
    """What came of a while of asking.

    Args:
        answered: Batches.
        faults: What a site read in place of an answer.
        latencies: Of each batch, seconds.
    """

    answered: int
    faults: tuple[str, ...]
    latencies: tuple[float, ...]

    def latency_ms(self, quantile: float) -> float:
        """Returns the latency under which a share of the batches was."""
        if not self.latencies:
            return float("nan")
        return round(1000 * float(np.quantile(self.latencies, quantile)), 1)


class AskingSites:
    """Asks as several sites at once until it is stopped.

    Args:
        federation: Their keys.
        port: Of the teacher.
        sites: Their names; one that comes twice has as many streams.
        load: What each asks at once.
        pause_seconds: Between an answer and the next question.
        relayed: Whether the port is a relay's.
    """

    def __init__(
        self,
        federation: Federation,
        port: int,
        sites: Sequence[str],
        load: Load,
        pause_seconds: float = 0.0,
        *,
        relayed: bool = False,
    ) -> None:
        self._federation, self._port, self._load = federation, port, load
        self._relayed = relayed
        self._pause_seconds = pause_seconds
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._begun = threading.Semaphore(0)
        self._latencies: list[float] = []
        self._faults: list[str] = []
        self._threads = [
            threading.Thread(target=self._run, args=(site,), name=f"asker-{place}")
            for place, site in enumerate(sites)
        ]

    def start(self) -> None:
        """Begins; returns when each site was answered once."""
        for thread in self._threads:
            thread.start()
        for _ in self._threads:
            self._begun.acquire(timeout=_START_SECONDS)
        with self._lock:
            self._latencies = []  # and no fault: a site that cannot begin is seen

    def taken(self) -> Asked:
        """Returns what came since the last look."""
        with self._lock:
            latencies, self._latencies = self._latencies, []
            faults, self._faults = self._faults, []
        return Asked(len(latencies), tuple(faults), tuple(latencies))

    def stop(self) -> None:
        """Asks nothing more, and waits for what was asked."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, site: str) -> None:
        try:
            with sealed_asker(
                self._federation,
                self._port,
                logged=True,
                relayed=self._relayed,
                site=site,
            ) as asker:
                self._ask(asker)
        except MomaError as error:
            with self._lock:
                self._faults.append(f"{type(error).__name__}: {error}")
        finally:
            self._begun.release()

    def _ask(self, asker: Asker) -> None:
        batches = iter(Patches(self._load))
        asked: list[float] = []
        while not self._stop.is_set():
            while len(asked) < self._load.in_flight:
                asked.append(time.perf_counter())
                asker.ask(next(batches))
            asker.answer()
            with self._lock:
                self._latencies.append(time.perf_counter() - asked.pop(0))
            self._begun.release()
            self._stop.wait(self._pause_seconds)
        for _ in asked:
            asker.answer()


@contextmanager
def asking(sites: AskingSites) -> Iterator[AskingSites]:
    """Has sites ask while the block runs."""
    sites.start()
    try:
        yield sites
    finally:
        sites.stop()


class HealthLook:
    """Looks at the teacher's health, as a probe does.

    Args:
        federation: Keys of a site that may look.
        port: Of the teacher.
        site: Who looks.
    """

    def __init__(self, federation: Federation, port: int, site: str) -> None:
        files = federation.files(site)
        credentials = grpc.ssl_channel_credentials(
            files.authority.read_bytes(),
            files.key.read_bytes(),
            files.certificate.read_bytes(),
        )
        self._stack = ExitStack()
        channel = grpc.secure_channel(f"{HOST}:{port}", credentials)
        self._stub = health_pb2_grpc.HealthStub(self._stack.enter_context(channel))

    def is_serving(self) -> bool:
        """Whether the teacher says that it serves."""
        request = health_pb2.HealthCheckRequest()
        try:
            found = self._stub.Check(request, timeout=_HEALTH_SECONDS)
        except grpc.RpcError:
            return False
        return bool(found.status == health_pb2.HealthCheckResponse.SERVING)

    def close(self) -> None:
        """Hangs up."""
        self._stack.close()

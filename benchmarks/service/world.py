"""All services of one teacher, running side by side, and a site that asks them."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.service.askers import Asker, LocalAsker
from benchmarks.service.backends import backend_of
from benchmarks.service.federation import Federation
from benchmarks.service.processes import Served, ServiceProcess, Usage, serving
from benchmarks.service.sites import bare_asker, sealed_asker, site_asker
from moma_server.teacher.inference.backend import TeacherBackend
from moma_server.teacher.settings import TeacherServerSettings, description_of

_NOTHING_USED = Usage(0.0)


@dataclass(frozen=True, slots=True)
class World:
    """What is asked.

    Args:
        federation: The keys.
        backend: The teacher's model, in this process.
        bare: Answers, and no more.
        sealed: Opens and seals as well.
        whole: Does all that `moma-server` does, and is linked to the relay.
        relay: The coordinator's.
    """

    federation: Federation
    backend: TeacherBackend
    bare: ServiceProcess
    sealed: ServiceProcess
    whole: ServiceProcess
    relay: ServiceProcess

    def asker(self, service: str) -> AbstractContextManager[Asker]:
        """Returns a new connection to a service, see `trials.SERVICES`."""
        keys = self.federation
        if service == "local":
            return nullcontext(LocalAsker(self.backend))
        if service == "bare":
            bounds = description_of(TeacherServerSettings(), self.backend).bounds
            return bare_asker(keys, self.backend, self.bare.port, bounds.max_patches)
        if service == "sealed":
            return sealed_asker(keys, self.sealed.port, logged=False)
        if service == "relayed":
            return sealed_asker(keys, self.relay.port, logged=True, relayed=True)
        if service == "site":
            return site_asker(keys, self.whole.port)
        return sealed_asker(keys, self.whole.port, logged=True)

    def usage(self, service: str) -> tuple[Usage, Usage]:
        """Returns what the teacher and the relay of a service used so far."""
        if service == "local":
            return _NOTHING_USED, _NOTHING_USED
        if service in ("bare", "sealed"):
            process = self.bare if service == "bare" else self.sealed
            return process.usage(), _NOTHING_USED
        return self.whole.usage(), self.relay.usage()


@contextmanager
def world_of(model: str, side_px: int, work: Path) -> Iterator[World]:
    """Runs all services while the block does.

    Args:
        model: A timm name, or `backends.NOTHING`.
        side_px: Of a patch.
        work: Where keys, budgets and logs lie for that time.
    """
    with TemporaryDirectory(dir=work) as folder, ExitStack() as stack:
        keys = Federation.create(Path(folder) / "federation")
        relay = stack.enter_context(serving(keys, Served("relay")))
        bare, sealed, whole = (
            stack.enter_context(serving(keys, served))
            for served in (
                Served("bare", model, side_px),
                Served("sealed", model, side_px),
                Served("whole", model, side_px, relay_port=relay.port),
            )
        )
        yield World(keys, backend_of(model, side_px), bare, sealed, whole, relay)

"""The doctor's look at how a site reaches its coordinator: proxy, ports, the run.

Each link is tried as a run makes it, through the proxy where one is on the way.
"""

import socket
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime

from moma_client.config.site import SiteConfig
from moma_client.egress.to_coordinator import round_bounds
from moma_client.federation.run_state import request_run_state
from moma_client.identity.node import node_settings
from moma_core.errors import (
    ConfigError,
    FederationError,
    MomaError,
    NotAuthorizedError,
)
from moma_core.federation.disclosure import plan_refusal
from moma_core.federation.run_state import RunState
from moma_core.metrics_http.config import PageSection
from moma_core.network.proxy import NONE
from moma_core.pki.identity import read_peer
from moma_core.pki.tls_probe import LOOK_SECONDS, Service, shown_certificate
from moma_core.runtime.finding import Finding


def look_at_coordinator(config: SiteConfig) -> Iterator[Finding]:
    """Yields whether the coordinator answers over TLS as itself, port by port.

    Raises:
        MomaError: The way there cannot be told from the config.
    """
    if config.network.proxy != NONE:
        yield _proxy(config)
    section = config.coordinator
    rounds = _port(config, "coordinator", "rounds", section.address)
    yield rounds
    if rounds.state == "ok":
        yield from _run(config)
    if section.enrolment is not None:
        yield _port(config, "enrolment", "enrolment", section.enrolment)


def look_at_pages(config: SiteConfig) -> Iterator[Finding]:
    """Yields pages of this site whose port is taken."""
    pages: dict[str, PageSection | None] = {
        "metrics": config.metrics,
        "dashboard": config.dashboard,
    }
    shown = {key: page for key, page in pages.items() if page and page.port}
    free = []
    for key, page in shown.items():
        try:
            _listening(page).close()
        except OSError as error:
            text = (
                f"{key}.port {page.port} cannot be opened at {page.host}: "
                f"{error.strerror}; unless this site's own moma-client has it, which "
                f"runs already, write another one"
            )
            yield Finding("ports", "warning", text)
        else:
            free.append(page)
    if len(free) == len(pages) and _collide(*free):
        text = (
            f"metrics.port and dashboard.port are both {config.metrics.port}: write "
            f"another one for one of them"
        )
        yield Finding("ports", "problem", text)


def _collide(one: PageSection, other: PageSection) -> bool:
    """Whether two pages, each of which can be opened, cannot be open together."""
    with _listening(one):
        try:
            _listening(other).close()
        except OSError:
            return True
    return False


def _listening(page: PageSection) -> socket.socket:
    family = socket.AF_INET6 if ":" in page.host else socket.AF_INET
    return socket.create_server((page.host, page.port), family=family)


def _proxy(config: SiteConfig) -> Finding:
    """Returns through which proxy the rounds go; each link then tells how that went."""
    route = config.network.rule().route(config.coordinator.address)
    if route is None:
        text = "network.proxy: environment, and no proxy is on the way to the rounds"
        return Finding("network", "ok", text)
    return Finding("network", "ok", f"links go through {route}")


def _port(config: SiteConfig, check: str, service: Service, address: str) -> Finding:
    """Returns whether the coordinator answers at one of its ports, and as this one."""
    key = "address" if service == "rounds" else service
    try:
        shown = shown_certificate(
            address,
            _authority(config),
            seconds=LOOK_SECONDS,
            proxy=config.network.rule(),
            service=service,
        )
    except NotAuthorizedError as error:
        return Finding(check, "problem", str(error))
    except FederationError as error:
        text = (
            f"{error} (coordinator.{key}); ask its operator whether it runs, and at "
            f"which port it serves {service}"
        )
        # a run goes on without the enrolment, until its certificate ends
        return Finding(check, "problem" if service == "rounds" else "warning", text)
    except ConfigError as error:
        return Finding(check, "problem", f"{error} (coordinator.{key})")
    peer = read_peer(shown)
    if (peer.federation, peer.kind) != (config.federation, "coordinator"):
        text = f"{address} is {peer} of {peer.federation}"
        return Finding(check, "problem", text)
    return Finding(check, "ok", f"{address} answers over TLS 1.3")


def _run(config: SiteConfig) -> Iterator[Finding]:
    """Yields how the run stands, where the coordinator says it to this site."""
    with suppress(MomaError):
        state = request_run_state(node_settings(config))
        if state is not None:
            goes_on = state.phase not in ("over", "stopped")
            text = state.sentence(datetime.now().astimezone())
            yield Finding("run", "ok" if goes_on else "warning", text)
            if goes_on:
                yield from look_at_plan(config, state)


def look_at_plan(config: SiteConfig, state: RunState) -> Iterator[Finding]:
    """Yields why this site would refuse the plan of a run, if it would.

    A coordinator of an earlier release does not say the epochs, so nothing is compared.
    """
    if state.local_epochs is None:
        return
    bounds = round_bounds(config)
    refusal = plan_refusal(state.rounds, state.local_epochs, bounds)
    if refusal is not None:
        text = f"this site refuses each round of the plan: {refusal.own_sentence}"
        yield Finding("plan", "problem", text)


def _authority(config: SiteConfig) -> bytes:
    try:
        return config.identity.authority.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read identity.authority: {error}") from None

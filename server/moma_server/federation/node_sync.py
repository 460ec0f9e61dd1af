"""Who belongs to the federation: the same for SuperLink, the edge and the run."""

import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from moma_core.errors import CertificateError, FederationError
from moma_core.runtime.files import write_private
from moma_server.federation.edge.authentication import KnownNode
from moma_server.federation.engine.control import Control, FlowerNode, key_bytes
from moma_server.membership.members import is_blank, read_sites

_logger = logging.getLogger(__name__)


class Membership:
    """Keeps SuperLink and the edge to the registry.

    Args:
        registry: Folder of the sites' node keys.
        nodes_file: Where the run finds site -> node id.
        know: Tells the edge whom to serve.
    """

    def __init__(
        self,
        registry: Path,
        *,
        nodes_file: Path,
        know: Callable[[Iterable[KnownNode]], None],
    ) -> None:
        self._registry = registry
        self._nodes_file = nodes_file
        self._know = know
        self._warned: set[str] = set()

    def sync(self, control: Control) -> dict[str, FlowerNode]:
        """Makes SuperLink know the registry's sites, and no others.

        Raises:
            FederationError: The registry is lost, or SuperLink did not answer.
        """
        sites = read_sites(self._registry)
        known = control.nodes()
        if known and is_blank(self._registry):
            # not mounted, perhaps; whoever is shut out needs a new key for ever
            raise FederationError(
                f"{self._registry} holds nothing, which shuts nobody out"
            )
        nodes, callers = {}, []
        for site, openssh in sites.items():
            try:
                key = key_bytes(openssh)
                nodes[site] = known.pop(key) if key in known else control.register(key)
                callers.append(KnownNode(site, nodes[site].node_id, key))
            except (CertificateError, FederationError) as error:
                self._warn_once(site, f"{site} is left out: {error}")
        self._know(callers)
        for stranger in known.values():
            control.unregister(stranger.node_id)
        ids = {site: node.node_id for site, node in nodes.items()}
        write_private(self._nodes_file, json.dumps(ids).encode())
        return nodes

    def _warn_once(self, site: str, message: str) -> None:
        if site not in self._warned:
            self._warned.add(site)
            _logger.warning("%s", message)

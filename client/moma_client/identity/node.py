"""From a site's config to what its node shows the coordinator, and by which way."""

from moma_client.config.site import SiteConfig
from moma_client.federation.node import NodeSettings
from moma_client.identity.revocations import revoked_file


def node_settings(config: SiteConfig) -> NodeSettings:
    """Returns the settings of a site's node."""
    return NodeSettings(
        address=config.coordinator.address,
        ca_certificate=config.identity.authority,
        node_key=config.identity.node_key,
        passphrase_file=config.identity.passphrase_file,
        folder=config.state_dir / "node",
        revoked=revoked_file(config),
        proxy=config.network.rule(),
        give_up_seconds=3600 * config.coordinator.give_up_hours,
    )

"""Makes a site's folder: its keys, its signing request, its config file.

Keys are made here and stay here; what leaves by hand is `site.csr` and `node.pub`.
"""

from importlib.resources import files
from pathlib import Path
from string import Template

from pydantic import Field

from moma_client.config import ADDRESS
from moma_core.config import Section
from moma_core.errors import ConfigError
from moma_core.federation.node_key import create_node_key
from moma_core.trust.certificates import create_key, create_request
from moma_core.trust.files import write_private
from moma_core.trust.names import FEDERATION_PATTERN, NAME_PATTERN, PeerName
from moma_core.trust.signing import FINGERPRINT_PATTERN, SigningKey


class SitePlace(Section):
    """Where a new site belongs.

    Args:
        site: Its name.
        federation: The federation's name.
        coordinator: host:port.
        teacher: The teacher's name.
        teacher_address: host:port.
        teacher_key: The teacher's fingerprint; without it the config is not valid yet.
    """

    site: str = Field(pattern=NAME_PATTERN)
    federation: str = Field(default="moma", pattern=FEDERATION_PATTERN)
    coordinator: str = Field(default="coordinator.example:8443", pattern=ADDRESS)
    teacher: str = Field(default="teacher-a", pattern=NAME_PATTERN)
    teacher_address: str = Field(default="teacher.example:8444", pattern=ADDRESS)
    teacher_key: str = Field(default="", pattern=FINGERPRINT_PATTERN)


def init_site(folder: Path, place: SitePlace) -> list[Path]:
    """Returns the files that it wrote; nothing that exists is touched.

    Raises:
        ConfigError: The folder holds a site already.
    """
    config = folder / "config.yaml"
    if config.exists():
        raise ConfigError(f"{config} exists; a site is made once")
    folder.mkdir(parents=True, exist_ok=True)
    key = create_key()
    name = PeerName(place.federation, "site", place.site)
    node = create_node_key()
    write_private(folder / "site.key", key)
    write_private(folder / "node.key", node.private)
    write_private(folder / "signing.key", SigningKey.create().to_pem())
    (folder / "site.csr").write_bytes(create_request(key, str(name)))
    (folder / "node.pub").write_bytes(node.public)
    config.write_text(render_config(place), "utf-8")
    names = (
        *("config.yaml", "site.key", "site.csr", "node.key", "node.pub"),
        "signing.key",
    )
    return [folder / name for name in names]


def render_config(place: SitePlace) -> str:
    """Returns the text of a new site's config file."""
    template = files("moma_client").joinpath("templates/config.yaml")
    return Template(template.read_text("utf-8")).substitute(place.model_dump())

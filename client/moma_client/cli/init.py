"""Makes a site's folder: its config file, its keys, its signing request.

Keys are made here and stay here. `moma-client enrol` goes on with them; where there is
no way to the coordinator, `site.csr` and `node.pub` are carried to it by hand.
"""

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from pydantic import Field

from moma_client.config.site import SiteIdentity
from moma_client.identity.keys import make_keys, public_key_of_node
from moma_core.config import Section, fault_of_key
from moma_core.end_to_end.signatures import FINGERPRINT_PATTERN
from moma_core.errors import ConfigError
from moma_core.network.address import Address, yaml_address
from moma_core.pki.certificates import create_request
from moma_core.pki.identity import FEDERATION_PATTERN, NAME_PATTERN, PeerName
from moma_core.pki.key_files import open_key, read_passphrase
from moma_core.runtime.files import make_folder
from moma_core.runtime.prompt import Prompt, prompted, with_port

ENROLMENT_PORT = 8445
_EXAMPLE = "coordinator.example:8443"


class SiteSetup(Section):
    """Where a new site belongs.

    Args:
        site: Name of the site.
        federation: Name of the federation.
        coordinator: host:port of the coordinator.
        enrolment: host:port of its enrolment; by default port 8445 of the same host.
        teacher: Name of the teacher.
        teacher_address: host:port of the teacher.
        metrics_port: Port of the metrics page; 0: none.
        passphrase_file: Passphrase that encrypts the keys; None: they are not.
        teacher_key: Fingerprint of the teacher; empty: to be filled in by hand.
    """

    site: str = Field(pattern=NAME_PATTERN)
    federation: str = Field(default="moma", pattern=FEDERATION_PATTERN)
    coordinator: Address = _EXAMPLE
    teacher: str = Field(default="teacher-a", pattern=NAME_PATTERN)
    teacher_address: Address = "teacher.example:8444"
    enrolment: Address | None = None
    metrics_port: int = Field(default=9465, ge=0, le=65535)
    passphrase_file: Path | None = None
    teacher_key: str = Field(
        default="",
        pattern=FINGERPRINT_PATTERN,
        description="As `moma-server teacher key` prints it there.",
    )


def _enrolment_of(values: Mapping[str, Any]) -> str:
    host = str(values.get("coordinator", _EXAMPLE)).rpartition(":")[0]
    return f"{host}:{ENROLMENT_PORT}"


_PROMPTS = (
    Prompt("site", "name of this site", "site-a"),
    Prompt("federation", "name of the federation", "moma"),
    Prompt("coordinator", "coordinator's rounds", _EXAMPLE, 8443),
    Prompt("enrolment", "coordinator's enrolment", _enrolment_of, ENROLMENT_PORT),
    Prompt("teacher", "name of the teacher", "teacher-a"),
    Prompt("teacher_address", "teacher", "teacher.example:8444", 8444),
    Prompt("teacher_key", "teacher's fingerprint, empty if not known yet", ""),
    Prompt("metrics_port", "port of the metrics page here, 0: none", "9465"),
)


def with_ports(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of a setup, each address with a port."""
    ports = {each.key: each.port for each in _PROMPTS if each.port is not None}
    return {
        key: with_port(value, ports[key]) if key in ports else value
        for key, value in given.items()
    }


def prompted_setup(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of a setup, those that are not given typed by a person.

    Raises:
        StoppedError: The person ended the input.
    """

    def fault_of(values: dict[str, Any], key: str) -> str | None:
        return fault_of_key(SiteSetup, values, key)

    return prompted(given, _PROMPTS, fault_of)


def init_site(folder: Path, place: SiteSetup) -> list[Path]:
    """Returns the files that it wrote; nothing that exists is touched.

    Raises:
        ConfigError: The folder holds a site already.
    """
    config = folder / "config.yaml"
    if config.exists():
        raise ConfigError(f"{config} exists; a site is made once: name a new folder")
    read_passphrase(place.passphrase_file)  # before anything is made
    make_folder(folder)
    config.write_text(render_config(place), "utf-8")
    identity = SiteIdentity.from_yaml(config)
    made = make_keys(identity)
    name = str(PeerName(place.federation, "site", place.site))
    key = open_key(identity.identity.key, identity.identity.passphrase_file)
    (folder / "site.csr").write_bytes(create_request(key, name))
    (folder / "node.pub").write_bytes(public_key_of_node(identity))
    return [config, *made, folder / "site.csr", folder / "node.pub"]


def render_config(place: SiteSetup) -> str:
    """Returns the text of a new site's config file."""
    template = files("moma_client").joinpath("templates/config.yaml")
    values = place.model_dump(exclude={"enrolment", "passphrase_file"})
    host = place.coordinator.rpartition(":")[0]
    addresses = {
        "coordinator": place.coordinator,
        "teacher_address": place.teacher_address,
        "enrolment": place.enrolment or f"{host}:{ENROLMENT_PORT}",
    }
    passphrase = ""
    if place.passphrase_file is not None:
        quoted = json.dumps(str(place.passphrase_file.absolute()))
        passphrase = f"  passphrase_file: {quoted}\n"
    return Template(template.read_text("utf-8")).substitute(
        {**values, **{key: yaml_address(at) for key, at in addresses.items()}},
        passphrase=passphrase,
    )

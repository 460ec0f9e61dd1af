"""Whose a state folder is: receipts, checkpoints and figures of two sites do not mix.

Apart from the program that takes part, which marks its folder, the doctor looks.
"""

import json
from pathlib import Path

from moma_core.errors import CertificateError, ConfigError
from moma_core.pki.identity import PeerName
from moma_core.runtime.canonical_json import parsed_json
from moma_core.runtime.files import write_private

_FILE = "site.json"


def check_owner(state_dir: Path, own: PeerName) -> None:
    """Makes sure that a state folder is not another site's; a new one is nobody's.

    Raises:
        ConfigError: It is another's, or its mark cannot be read.
    """
    path = state_dir / _FILE
    try:
        found = PeerName.parse(str(parsed_json(path.read_bytes())["site"]))
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError, KeyError, TypeError, CertificateError) as error:
        raise ConfigError(
            f"cannot read {path}, which says whose this state_dir is: {error}"
        ) from None
    if found != own:
        raise ConfigError(
            f"state_dir {state_dir} is of {found}, the config of {own}: name another "
            f"folder, or the receipts and checkpoints of two sites mix"
        )


def take_folder(state_dir: Path, own: PeerName) -> None:
    """Marks a state folder as a site's, also one of an earlier release.

    Raises:
        ConfigError: It is another's, or its mark cannot be read.
        DiskError: The disk does not take the mark.
    """
    check_owner(state_dir, own)
    path = state_dir / _FILE
    if not path.exists():
        content = json.dumps({"site": str(own)}).encode()
        write_private(path, content, "whose this state_dir is")

"""Writes `deploy/examples/`: the config files that `init` writes, one a role.

make examples
"""

import hashlib
from pathlib import Path

from moma_client.cli.init import SiteSetup, render_config
from moma_server.cli.init import ServerSetup, render
from moma_server.config.server import Role

TEACHER_KEY = "ed25519:" + hashlib.sha256(b"an example").hexdigest()  # nobody's
EXAMPLES = Path(__file__).resolve().parent.parent / "deploy" / "examples"


def examples() -> dict[str, str]:
    """Returns the text of each example by its file's name."""
    return {
        "server.yaml": _server("coordinator", "teacher"),
        "coordinator.yaml": _server("coordinator"),
        "teacher.yaml": _server("teacher"),
        "recipe.yaml": render(["recipe"], ServerSetup()),
        "site.yaml": render_config(SiteSetup(site="site-a", teacher_key=TEACHER_KEY)),
    }


def _server(*roles: Role) -> str:
    return render(["server", *roles], ServerSetup(roles=roles))


if __name__ == "__main__":
    EXAMPLES.mkdir(parents=True, exist_ok=True)
    for name, text in examples().items():
        (EXAMPLES / name).write_text(text, "utf-8")

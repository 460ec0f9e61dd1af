"""Only the egress package makes what leaves a site, and hands it to who carries it."""

import ast
from collections.abc import Iterator
from pathlib import Path

_CLIENT = Path(__file__).resolve().parents[4] / "client" / "moma_client"

# What makes or hands over something that leaves, and where else it may be called: the
# queue of the node's process, which passes on what lies there, and the link's owners.
_DOORS = {
    "RoundReport": set[str](),
    "query_to_wire": set(),
    "sync_to_wire": set(),
    "EmbedRequest": set(),
    "SyncMomentumRequest": set(),
    "SyncMomentumHead": set(),
    "report_header": {"inbox.py"},
    "pack_report": {"client_app.py"},
    "put_report": {"node.py"},
    "put_failure": {"node.py"},
    "TeacherServiceStub": {"channel.py"},
}
_NODE = {"report", "fail"}  # of a node


def _calls(path: Path) -> Iterator[tuple[str, str]]:
    """Yields the name of whatever is called, and of whose method it is."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            owner, _, name = called.rpartition(".")
            yield name, owner


def _outside() -> Iterator[Path]:
    for path in sorted(_CLIENT.rglob("*.py")):
        if "egress" not in path.relative_to(_CLIENT).parts:
            yield path


def test_nothing_but_egress_makes_what_leaves() -> None:
    strays = {
        (path.name, name)
        for path in _outside()
        for name, _ in _calls(path)
        if name in _DOORS and path.name not in _DOORS[name]
    }

    assert strays == set()


def test_nothing_but_egress_hands_an_answer_to_the_node() -> None:
    strays = {
        (path.name, f"{owner}.{name}")
        for path in _outside()
        for name, owner in _calls(path)
        if name in _NODE and owner.rpartition(".")[2] in {"node", "_node"}
    }

    assert strays == set()


def test_the_messages_to_a_teacher_are_asked_of_egress() -> None:
    asked = {
        path.name: {f"{owner}.{name}" for name, owner in _calls(path)}
        for path in _outside()
    }

    assert "self._egress.patches" in asked["sealed_client.py"]
    assert "self._remote.egress.weights" in asked["momentum.py"]

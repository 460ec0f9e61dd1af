"""A whole site under a coordinator that asks for more; all that leaves is captured.

The session and the node's loop are the real ones. In place of Flower's HTTP connection
stands one that keeps every byte: what passes there is what a coordinator gets.
"""

import csv
import json
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from flwr.app import Message
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from PIL import Image
from prometheus_client import CollectorRegistry

from moma_client.egress.log import log_entries, log_path
from moma_client.federation.inbox import TaskStore
from moma_client.federation.loop import FleetLink, NodeLoop
from moma_client.federation.node import NodeSettings
from moma_client.metrics import ClientMetrics
from moma_client.site.session import SiteSession
from moma_core.errors import MomaError, StoppedError
from moma_core.federation.node_key import create_node_key
from moma_core.federation.task import RoundTask
from moma_core.runtime.files import write_private
from tests.support.federation.pki import Pki
from tests.support.site.tiny_site import local_config, write_teacher

WAIT_SECONDS = 120.0
CLASSES = ("benign", "rare", "Maria Mueller")


ORIGIN = json.dumps(
    {
        **dict.fromkeys(("message_id", "reply_to_message_id", "group_id"), "m"),
        **dict.fromkeys(("run_id", "src_node_id", "dst_node_id"), 1),
        "created_at": time.time(),
        "ttl": 3600.0,
        "message_type": "train",
    }
)
"""Of the message that asked, as far as an answer needs it."""


class _NoMore(Exception):  # noqa: N818 - ends the loop of a test
    pass


class Wire:
    """Flower's connection, as far as a node needs it; keeps what a site sends."""

    def __init__(self) -> None:
        self.sent = b""

    def link(self) -> FleetLink:
        """Returns it as the node takes it."""
        nobody: Any = None
        return FleetLink(
            3, self._receive, self._send, nobody, nobody, nobody, self._push, nobody
        )

    def _receive(self) -> tuple[Message, ObjectTree] | None:
        raise _NoMore

    def _send(self, reply: Message, tree: ObjectTree, _: float) -> tuple[set[str], str]:
        error = reply.error.reason if reply.has_error() else ""
        fields = sorted(f"{k}={v}" for k, v in vars(reply.metadata).items())
        self.sent += f"{fields} {error}".encode() + tree.SerializeToString()
        return {part.object_id for part in iterate_object_tree(tree)}, "session"

    def _push(self, _run: int, _session: str, object_id: str, content: bytes) -> None:
        self.sent += object_id.encode() + content


def serve_stored(wire: Wire, store: TaskStore, folder: Path) -> None:
    """Sends the answer to the task in a store, as the node's process does."""
    settings = NodeSettings(
        address="127.0.0.1:9", ca_certificate=folder, node_key=folder, folder=folder
    )
    with suppress(_NoMore):
        NodeLoop(wire.link(), store, settings).serve()


class EgressSite:
    """A hospital whose folder, classes and patients have telling names.

    Args:
        folder: Of the test.
        sections: Of its config.
    """

    def __init__(self, folder: Path, **sections: Any) -> None:
        self.folder = folder
        self.patches = folder / "Maria_Mueller"
        torch.manual_seed(0)
        write_teacher(folder / "teacher")
        pki = Pki("moma")
        files = pki.write(folder / "identity", pki.site("site-a"))
        write_private(folder / "node.key", create_node_key().private)
        write_patches(self.patches)
        self.config = local_config(
            folder,
            identity={
                "certificate": str(files.certificate),
                "key": str(files.key),
                "authority": str(files.ca),
            },
            coordinator={"address": "127.0.0.1:9", **sections.pop("coordinator", {})},
            data={
                "kind": "csv_manifest",
                "path": str(self.patches / "manifest.csv"),
                "class_names": list(CLASSES),
            },
            distillation={"scenario": "irrelevant"},
            **sections,
        )
        self.registry = CollectorRegistry()
        self.error: MomaError | None = None
        self._store = TaskStore(self.config.state_dir / "node")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._take_part)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(WAIT_SECONDS)

    def asked(self, task: RoundTask) -> bytes:
        """Returns all that leaves when a coordinator asks for `task`."""
        self._store.put_task(task, ORIGIN)
        end = time.monotonic() + WAIT_SECONDS
        while not self._store.is_reported(task):
            assert time.monotonic() < end, "no report came"
            time.sleep(0.02)
        wire = Wire()
        serve_stored(wire, self._store, self.config.state_dir / "node")
        return wire.sent

    def wait_for_the_end(self) -> None:
        """Returns when the site has ended by itself."""
        self._thread.join(WAIT_SECONDS)

    def blocked(self, rule: str) -> float:
        """Returns how many items a rule kept in."""
        name = "moma_client_egress_blocked_total"
        return self.registry.get_sample_value(name, {"rule": rule}) or 0.0

    def kept_in(self) -> set[tuple[object, object]]:
        """Returns item and rule of everything in the site's own log that was kept."""
        return {
            (entry["item"], entry["rule"])
            for entry in log_entries(log_path(self.config.state_dir))
            if entry["outcome"] == "blocked"
        }

    def secrets(self) -> set[bytes]:
        """Returns what no other party may ever see of this site."""
        names = {"maria", "mueller", "patient-", "slide-", "rare", "benign", ".png"}
        names |= {str(self.folder), self.patches.name, "manifest", "csv", "traceback"}
        return {name.lower().encode() for name in names}

    def _take_part(self) -> None:
        session = SiteSession(self.config, self._stop, ClientMetrics(self.registry))
        try:
            session.run()
        except StoppedError:
            return
        except MomaError as error:
            self.error = error


def write_patches(folder: Path, *, without: str = "") -> None:
    """Writes a manifest: 12 patients to validate on, two of them `rare`, 3 unseen.

    Args:
        folder: Of the patches.
        without: A patient who is left out.
    """
    folder.mkdir(exist_ok=True)
    draws = np.random.default_rng(0)
    counts = {"train": 8, "validation": 12, "unseen": 3}
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "patient_id", "slide_id", "split"))
        for split, patients in counts.items():
            for number in range(patients):
                patient = f"patient-{split}-{number}"
                for place in range(6 if split == "train" else 2):
                    name = f"{patient}-{place}.png"
                    pixels = draws.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(folder / name)
                    label = CLASSES[1] if number < 2 else CLASSES[2 * (place % 2)]
                    if patient != without:
                        row = (name, label, patient, f"slide-{patient}", split)
                        writer.writerow(row)

"""Whether anything lies where it must not: on disk, after the run, by content.

Apart from `run`, so that it knows nothing of how the demo came about.
"""

import csv
import hashlib
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from safetensors.torch import load_file

from moma_core.data.patch import UNSEEN
from moma_server.demo.programs import DemoError
from moma_server.demo.tissue import SITES, TEACHER

_NEEDLE_BYTES = 4096
_NEEDLES = 12
_NAMES = 100
_LEAST_NEEDLE_BYTES = 24


def check_nothing_leaked(out: Path) -> list[str]:
    """Returns what was looked for and not found, one line each.

    A site must hold neither the teacher's weights, in whatever file, nor a patch that
    the teacher trained or validated on; teacher and coordinator none that a site did.
    The unseen patches are everybody's.

    Raises:
        DemoError: Something lies where it must not.
    """
    needles = _weight_needles(out / TEACHER / "teacher" / "weights.safetensors")
    own = {part: _own_patches(out / part) for part in (TEACHER, *SITES)}
    for site in SITES:
        for path in _files(out / site):
            content = path.read_bytes()
            if any(needle in content for needle in needles):
                raise DemoError(f"{path} holds weights of the teacher")
        _search(out / site, own[TEACHER], "the teacher")
    for server in ("coordinator", TEACHER):
        for site in SITES:
            _search(out / server, own[site], site)
    return [
        f"{len(needles)} tensors of the teacher searched for in every file of the "
        "sites: not there",
        f"{len(own[TEACHER])} patches of the teacher: with no site",
        f"{sum(len(own[site]) for site in SITES)} patches of the sites: with neither "
        "teacher nor coordinator",
    ]


def check_logs(out: Path) -> list[str]:
    """Returns what was looked for and not found in all that the programs logged.

    Raises:
        DemoError: A log holds a part of a key, a token, or the name of a patch.
    """
    needles = {
        **dict.fromkeys(_key_lines(out), "a part of a key"),
        b"moma1_": "an enrolment token",
        **{b"%05d.png" % number: "the name of a patch" for number in range(_NAMES)},
    }
    logs = sorted(_files(out / "logs"))
    for log in logs:
        content = log.read_bytes()
        for needle, what in needles.items():
            if needle in content:
                raise DemoError(f"{log} holds {what}")
    return [
        f"keys, tokens and names of patches searched for in {len(logs)} logs: not there"
    ]


def _key_lines(out: Path) -> Iterator[bytes]:
    for path in out.rglob("*.key"):
        content = path.read_bytes()
        lines = [line for line in content.splitlines() if not line.startswith(b"--")]
        yield from (line for line in lines if len(line) >= _LEAST_NEEDLE_BYTES)


def _search(folder: Path, patches: set[str], owner: str) -> None:
    for path in folder.rglob("*.png"):
        if _digest(path) in patches:
            raise DemoError(f"{path} is a patch of {owner}")


def _own_patches(folder: Path) -> set[str]:
    """Digests of what an institution trains or validates on."""
    with (folder / "patches" / "manifest.csv").open(encoding="utf-8") as file:
        return {
            _digest(folder / "patches" / row["path"])
            for row in csv.DictReader(file)
            if row["split"] != UNSEEN
        }


def _weight_needles(path: Path) -> list[bytes]:
    """The start of the teacher's largest tensors; raw in any format that we write."""
    tensors = sorted(load_file(path).values(), key=lambda tensor: -tensor.numel())
    whole = [tensor.numpy().tobytes() for tensor in tensors[:_NEEDLES]]
    return [content[:_NEEDLE_BYTES] for content in whole]


def _digest(path: Path) -> str:
    """Of the pixels, so that another file format or name hides nothing."""
    with Image.open(path) as image:
        return hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())

"""Looks whether anything lies where it must not: on disk, after the run, by content."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from safetensors.torch import load_file

from moma_server.demo.programs import DemoError
from moma_server.demo.tissue import SITES, TEACHER

_IMAGES = "patches/*.png"
_NEEDLE_BYTES = 4096
_NEEDLES = 12


def check_nothing_leaked(out: Path) -> list[str]:
    """Returns what was looked for and not found, one line each.

    A site must hold neither the teacher's weights, in whatever file, nor its training
    patches; the teacher and the coordinator none of a site's patches.

    Raises:
        DemoError: Something lies where it must not.
    """
    needles = _weight_needles(out / TEACHER / "teacher" / "weights.safetensors")
    patches = {part: _pictures(out / part) for part in (TEACHER, *SITES)}
    training = patches[TEACHER] - patches[SITES[0]]  # the unseen set is everybody's
    for site in SITES:
        for path in _files(out / site):
            content = path.read_bytes()
            if any(needle in content for needle in needles):
                raise DemoError(f"{path} holds weights of the teacher")
        if training & patches[site]:
            raise DemoError(f"{out / site} holds the teacher's training patches")
    for server in ("coordinator", TEACHER):
        own = patches[SITES[0]] | patches[SITES[1]]
        found = _pictures(out / server, "**/*.png") & (own - patches[TEACHER])
        if found:
            raise DemoError(f"{out / server} holds patches of a site")
    return [
        f"{len(needles)} tensors of the teacher searched for in every file of the "
        "sites: not there",
        f"{len(training)} training patches of the teacher: with no site",
        "patches of the sites: with neither teacher nor coordinator",
    ]


def _weight_needles(path: Path) -> list[bytes]:
    """The start of the teacher's largest tensors; raw in any format that we write."""
    tensors = sorted(load_file(path).values(), key=lambda tensor: -tensor.numel())
    whole = [tensor.numpy().tobytes() for tensor in tensors[:_NEEDLES]]
    return [content[:_NEEDLE_BYTES] for content in whole]


def _pictures(folder: Path, pattern: str = _IMAGES) -> set[str]:
    """Digests of pixels, so that another file format or name hides nothing."""
    digests = set()
    for path in folder.glob(pattern):
        with Image.open(path) as image:
            pixels = image.convert("RGB").tobytes()
        digests.add(hashlib.sha256(pixels).hexdigest())
    return digests


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())

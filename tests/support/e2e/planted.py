"""Names that a site must not let out, secrets that nobody may, and where they are."""

import base64
import csv
from collections.abc import Iterable, Iterator

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from PIL import Image

from moma_core.data.patch import SPLITS
from moma_core.data.sources.demo_tissue import EmbeddedSource
from tests.support.e2e.world import World

PATIENT = "Mustermann-Erika"
SLIDE = "HIST-1948"
FILE = "biopsy-of-erika"
NAMES = (PATIENT, SLIDE, FILE)

_LEAST_LINE = 24  # letters of a key's line that tells something


def plant(world: World, site: str) -> None:
    """Gives a site the same patches as files with names, one patient for each."""
    source, folder = EmbeddedSource(site), world.folder / site / "patches"
    folder.mkdir()
    with (folder / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("path", "label", "patient_id", "slide_id", "split"))
        for row, (label, split) in enumerate(
            zip(source.index.labels, source.index.splits, strict=True)
        ):
            name = f"{FILE}-{row}.png"
            Image.fromarray(source.read(row).pixels).save(folder / name)
            names = f"{PATIENT}-{row}", f"{SLIDE}-{row}"
            rows.writerow((name, source.class_names[label], *names, SPLITS[split]))
    data = {"kind": "csv_manifest", "path": str(folder / "manifest.csv")}
    world.replace(site, "data", {**data, "keep_labelled": 24})


def secrets_of(world: World) -> dict[bytes, str]:
    """Returns all that only one party may hold, in the forms it could show up in."""
    found = {b"four words of nonsense": "a passphrase", b"moma1_": "a token"}
    for path in world.folder.rglob("*.key"):
        found |= dict.fromkeys(_forms(path.read_bytes()), f"a part of {path}")
    return found


def _forms(content: bytes) -> Iterator[bytes]:
    lines = [line for line in content.splitlines() if not line.startswith(b"--")]
    yield from (line for line in lines if len(line) >= _LEAST_LINE)
    if b"-----BEGIN PRIVATE KEY" not in content:  # it is encrypted, or no key of PEM
        return
    key = load_pem_private_key(content, None)
    if hasattr(key, "private_bytes_raw"):
        raw: bytes = key.private_bytes_raw()
        yield from (raw, raw.hex().encode(), base64.b64encode(raw).rstrip(b"="))


def found_in(content: bytes, needles: Iterable[bytes]) -> set[bytes]:
    """Returns what of it is there."""
    return {needle for needle in needles if needle in content}

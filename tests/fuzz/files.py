"""Files that somebody else may have written, or a disk damaged."""

import hashlib
import io
import pickle
import struct
import tempfile
from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from moma_client.audit.receipts import read_receipts, verify_receipts
from moma_client.config.site import SiteConfig, SiteIdentity
from moma_core.audit.checkpoint import Checkpoint
from moma_core.audit.receipt import Receipt
from moma_core.audit.verify import lines_of, verify_export
from moma_core.data.checks.aliases import look_at_aliases
from moma_core.data.checks.identities import look_at_identities
from moma_core.data.checks.rules import look_at_set
from moma_core.data.images import decode_rgb
from moma_core.data.sources.csv_manifest import list_csv_manifest
from moma_core.data.sources.medmnist import MedmnistSource
from moma_core.models.checkpoints import read_tensors
from moma_core.policy.coverage import CoverageMap
from moma_core.teacher.cache.header import PAGE_BYTES, CacheHeader
from moma_core.teacher.cache.records import parse_key
from moma_core.teacher.card.card import TeacherCard
from moma_core.training.checkpoint import load_checkpoint, random_state, save_checkpoint
from moma_server.config.import_recipe import ImportRecipe
from moma_server.config.recipe import TeacherRecipe
from moma_server.config.server import ServerConfig
from tests.fuzz.target import Target, by_first_byte, from_file
from tests.fuzz.wire import CARD
from tests.support.site.teacher_caches import (
    KEY as CACHE_KEY,
)
from tests.support.site.teacher_caches import (
    identity,
    open_cache,
    truth,
    view_batch,
)
from tests.support.teacher.audit_log import KEY, ask, exported, ledger_in, query

_EXAMPLES = Path(__file__).resolve().parents[2] / "deploy" / "examples"


def images() -> Target:
    """Pictures of every format that is read."""
    pixels = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
    seeds = []
    for form in ("PNG", "JPEG", "TIFF", "BMP", "WEBP"):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, form)
        seeds.append(file.getvalue())
    palette = io.BytesIO()
    Image.fromarray(pixels).convert("P").save(palette, "PNG", transparency=0)
    packed = io.BytesIO()
    Image.fromarray(pixels).save(packed, "TIFF", compression="tiff_lzw")
    return Target(
        from_file(decode_rgb, "patch"), (*seeds, palette.getvalue(), packed.getvalue())
    )


def archives() -> Target:
    """MedMNIST archives, plain and packed."""
    arrays = {
        f"{split}_{what}": values
        for split in ("train", "val")
        for what, values in (
            ("images", np.zeros((2, 8, 8, 3), np.uint8)),
            ("labels", np.array([[0], [1]], np.uint8)),
        )
    }
    plain, packed = io.BytesIO(), io.BytesIO()
    np.savez(plain, **arrays)  # type: ignore[arg-type]
    np.savez_compressed(packed, **arrays)  # type: ignore[arg-type]

    def read(path: Path) -> object:
        source = MedmnistSource(path, memory_limit_bytes=1 << 20)
        return source.read(0)

    return Target(from_file(read, "set.npz"), (plain.getvalue(), packed.getvalue()))


def manifests() -> Target:
    """CSV manifests, and what the checks of data say of what stands in them."""
    header = "path,label,patient_id,slide_id,split,mpp"
    rows = f"{header}\na.png,benign,p1,s1,train,0.5\nb/c.png,tumour,p2,s2,unseen,0.25\n"

    def read(path: Path) -> object:
        patches = list_csv_manifest(path).patches()
        found = (
            *look_at_set(patches, figures_of={}, max_unreadable=None),
            *look_at_identities(patches),
            *look_at_aliases(patches),
        )
        lines = [line for each in found for line in each.lines()]
        assert all(map(str.isprintable, lines)), lines
        return patches.class_names

    return Target(
        from_file(read, "manifest.csv"),
        (
            b"path\na.png\n",
            rows.encode(),
            rows.replace(",", ";").encode("utf-16"),
            b'sep=;\npath;label\n"a;b.png";x\n',
        ),
    )


def _torch_file(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def _opcodes(value: object) -> bytes:
    """Returns a pickle in the form of before there were archives."""
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def checkpoints() -> Target:
    """Checkpoints: a run's own, and weights that others made."""
    tensors = {"a.weight": torch.ones(2, 2), "a.bias": torch.zeros(2)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.pt"
        empty: dict[str, Any] = {}
        save_checkpoint(
            path,
            {
                "version": 1,
                "run": "r",
                "step": 1,
                "adopted_round": 0,
                "distiller": {},
                "teacher": empty,
                "optimiser": empty,
                "schedule": empty,
                "scaler": empty,
                "random": {**random_state(), "numpy_key": torch.ones(1)}
                | {"torch": torch.ones(1), "python": []},
            },
        )
        own = path.read_bytes()
    safe = b'\x08\0\0\0\0\0\0\0{"a": 1}'
    return Target(
        by_first_byte(
            from_file(lambda path: load_checkpoint(path, "r"), "run.pt"),
            from_file(read_tensors, "teacher.pt"),
            from_file(read_tensors, "teacher.safetensors"),
        ),
        (
            b"\0" + own,
            b"\1" + _torch_file(tensors),
            b"\1" + _opcodes({"state_dict": tensors}),
            b"\1" + pickle.dumps({"a": 1}),
            b"\2" + safe,
        ),
    )


def teacher_caches() -> Target:
    """A teacher cache's file, its header made whole again; and a key's."""
    batch = view_batch(range(3), 0)

    def cache_of(key: bytes | None) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            with closing(open_cache(Path(folder), key)) as kept:
                kept.write(batch, truth(batch))
            (path,) = Path(folder).glob("*.cache")
            return path.read_bytes()[: PAGE_BYTES + 4096]

    def read_cache(key: bytes | None) -> Callable[[bytes], object]:
        def read(content: bytes) -> object:
            with tempfile.TemporaryDirectory() as folder:
                with closing(open_cache(Path(folder), key)) as begun:
                    path = begun.path
                path.write_bytes(_checked(content))
                with closing(open_cache(Path(folder), key)) as kept:
                    return kept.read(batch), kept.present(np.arange(9))

        return read

    return Target(
        by_first_byte(read_cache(None), read_cache(CACHE_KEY), parse_key),
        (b"\0" + cache_of(None), b"\1" + cache_of(CACHE_KEY), b"\2" + CACHE_KEY),
    )


def _checked(content: bytes) -> bytes:
    """Returns a cache whose header's checksum fits, so that the header is read."""
    start = 12
    if len(content) < PAGE_BYTES:
        return content
    length = min(struct.unpack(">I", content[8:start])[0], PAGE_BYTES - start - 32)
    end = start + length
    page = content[:8] + struct.pack(">I", length) + content[start:end]
    page += hashlib.sha256(page).digest()
    return page + content[len(page) :]


@cache
def _log() -> tuple[tuple[bytes, ...], tuple[Receipt, ...]]:
    """Returns an export's lines, and receipts of its entries."""
    with tempfile.TemporaryDirectory() as folder, ledger_in(Path(folder)) as ledger:
        receipts = [ask(ledger, query(number))[0] for number in (1, 2, 3)]
        return tuple(exported(ledger, Path(folder))), tuple(receipts)


def log_exports() -> Target:
    """An exported log, as an auditor gets it."""

    def read(content: bytes) -> object:
        return verify_export(lines_of(io.BytesIO(content)), KEY.public).to_json()

    whole = b"".join(line + b"\n" for line in _log()[0])
    return Target(read, (whole,))


def receipts() -> Target:
    """Receipts and checkpoints that parties show each other."""
    lines = [receipt.to_json().encode() for receipt in _log()[1]]

    def verified(path: Path) -> object:
        return verify_receipts(path, [KEY.public]), list(read_receipts(path))

    def checkpoint(content: bytes) -> object:
        found = Checkpoint.parse(content)
        found.check(KEY.public)
        return found.position

    state = _log()[1][0].checkpoint.to_json().encode()
    return Target(
        by_first_byte(from_file(verified, "receipts.jsonl"), checkpoint),
        (b"\0" + b"".join(line + b"\n" for line in lines), b"\1" + state),
    )


def configs() -> Target:
    """The YAML files of an operator."""
    kinds = (
        (SiteConfig.from_yaml, "site.yaml"),
        (SiteIdentity.from_yaml, "site.yaml"),
        (ServerConfig.from_yaml, "coordinator.yaml"),
        (ServerConfig.from_yaml, "teacher.yaml"),
        (TeacherRecipe.from_yaml, "recipe.yaml"),
        (ImportRecipe.from_yaml, "import.yaml"),
    )
    imported = (
        "name: teacher-a\norgan: colon\ntask: tissue types\nshown_as: ViT\n"
        "model: weights.pt\nclass_names: [benign, tumour]\nmean: [0.5, 0.5, 0.5]\n"
        "std: [0.5, 0.5, 0.5]\nbackend: {kind: timm, architecture: resnet18}\n"
    )
    readers: list[Callable[[bytes], object]] = [
        from_file(read, name) for read, name in kinds
    ]
    texts = [
        _bare((_EXAMPLES / name).read_text("utf-8"))
        if (_EXAMPLES / name).exists()
        else imported
        for _, name in kinds
    ]
    return Target(
        by_first_byte(*readers),
        tuple(bytes([place]) + text.encode() for place, text in enumerate(texts)),
    )


def _bare(text: str) -> str:
    """Returns YAML without its comments: a fuzzer should not learn them."""
    lines = (line.split("  #")[0].rstrip() for line in text.splitlines())
    kept = (line for line in lines if line and not line.lstrip().startswith("#"))
    return "\n".join(kept) + "\n"


def own_files() -> Target:
    """A teacher's card and coverage map, and a cache's first page."""
    embedding = np.random.default_rng(0).normal(size=(1000, 4)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "map"
        CoverageMap.of_reference(embedding, "a" * 64, seed=0).save(path)
        coverage = path.read_bytes()
    page = CacheHeader(identity()).to_page()
    return Target(
        by_first_byte(
            from_file(TeacherCard.load, "card.json"),
            from_file(lambda path: CoverageMap.load(path, "a" * 64), "map"),
            CacheHeader.from_page,
        ),
        (b"\0" + CARD.to_json().encode(), b"\1" + coverage, b"\2" + page),
    )

"""Configs, recipes, checkpoints, weights, caches and logs on a disk."""

import io
import pickle
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save

from moma_client.audit.receipts import read_receipts, verify_receipts
from moma_client.config.site import SiteConfig
from moma_core.audit.checkpoint import Checkpoint
from moma_core.audit.verify import lines_of, verify_export
from moma_core.end_to_end.signatures import SigningKey
from moma_core.federation.weights import weights_from_bytes
from moma_core.models.checkpoints import read_tensors
from moma_core.models.weights import check_safetensors
from moma_core.teacher.cache.records import parse_key
from moma_core.teacher.card.card import TeacherCard
from moma_core.training.checkpoint import load_checkpoint
from moma_server.config.import_recipe import ImportRecipe
from moma_server.config.recipe import TeacherRecipe
from moma_server.config.server import ServerConfig
from tests.support.site.teacher_caches import CARD, open_cache
from tests.support.teacher.audit_log import KEY, ask, exported, ledger_in, query
from tests.unit.bad_input.table import BadInput, written

Reader = Callable[[Path], object]


def _config(name: str, content: str | bytes, says: str, kind: Any = SiteConfig) -> Any:
    return BadInput(name, written(kind.from_yaml, "c.yaml", content), says)


_BOMB = "a: &a [x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 8)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)

CONFIGS = (
    BadInput(
        "a config that is not there",
        lambda folder: SiteConfig.from_yaml(folder / "c.yaml"),
        "",
    ),
    BadInput("a folder in the place of a config", SiteConfig.from_yaml, ""),
    _config("a tab in YAML", "site: a\ndata:\n\tkind: x\n", ""),
    _config("bytes in the place of YAML", b"\x80\x81", ""),
    _config("a list in the place of keys", "- site\n- moma\n", ""),
    _config("aliases of aliases of aliases", _BOMB, ""),
    _config("brackets without an end", "[" * 5000, ""),
    _config("a date that is none", "site: 2026-13-45\n", ""),
    _config("a tag that does not fit", "site: !!timestamp x\n", ""),
    _config("a config of a megabyte", "site: " + "a" * (1 << 20), ""),
    _config("a server of no role", _SERVER := "federation: moma\nstate_dir: s\nauthority: {certificate: c, revoked: r}\n", "", ServerConfig),
    _config("a misspelt key", _SERVER + "teecher: 1\n", "", ServerConfig),
    _config("a federation that is no name", _SERVER.replace("moma", "Mo ma") + "teacher: null\n", "", ServerConfig),
    _config("a recipe of an unknown kind of data", "name: teacher-a\norgan: colon\ntask: tissue\ndata: {kind: tiles}\nviews: tissue\nview_size_px: 224\nmodel: {architecture: resnet18}\nepochs: 1\n", "", TeacherRecipe),
    _config("an import without outputs", "name: teacher-a\norgan: colon\ntask: tissue\nshown_as: ViT\nmodel: w.onnx\nbackend: {kind: onnx, outputs: {}}\nmean: [0, 0, 0]\nstd: [1, 1, 1]\n", "", ImportRecipe),
)


class _Code:
    def __reduce__(self) -> Any:
        return print, ("code runs",)


def _saved(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def _resumed(path: Path) -> object:
    return load_checkpoint(path, "r")


CHECKPOINTS = (
    BadInput("an empty checkpoint", written(_resumed, "c.pt", b""), ""),
    BadInput("a checkpoint that runs code", written(_resumed, "c.pt", pickle.dumps(_Code())), ""),
    BadInput("a checkpoint that saves code", written(_resumed, "c.pt", _saved(_Code())), ""),
    BadInput("a checkpoint that is a list", written(_resumed, "c.pt", _saved([1])), ""),
    BadInput("a checkpoint of another release", written(_resumed, "c.pt", _saved({"version": 9})), ""),
    BadInput("a checkpoint of another run", written(_resumed, "c.pt", _saved({"version": 1, "run": "x"})), ""),
    BadInput("weights of others that run code", written(read_tensors, "t.pt", _saved({"m": _Code()})), ""),
    BadInput("weights of others without a tensor", written(read_tensors, "t.pt", _saved({"a": 1})), ""),
    BadInput("weights of others that are text", written(read_tensors, "t.pt", b"weights"), ""),
    BadInput("half a file of weights of others", written(read_tensors, "t.pt", _saved({"a": torch.ones(9)})[:300]), ""),
    BadInput("weights named like a pickle", written(check_safetensors, "w.pth", b""), ""),
    BadInput("weights that are a pickle", written(check_safetensors, "w.safetensors", pickle.dumps({})), ""),
    BadInput("weights that are not there", lambda folder: check_safetensors(folder / "w.safetensors"), ""),
)


def _weights(name: str, content: bytes, says: str) -> BadInput:
    return BadInput(name, lambda _: weights_from_bytes(content, max_bytes=4096), says)


def _tensors(**tensors: Any) -> bytes:
    arrays: Mapping[str, Any] = {k: np.asarray(v) for k, v in tensors.items()}
    return save(dict(arrays))


WEIGHTS = (
    _weights("weights that are cut", _tensors(w=np.ones(9))[:40], ""),
    _weights("weights that are a pickle's", pickle.dumps({"w": 1}), ""),
    _weights("weights of more than was agreed", bytes(5000), ""),
    _weights("weights of NaN", _tensors(w=[np.nan]), ""),
    _weights("weights beyond all measure", _tensors(w=[1e38]), ""),
    _weights("weights of another type", _tensors(w=[True]), ""),
    _weights("a variance below zero", _tensors(**{"bn.running_var": [-1.0]}), ""),
    _weights("a tensor whose name is a command", _tensors(**{"\x1b[2J": [1.0]}), ""),
)


def _export(name: str, change: Callable[[list[bytes]], list[bytes]], says: str, key: SigningKey = KEY) -> BadInput:
    def read(folder: Path) -> object:
        with ledger_in(folder) as ledger:
            ask(ledger, query(1), query(2))
            lines = exported(ledger, folder)
        content = b"".join(line + b"\n" for line in change(lines))
        return verify_export(lines_of(io.BytesIO(content)), key.public)

    return BadInput(name, read, says)


def _forged(path: Path) -> object:
    with ledger_in(path.parent) as ledger:
        (receipt,) = ask(ledger, query(1))
    line = receipt.to_json().replace(receipt.checkpoint.signature, "0" * 128)
    path.write_text(line + "\n", "utf-8")
    return verify_receipts(path, [KEY.public])


def _cache(begun: bytes | None, key: bytes | None) -> Reader:
    def read(folder: Path) -> object:
        with closing(open_cache(folder, begun)):
            pass
        return open_cache(folder, key)

    return read


LOGS = (
    _export("an empty log", lambda _: [], ""),
    _export("a log of another format", lambda lines: [b'{"format":"csv"}'], ""),
    _export("a log without its name", lambda lines: lines[1:], ""),
    _export("a log of an edited entry", lambda lines: [line.replace(b"site-a", b"site-b") for line in lines], ""),
    _export("a log without its end", lambda lines: lines[:-1], ""),
    _export("a line that is too long", lambda lines: [b"x" * 50_000], ""),
    _export("a log whose name is a command", lambda lines: [rb'{"format":"moma-audit-log/1","origin":"\u001b[2J"}'], ""),
    BadInput("a receipt that is none", written(lambda path: list(read_receipts(path)), "r.jsonl", "{}\n"), ""),
    BadInput("a forged receipt", lambda folder: _forged(folder / "r.jsonl"), ""),
    BadInput("a state of a log that is none", lambda _: Checkpoint.parse("{}"), ""),
    BadInput("a state of a log that is far too long", lambda _: Checkpoint.parse(" " * 5000), ""),
    BadInput("a card that is no JSON", written(TeacherCard.load, "card.json", "{"), ""),
    BadInput("a card that is no text", written(TeacherCard.load, "card.json", b"\x80"), ""),
    BadInput("a card without a digest", written(TeacherCard.load, "card.json", '{"name": "teacher-a"}'), ""),
    BadInput("a card of a patch size from nowhere", written(TeacherCard.load, "card.json", CARD.to_json().replace('"mpp": null', '"mpp": 4000')), ""),
    BadInput("a cache's key of a few bytes", lambda _: parse_key(b"secret"), ""),
    BadInput("a cache that is encrypted, without its key", _cache(bytes(32), None), ""),
    BadInput("a cache under another key", _cache(bytes(32), bytes(range(32))), ""),
    BadInput("a cache that is not encrypted, with a key", _cache(None, bytes(32)), ""),
)

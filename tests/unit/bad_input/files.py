"""Configs, recipes, cards, caches and logs on a disk."""

import io
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from moma_client.audit.receipts import read_receipts, verify_receipts
from moma_client.config.site import SiteConfig
from moma_core.audit.checkpoint import Checkpoint
from moma_core.audit.verify import lines_of, verify_export
from moma_core.end_to_end.signatures import SigningKey
from moma_core.teacher.cache.records import parse_key
from moma_core.teacher.card.card import TeacherCard
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

_SERVER = """\
federation: moma
state_dir: s
authority: {certificate: c, revoked: r}
"""
_RECIPE = """\
name: teacher-a
organ: colon
task: tissue
data: {kind: tiles}
views: tissue
view_size_px: 224
model: {architecture: resnet18}
epochs: 1
"""
_IMPORT = """\
name: teacher-a
organ: colon
task: tissue
shown_as: ViT
model: w.onnx
backend: {kind: onnx, outputs: {}}
mean: [0, 0, 0]
std: [1, 1, 1]
"""

CONFIGS = (
    BadInput(
        "a config that is not there",
        lambda folder: SiteConfig.from_yaml(folder / "c.yaml"),
        "cannot read ./c.yaml: [Errno 2] No such file or directory: './c.yaml'",
    ),
    BadInput(
        "a folder in the place of a config",
        SiteConfig.from_yaml,
        "cannot read .: it is a folder: name the file, such as ./config.yaml",
    ),
    _config(
        "a home of nobody",
        _SERVER.replace("state_dir: s", "state_dir: ~nobody-here/state"),
        "./c.yaml is not valid:\n  state_dir: there is no home ~nobody-here: "
        "write it out",
        ServerConfig,
    ),
    _config(
        "a tab in YAML",
        "site: a\ndata:\n\tkind: x\n",
        "cannot read ./c.yaml: line 3, column 1: a tab stands where YAML wants spaces: "
        "write spaces in its place",
    ),
    _config(
        "bytes in the place of YAML",
        b"\x80\x81",
        "cannot read ./c.yaml: it is no UTF-8: save it in this encoding",
    ),
    _config(
        "a list in the place of keys",
        "- site\n- moma\n",
        "./c.yaml is not valid: it holds a list, and a config holds keys, a line each, "
        "such as `key: value`; `init` writes one",
    ),
    _config(
        "aliases of aliases of aliases",
        _BOMB,
        "cannot read ./c.yaml: it is too large to be a config file",
    ),
    _config(
        "brackets without an end",
        "[" * 5000,
        "cannot read ./c.yaml: it is nested too deeply",
    ),
    _config(
        "a date that is none",
        "site: 2026-13-45\n",
        "cannot read ./c.yaml: month must be in 1..12",
    ),
    _config(
        "a tag that does not fit",
        "site: !!timestamp x\n",
        "cannot read ./c.yaml: a value is not what its tag says",
    ),
    _config(
        "a config of a megabyte",
        "site: " + "a" * (1 << 20),
        "cannot read ./c.yaml: it is too large to be a config file",
    ),
    _config(
        "a server of no role",
        _SERVER
        := "federation: moma\nstate_dir: s\nauthority: {certificate: c, revoked: r}\n",
        "./c.yaml is not valid:\n  (file): name a coordinator, a teacher, or both",
        ServerConfig,
    ),
    _config(
        "a misspelt key",
        _SERVER + "teecher: 1\n",
        "./c.yaml is not valid:\n  unknown key teecher; did you mean teacher?",
        ServerConfig,
    ),
    _config(
        "a federation that is no name",
        _SERVER.replace("moma", "Mo ma"),
        "./c.yaml is not valid:\n"
        "  federation is 'Mo ma': it should be of the form "
        "^[a-z][a-z0-9.-]{1,62}$, such as mo-ma (Name of the federation)",
        ServerConfig,
    ),
    _config(
        "a recipe of an unknown kind of data",
        _RECIPE,
        "./c.yaml is not valid:\n"
        "  data.kind is 'tiles': 'image_folder', 'csv_manifest', 'medmnist', "
        "'embedded', 'preset', 'slides' fit",
        TeacherRecipe,
    ),
    _config(
        "an import without outputs",
        _IMPORT,
        "./c.yaml is not valid:\n"
        "  backend.outputs: name the output of embedding, of logits, or both",
        ImportRecipe,
    ),
)


def _export(
    name: str,
    change: Callable[[list[bytes]], list[bytes]],
    says: str,
    key: SigningKey = KEY,
) -> BadInput:
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
    _export("an empty log", lambda _: [], "the file holds no log"),
    _export(
        "a log of another format",
        lambda lines: [b'{"format":"csv"}'],
        "the file is no export of the form moma-audit-log/1",
    ),
    _export(
        "a log without its name",
        lambda lines: lines[1:],
        "the file does not begin with the name of a log",
    ),
    _export(
        "a log of an edited entry",
        lambda lines: [line.replace(b"site-a", b"site-b") for line in lines],
        "moma/teacher-a/1, entry 1: it is not the one that the next entry was "
        "written after",
    ),
    _export(
        "a log without its end",
        lambda lines: lines[:-1],
        "moma/teacher-a/1, entry 0: no signature covers it",
    ),
    _export(
        "a line that is too long",
        lambda lines: [b"x" * 50_000],
        "the file ends in the middle of a line, or has a long one",
    ),
    _export(
        "a log whose name is a command",
        lambda lines: [rb'{"format":"moma-audit-log/1","origin":"\u001b[2J"}'],
        "the file is no export of the form moma-audit-log/1",
    ),
    BadInput(
        "a receipt that is none",
        written(lambda path: list(read_receipts(path)), "r.jsonl", "{}\n"),
        "./r.jsonl line 1: the receipt breaks its contract",
    ),
    BadInput(
        "a forged receipt",
        lambda folder: _forged(folder / "r.jsonl"),
        "the signature of the checkpoint of moma/teacher-a/1 at 2 entries is forged",
    ),
    BadInput(
        "a state of a log that is none",
        lambda _: Checkpoint.parse("{}"),
        "the checkpoint breaks its contract",
    ),
    BadInput(
        "a state of a log that is far too long",
        lambda _: Checkpoint.parse(" " * 5000),
        "a checkpoint of 5000 bytes is not read",
    ),
    BadInput(
        "a card that is no JSON",
        written(TeacherCard.load, "card.json", "{"),
        "./card.json is no teacher card: (file): Invalid JSON: EOF while "
        "parsing an object at line 1 column 1",
    ),
    BadInput(
        "a card that is no text",
        written(TeacherCard.load, "card.json", b"\x80"),
        "./card.json is no teacher card: (file): Invalid JSON: expected value "
        "at line 1 column 1",
    ),
    BadInput(
        "a card without a digest",
        written(TeacherCard.load, "card.json", '{"name": "teacher-a"}'),
        "./card.json is no teacher card: digest: Field required",
    ),
    BadInput(
        "a card of a patch size from nowhere",
        written(
            TeacherCard.load,
            "card.json",
            CARD.to_json().replace('"mpp": null', '"mpp": 4000'),
        ),
        "./card.json is no teacher card: mpp is above 0 and at most 100, got 4000.0",
    ),
    BadInput(
        "a cache's key of a few bytes",
        lambda _: parse_key(b"secret"),
        "the teacher cache's key file holds 6 bytes, not 32, nor 64 hex digits",
    ),
    BadInput(
        "a cache that is encrypted, without its key",
        _cache(bytes(32), None),
        "teacher cache 8d863f03b05951b8.cache is encrypted: name "
        "teacher.cache_key_file",
    ),
    BadInput(
        "a cache under another key",
        _cache(bytes(32), bytes(range(32))),
        "teacher cache 8d863f03b05951b8.cache is encrypted with another key "
        "than the one in teacher.cache_key_file: name that one, or move the "
        "cache away",
    ),
    BadInput(
        "a cache that is not encrypted, with a key",
        _cache(None, bytes(32)),
        "teacher cache 8d863f03b05951b8.cache is not encrypted: move it away, "
        "and its views are queried again, or leave out teacher.cache_key_file",
    ),
)

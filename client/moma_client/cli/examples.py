"""The examples that `--help` shows, by command; "" is the program's own."""

from collections.abc import Mapping
from typing import Final

EXAMPLES: Final[Mapping[str, tuple[str, ...]]] = {
    "": (
        "moma-client init site-a --name site-a --coordinator hub.example:8443",
        "moma-client doctor --site site-a/config.yaml",
        "moma-client --site site-a/config.yaml --check",
        "moma-client --site site-a/config.yaml",
    ),
    "init": (
        "moma-client init site-a",
        "moma-client init site-a --name site-a",
        "moma-client init site-a --name site-a --coordinator hub.example:8443 "
        "--teacher-address teacher.example:8444 --metrics-port 0",
    ),
    "enrol": (
        "moma-client enrol site-a --token moma-token...",
        "moma-client enrol site-a --token - < token.txt",
    ),
    "key": ("moma-client key --site site-a/config.yaml",),
    "runs": (
        "moma-client runs --site site-a/config.yaml",
        "moma-client runs --site site-a/config.yaml --json",
    ),
    "evaluate": (
        "moma-client evaluate --site site-a/config.yaml",
        "moma-client evaluate --site site-a/config.yaml --run run-1 --method ce "
        "--split unseen",
    ),
    "report": (
        "moma-client report --site site-a/config.yaml --out report",
        "moma-client report --site site-a/config.yaml --run run-1 --with-patches "
        "--out report-for-us",
    ),
    "plan": (
        "moma-client plan --site site-a/config.yaml",
        "moma-client plan --site site-a/config.yaml --epochs 20",
    ),
    "doctor": (
        "moma-client doctor --site site-a/config.yaml",
        "moma-client doctor --site site-a/config.yaml --ask --all-pictures",
    ),
    "export": (
        "moma-client export --site site-a/config.yaml --out student",
        "moma-client export --site site-a/config.yaml --run run-1 --method ce "
        "--out student-ce --format onnx",
    ),
    "predict": (
        "moma-client predict --student student --data patches --out found.csv",
        "moma-client predict --student student --data manifest.csv --out found.csv "
        "--force",
        "moma-client predict --student student --data patch.png --out found.csv",
    ),
    "egress": (
        "moma-client egress --site site-a/config.yaml --preview",
        "moma-client egress --site site-a/config.yaml --log",
    ),
    "audit": ("moma-client audit verify --site site-a/config.yaml",),
    "audit verify": ("moma-client audit verify --site site-a/config.yaml --json",),
    "audit fetch": ("moma-client audit fetch --site site-a/config.yaml",),
    "audit export": (
        "moma-client audit export --site site-a/config.yaml --out receipts.jsonl",
    ),
    "audit checkpoint": (
        "moma-client audit checkpoint --site site-a/config.yaml > site-a.json",
    ),
    "audit compare": (
        "moma-client audit compare --site site-a/config.yaml --checkpoint site-b.json",
    ),
}

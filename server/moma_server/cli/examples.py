"""The examples that `--help` shows, by command; "" is the program's own."""

from collections.abc import Mapping
from typing import Final

EXAMPLES: Final[Mapping[str, tuple[str, ...]]] = {
    "": (
        "moma-server init hub --host hub.example",
        "moma-server --config hub/server.yaml --check",
        "moma-server --config hub/server.yaml",
    ),
    "init": (
        "moma-server init hub",
        "moma-server init hub --roles coordinator --host hub.example --rounds 10",
        "moma-server init teacher --roles teacher --name teacher-a "
        "--host teacher.example --enrolment hub.example:8445",
        "moma-server init hub --rounds-port 9443 --enrolment-port 9445 "
        "--teacher-port 9444 --metrics-port 0",
    ),
    "admit": (
        "moma-server admit --config hub/server.yaml --site site-a --csr site.csr "
        "--node-key node.pub --out site.pem",
    ),
    "revoke": (
        "moma-server revoke --config hub/server.yaml site-a",
        "moma-server revoke --config hub/server.yaml teacher-a --kind teacher",
    ),
    "token": ("moma-server token create --config hub/server.yaml site-a",),
    "token create": (
        "moma-server token create --config hub/server.yaml site-a --lifetime 24",
        "moma-server token create --config hub/server.yaml teacher-a --teacher "
        "--host teacher.example",
    ),
    "token list": ("moma-server token list --config hub/server.yaml",),
    "token revoke": ("moma-server token revoke --config hub/server.yaml 3f9c",),
    "enrol": ("moma-server enrol --config teacher/server.yaml --token - < token.txt",),
    "site": ("moma-server site list --config teacher/server.yaml",),
    "site approve": (
        "moma-server site approve --config teacher/server.yaml site-a "
        "--key ed25519:...",
    ),
    "site forget": ("moma-server site forget --config teacher/server.yaml site-a",),
    "site list": ("moma-server site list --config teacher/server.yaml",),
    "sites": ("moma-server sites --config hub/server.yaml",),
    "status": (
        "moma-server status --config hub/server.yaml",
        "moma-server status --config hub/server.yaml --json",
    ),
    "report": ("moma-server report --config hub/server.yaml --out report",),
    "teacher": (
        "moma-server teacher train --recipe teacher/recipe.yaml --out teacher/teacher",
    ),
    "teacher train": (
        "moma-server teacher train --recipe teacher/recipe.yaml --out teacher/teacher",
    ),
    "teacher key": ("moma-server teacher key --config teacher/server.yaml",),
    "teacher card": (
        "moma-server teacher card --config teacher/server.yaml",
        "moma-server teacher card --recipe recipe.yaml --weights model.safetensors "
        "--out teacher",
    ),
    "teacher import": (
        "moma-server teacher import pytorch_model.bin --preset uni2-h "
        "--out teacher/teacher",
        "moma-server teacher import classifier.onnx --classes benign,malignant "
        "--out teacher/teacher",
        "moma-server teacher import grpc://127.0.0.1:8001/uni --out teacher/teacher",
        "moma-server teacher import --recipe teacher/teacher/import.yaml "
        "--out teacher/teacher",
    ),
    "teacher fit-head": (
        "moma-server teacher fit-head --recipe teacher/teacher/import.yaml "
        "--out teacher/teacher",
    ),
    "teacher export": (
        "moma-server teacher export --config teacher/server.yaml --out for-partner",
    ),
    "demo": (
        "moma-server demo",
        "moma-server demo --data pathmnist.npz --out demo-out",
    ),
    "audit": ("moma-server audit export --config teacher/server.yaml --out log.jsonl",),
    "audit verify": (
        "moma-server audit verify log.jsonl --key ed25519:...",
        "moma-server audit verify --config teacher/server.yaml",
    ),
    "audit export": (
        "moma-server audit export --config teacher/server.yaml --out log.jsonl",
    ),
    "audit reconcile": (
        "moma-server audit reconcile --config teacher/server.yaml "
        "--receipts receipts.jsonl",
    ),
    "audit rotate": ("moma-server audit rotate --config teacher/server.yaml",),
    "audit rotate-key": (
        "moma-server audit rotate-key --config teacher/server.yaml "
        "--new-key new-signing.key",
    ),
}

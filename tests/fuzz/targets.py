"""Every parser of outside bytes, by name: one table for all that fuzzes."""

from collections.abc import Callable
from functools import cache
from typing import Final

from tests.fuzz import exchange, files, identities, rounds, slides, wire
from tests.fuzz.target import Target

TARGETS: Final[dict[str, Callable[[], Target]]] = {
    # between a site and a teacher
    "embed-requests": wire.embed_requests,
    "embed-responses": wire.embed_responses,
    "momentum": wire.momentum,
    "sealed-requests": wire.sealed_requests,
    "sealed-responses": wire.sealed_responses,
    "signed-cards": wire.cards,
    "audit-messages": wire.audit_messages,
    "model-server-responses": wire.model_server_responses,
    "relay-frames": rounds.relay_frames,
    # between a site and the coordinator
    "edge-calls": rounds.edge_calls,
    "edge-headers": identities.edge_headers,
    "flower-objects": rounds.flower_objects,
    "round-headers": rounds.headers,
    "round-weights": rounds.weights,
    "certificates": identities.certificates,
    "keys": identities.keys,
    "names": identities.names,
    "ways": exchange.ways,
    # files that others write, or a disk damages
    "images": files.images,
    "archives": files.archives,
    "manifests": files.manifests,
    "slides": slides.slides,
    "slide-coordinates": slides.coordinates,
    "slide-annotations": slides.annotations,
    "checkpoints": files.checkpoints,
    "configs": files.configs,
    "log-exports": files.log_exports,
    "receipts": files.receipts,
    "teacher-caches": files.teacher_caches,
    "kept-rounds": rounds.kept_rounds,
    "lists": identities.lists,
    "own-files": files.own_files,
    # what one party hands on to another
    "students": exchange.students,
    "model-configs": exchange.model_configs,
    "kept-predictions": exchange.kept_predictions,
}


@cache
def target(name: str) -> Target:
    """Returns a target, made once."""
    return TARGETS[name]()

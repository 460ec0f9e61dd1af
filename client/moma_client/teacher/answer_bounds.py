"""How large an answer may be, by what was asked: gRPC cuts off more before parsing it.

Without, an empty hash of two bytes in a proof of many becomes sixteen times as much.
"""

import json

SMALL_BYTES = 64 * 1024
_DESCRIPTION_BYTES = 2**20
_RECEIPTS_BYTES = 9 * 2**20

_TEACHER, _AUDIT = "moma.v1.TeacherService", "moma.v1.AuditService"
_LARGEST = {
    _TEACHER: {
        "Describe": _DESCRIPTION_BYTES,
        "Budget": SMALL_BYTES,
        "OpenSession": SMALL_BYTES,
        "SyncMomentum": SMALL_BYTES,
        "CloseSession": SMALL_BYTES,
    },
    _AUDIT: {
        "LatestCheckpoint": SMALL_BYTES,
        "InclusionProof": SMALL_BYTES,
        "ConsistencyProof": SMALL_BYTES,
        "Receipts": _RECEIPTS_BYTES,
    },
}


def service_config() -> str:
    """Returns the bounds as gRPC reads them; a method without one has the channel's."""
    bounds = [
        {
            "name": [{"service": service, "method": method}],
            "maxResponseMessageBytes": most,
        }
        for service, methods in _LARGEST.items()
        for method, most in methods.items()
    ]
    return json.dumps({"methodConfig": bounds})

"""The one spelling of a JSON value: what is digested and signed."""

import json


def canonical_json(value: object) -> bytes:
    """Returns keys sorted, no spaces, ASCII; equal values have equal bytes.

    Raises:
        ValueError: It holds NaN or infinity.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), allow_nan=False
    ).encode("ascii")

"""The one spelling of a JSON value, which is digested and signed; and reading any."""

import json
from typing import Any


def canonical_json(value: object) -> bytes:
    """Returns keys sorted, no spaces, ASCII; equal values have equal bytes.

    Raises:
        ValueError: It holds NaN or infinity.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), allow_nan=False
    ).encode("ascii")


def parsed_json(text: str | bytes) -> Any:  # noqa: ANN401 - whatever somebody wrote
    """Returns what a text says, whoever wrote it.

    Raises:
        ValueError: It is no JSON, or nested more deeply than Python follows.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None

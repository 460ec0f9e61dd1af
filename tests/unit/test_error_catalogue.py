"""What an error means to others: one row for each, in the words of the wire."""

from collections import Counter
from typing import get_args

import grpc
import pytest

from moma_core.errors import (
    CATALOGUE,
    INTERNAL,
    AuditError,
    LogForkError,
    MomaError,
    RefusalReason,
    RefusedError,
    StoppedError,
    UnsignedRefusalError,
    meaning_of,
)


def test_each_reason_of_a_refusal_is_that_of_one_error() -> None:
    reasons = Counter(meaning.refusal for meaning in CATALOGUE.values())
    del reasons["internal"]

    assert reasons == Counter(set(get_args(RefusalReason)) - {"internal"})


def test_each_status_is_one_of_grpc() -> None:
    names = {meaning.status for meaning in CATALOGUE.values()} | {INTERNAL.status}

    assert names <= {code.name for code in grpc.StatusCode}


@pytest.mark.parametrize("error", [RefusedError("no"), MomaError("no"), OSError("no")])
def test_what_the_catalogue_does_not_name_is_internal(error: Exception) -> None:
    assert meaning_of(error) is INTERNAL


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MomaError("wrong"), 1),
        (AuditError("damaged"), 1),
        (RefusedError("no"), 3),
        (UnsignedRefusalError("no"), 3),
        (LogForkError("two states"), 3),
        (LogForkError("two states", exit_code=1), 1),
        (StoppedError("stopped"), 130),
    ],
)
def test_a_program_ends_with_the_exit_code_of_its_error(
    error: MomaError, code: int
) -> None:
    assert error.exit_code == code

import pytest

from moma_core.runtime.canonical_json import canonical_json, parsed_json


@pytest.mark.parametrize(
    "text", ["", "{", b"\xff", "[" * 100_000, '{"a":' * 100_000, "9" * 5000]
)
def test_what_is_no_json_is_one_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parsed_json(text)


def test_a_value_is_read_as_it_was_written() -> None:
    value = {"b": [1, None, 0.5], "a": "\xfc"}

    assert parsed_json(canonical_json(value)) == value

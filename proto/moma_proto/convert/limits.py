"""Counts the fields of a message before it is parsed.

An empty picture is two bytes on the wire and sixteen times that once it is parsed: a
bound on a message's bytes does not bound what it becomes.
"""

from moma_core.errors import MalformedRequestError

_VARINT, _EIGHT_BYTES, _LENGTH, _BEGIN, _END, _FOUR_BYTES = range(6)
_LONGEST_VARINT = 10


def count_fields(content: memoryview, most: int) -> int:
    """Returns how many fields a message has; those of messages in it do not count.

    Args:
        content: The message; what else is wrong with it, its parser says.
        most: Fields, each repetition counted.

    Raises:
        MalformedRequestError: There are more, or they cannot be told apart.
    """
    place, count = 0, 0
    while place < len(content):
        count += 1
        if count > most:
            raise MalformedRequestError(f"a message has at most {most} fields here")
        tag, place = _varint(content, place)
        kind = tag & 7
        if kind == _VARINT:
            _, place = _varint(content, place)
        elif kind == _LENGTH:
            size, place = _varint(content, place)
            place += size
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            place += 8 if kind == _EIGHT_BYTES else 4
        elif kind not in (_BEGIN, _END):  # of a group: what is in it is counted
            raise MalformedRequestError("the message is not readable")
    return count


def _varint(content: memoryview, place: int) -> tuple[int, int]:
    """Returns a number, and where the next thing begins."""
    value = 0
    for position, byte in enumerate(content[place : place + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << 7 * position
        if byte < 0x80:
            return value, place + position + 1
    raise MalformedRequestError("the message is not readable")

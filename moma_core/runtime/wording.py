"""Words that depend on a number."""


def counted(number: int, one: str, many: str) -> str:
    """Returns a number with its noun: `1 entry`, `2 entries`."""
    return f"{number} {one if number == 1 else many}"

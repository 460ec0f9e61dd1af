"""Values that a person types at a terminal, each checked before the next is wanted."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from moma_core.errors import StoppedError

Values = dict[str, Any]


class Prompt(NamedTuple):
    """One value that is wanted.

    Args:
        key: Its name.
        text: What it is, in words.
        default: What holds where nothing is typed, or what makes it of what was typed
            before; empty: the value is left out.
        port: Added to a host that names none; None: it is no address.
        is_list: Whether several may be typed, separated by commas.
    """

    key: str
    text: str
    default: str | Callable[[Mapping[str, Any]], str]
    port: int | None = None
    is_list: bool = False


def is_terminal() -> bool:
    """Whether a person sits in front of this program."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def prompted(
    given: Mapping[str, Any],
    prompts: Sequence[Prompt],
    fault_of: Callable[[Values, str], str | None],
) -> Values:
    """Returns the given values, and those that a person typed for the rest.

    Args:
        given: Values that are known; they are not wanted again.
        prompts: In the order in which they are wanted.
        fault_of: Returns what is wrong with the value of a key, as a sentence; None:
            nothing.

    Raises:
        StoppedError: The person ended the input.
    """
    values = dict(given)
    for prompt in prompts:
        if prompt.key not in values:
            _type(prompt, values, fault_of)
    return values


def _type(
    prompt: Prompt, values: Values, fault_of: Callable[[Values, str], str | None]
) -> None:
    """Adds one value, however often it takes."""
    default = prompt.default
    if callable(default):
        default = default(values)
    while True:
        try:
            text = input(f"{prompt.text} [{default}]: ").strip() or default
        except EOFError:
            raise StoppedError("stopped; nothing was made") from None
        if not text:
            return
        trial = {**values, prompt.key: _parsed(prompt, text)}
        fault = fault_of(trial, prompt.key)
        if fault is None:
            values[prompt.key] = trial[prompt.key]
            return
        sys.stdout.write(f"{fault}\n")


def _parsed(prompt: Prompt, text: str) -> str | tuple[str, ...]:
    if prompt.is_list:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return text if prompt.port is None else with_port(text, prompt.port)


def with_port(address: str, port: int) -> str:
    """Returns an address with its port, the usual one where it names none."""
    has_port = address.rpartition("]")[2].count(":") > 0
    return address if has_port else f"{address}:{port}"

"""Names that two people wrote: which are the same, and which may be meant alike."""

import difflib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, islice, product

_CLOSE = 0.6  # of difflib's ratio, its own default
_MOST_COMPARED = 20_000  # pairs: a peer may name ten thousand classes
_MOST_LETTERS = 64
_SHORTEST_PREFIX = 3
_SHORTEST_TYPO = 5
_NEGATION = re.compile(r"^(non|not|no|without)_?")


def normalised(name: str) -> str:
    """Returns a name without what people write now so, now so.

    Case, blanks, hyphens and underscores, and the two ways in which Unicode writes an
    accent. Signs that mean something stay, such as the end of `HER2-` and `HER2+`.
    """
    text = unicodedata.normalize("NFC", name).casefold()
    text = unicodedata.normalize("NFC", text).strip()
    text = "".join("-" if unicodedata.category(x) == "Pd" else x for x in text)
    return re.sub(r"[\s_-]+", "_", text)


def equal_names(own: Sequence[str], theirs: Sequence[str]) -> dict[str, str]:
    """Returns which of our names is which of theirs; what fits nothing is left out.

    Written alike comes first; then what is alike once both are normalised, unless that
    would fit two.
    """
    known = set(theirs)
    pairs = {name: name for name in own if name in known}
    ours_left = _by_normalised(name for name in own if name not in pairs)
    theirs_left = _by_normalised(known.difference(pairs))
    for key, names in ours_left.items():
        others = theirs_left.get(key, [])
        if len(names) == len(others) == 1:
            pairs[names[0]] = others[0]
    return {name: pairs[name] for name in own if name in pairs}


def nearest(name: str, others: Iterable[str]) -> str | None:
    """Returns the name that may be meant, or None where none is near."""
    scored = [
        (_likeness(name, other), other) for other in islice(others, _MOST_COMPARED)
    ]
    best = max(scored, default=(0.0, ""))
    return best[1] if best[0] >= _CLOSE else None


def near_pairs(own: Sequence[str], theirs: Sequence[str]) -> dict[str, str]:
    """Returns which of our names may mean which of theirs, each at most once."""
    if len(own) * len(theirs) > _MOST_COMPARED:
        return {}
    scored = sorted(
        (-_likeness(name, other), name, other) for name in own for other in theirs
    )
    pairs: dict[str, str] = {}
    for score, name, other in scored:
        if -score >= _CLOSE and name not in pairs and other not in pairs.values():
            pairs[name] = other
    return {name: pairs[name] for name in own if name in pairs}


def did_you_mean(name: str, others: Iterable[str]) -> str:
    """Returns `; did you mean 'x'?`, or nothing where nothing is near."""
    near = nearest(name, others)
    return "" if near is None else f"; did you mean {near!r}?"


def misspelt_pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Returns pairs of names in one set that look like one name written twice.

    One letter was added, or blanks and hyphens were.
    """
    joined, written = defaultdict(list), defaultdict(list)
    for place, name in enumerate(map(normalised, names)):
        joined[name.replace("_", "")].append(place)
        written[name].append(place)
    pairs = {pair for places in joined.values() for pair in combinations(places, 2)}
    for long, places in written.items():
        for short in _with_a_letter_less(long):
            pairs |= {
                (min(pair), max(pair))
                for pair in product(places, written.get(short, ()))
            }
    return [(names[first], names[second]) for first, second in sorted(pairs)]


def _with_a_letter_less(name: str) -> set[str]:
    if len(name) <= _SHORTEST_TYPO:
        return set()
    return {
        name[:place] + name[place + 1 :]
        for place, letter in enumerate(name)
        if letter.isalpha()
    }


def _by_normalised(names: Iterable[str]) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(normalised(name), []).append(name)
    return found


def _likeness(own: str, other: str) -> float:
    """Returns 0 to 1; an abbreviation is as near as a name with a letter changed."""
    first, second = (normalised(name[:_MOST_LETTERS]) for name in (own, other))
    if _numbers(first) != _numbers(second):
        return 0.0  # grade 3 is not meant by grade 4
    if _signs(first) != _signs(second) or _NEGATION.sub("", first) == second:
        return 0.0  # nor HER2- by HER2+, nor tumour by no tumour
    if _NEGATION.sub("", second) == first:
        return 0.0
    short, long = sorted((first, second), key=len)
    if len(short) >= _SHORTEST_PREFIX and long.startswith(short):
        return 0.9
    matcher = difflib.SequenceMatcher(None, first, second)
    is_far = min(matcher.real_quick_ratio(), matcher.quick_ratio()) < _CLOSE
    return 0.0 if is_far else matcher.ratio()


def _numbers(name: str) -> list[str]:
    return re.findall(r"\d+", name)


def _signs(name: str) -> str:
    return name[-1:] if name[-1:] in ("+", "_") else ""

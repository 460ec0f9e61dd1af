"""The Merkle tree of a log: hashes, roots, proofs and their verification.

A tree over n leaves is split at the largest power of two below n, again and again.
What never changes once it is full, a subtree of 2^level leaves, is a *node* here and is
named by (level, place). Roots and proofs of every size are folded from nodes.

Source: RFC 6962, section 2.1; the verifications are those of RFC 9162, sections
2.1.3.2 and 2.1.4.2.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from hashlib import sha256
from typing import NamedTuple, Self

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()
MOST_PROOF_HASHES = 64  # of a tree of 2^63 leaves


class MerkleNode(NamedTuple):
    """The full subtree over the leaves from place * 2^level on."""

    level: int
    place: int


Lookup = Callable[[MerkleNode], bytes]
"""Gives the hash of a node."""

Term = tuple[MerkleNode, ...]
"""One hash of a proof: nodes from left to right, folded from the right."""


def leaf_hash(leaf: bytes) -> bytes:
    """Returns the hash of a leaf's bytes."""
    return sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Returns the hash over two subtrees."""
    return sha256(b"\x01" + left + right).digest()


class Frontier:
    """A tree that only grows, as the few nodes from which it can go on.

    Args:
        size: Leaves so far.
        peaks: The hash of each full subtree, the largest first; as many as `size` has
            ones in binary.
    """

    def __init__(self, size: int = 0, peaks: Iterable[bytes] = ()) -> None:
        self.size = size
        self.peaks = list(peaks)
        if len(self.peaks) != size.bit_count():
            raise ValueError(f"{len(self.peaks)} peaks are no tree of {size} leaves")

    def push(self, leaf: bytes) -> list[bytes]:
        """Adds a leaf by its hash.

        Returns:
            The hashes of all nodes that are full now, by level, the leaf's first.
        """
        full = [leaf]
        for _ in range(_trailing_ones(self.size)):
            full.append(node_hash(self.peaks.pop(), full[-1]))
        self.peaks.append(full[-1])
        self.size += 1
        return full

    def root(self) -> bytes:
        """Returns the root of the tree as it is now."""
        return _folded(self.peaks) if self.peaks else EMPTY_ROOT

    def nodes(self) -> dict[MerkleNode, bytes]:
        """Returns the peaks by name."""
        return dict(zip(_peaks(0, self.size), self.peaks, strict=True))

    def to_bytes(self) -> bytes:
        """Returns the peaks, joined; with the size they are the frontier."""
        return b"".join(self.peaks)

    @classmethod
    def from_bytes(cls, size: int, content: bytes) -> Self:
        """Reads what `to_bytes` wrote."""
        return cls(size, split_hashes(content))


def split_hashes(content: bytes) -> list[bytes]:
    """Returns the hashes that were joined.

    Raises:
        ValueError: It is no whole number of hashes.
    """
    if len(content) % HASH_BYTES:
        raise ValueError(f"{len(content)} bytes are no whole number of hashes")
    starts = range(0, len(content), HASH_BYTES)
    return [content[start : start + HASH_BYTES] for start in starts]


def inclusion_terms(index: int, size: int) -> list[Term]:
    """Returns what proves that leaf `index` is in a tree of `size` leaves.

    Raises:
        ValueError: There is no such leaf.
    """
    if not 0 <= index < size:
        raise ValueError(f"a log of {size} entries has no entry {index}")
    terms: list[Term] = []
    low, high = 0, size
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            terms.append(_peaks(middle, high))
            high = middle
        else:
            terms.append(_peaks(low, middle))
            low = middle
    return terms[::-1]


def consistency_terms(first: int, second: int) -> list[Term]:
    """Returns what proves that a tree of `first` leaves grew into one of `second`.

    Raises:
        ValueError: The first is empty, or larger than the second.
    """
    if not 0 < first <= second:
        raise ValueError(f"no proof leads from {first} entries to {second}")
    terms: list[Term] = []
    low, high = 0, second
    while first < high:
        middle = low + _split(high - low)
        if first <= middle:
            terms.append(_peaks(middle, high))
            high = middle
        else:
            terms.append(_peaks(low, middle))
            low = middle
    if low > 0:  # else the verifier has this one: it is the first root
        terms.append(_peaks(low, high))
    return terms[::-1]


def covering(size: int) -> Term:
    """Returns what the root of a tree of `size` leaves, >= 1, is folded from."""
    return _peaks(0, size)


def resolve(terms: Iterable[Term], lookup: Lookup) -> list[bytes]:
    """Returns a proof's hashes."""
    return [_folded([lookup(node) for node in term]) for term in terms]


def root_from_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes]
) -> bytes | None:
    """Returns the root that a proof of inclusion leads to; None: it fits no tree.

    Args:
        leaf: The leaf's hash.
        index: Its place.
        size: Of the tree.
        proof: From the leaf upwards.
    """
    if not 0 <= index < size:
        return None
    place, last, node = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return None
        if place & 1 or place == last:
            node = node_hash(sibling, node)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            node = node_hash(node, sibling)
        place, last = place >> 1, last >> 1
    return node if last == 0 else None


def is_included(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> bool:
    """Says whether a proof shows that a leaf is in the tree of a root."""
    return root_from_inclusion(leaf, index, size, proof) == root


def is_consistent(
    first: tuple[int, bytes], second: tuple[int, bytes], proof: Sequence[bytes]
) -> bool:
    """Says whether a proof shows that the second tree begins with all of the first.

    Args:
        first: Size and root.
        second: Size and root.
        proof: As `consistency_terms` orders it.
    """
    (size, root), (later_size, later_root) = first, second
    if size == later_size:
        return not proof and root == later_root
    if size == 0:
        return not proof and root == EMPTY_ROOT
    if not proof or size > later_size:
        return False
    path = list(proof)
    if size.bit_count() == 1:
        path.insert(0, root)
    return _climbed(size, later_size, path) == (root, later_root)


def _climbed(size: int, later_size: int, path: list[bytes]) -> tuple[bytes, bytes]:
    """Returns the two roots that a path leads to; the empty bytes fit none."""
    place, last = size - 1, later_size - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            return b"", b""
        if place & 1 or place == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        place, last = place >> 1, last >> 1
    return (old, new) if last == 0 else (b"", b"")


def _peaks(low: int, high: int) -> Term:
    """Returns the nodes that cover the leaves from `low` to `high`, largest first.

    `low` is a multiple of the largest power of two that fits, as in any split.
    """
    nodes = []
    while low < high:
        level = (high - low).bit_length() - 1
        nodes.append(MerkleNode(level, low >> level))
        low += 1 << level
    return tuple(nodes)


def _folded(hashes: Sequence[bytes]) -> bytes:
    """Joins the hashes of ever smaller subtrees into one."""
    return reduce(lambda right, left: node_hash(left, right), reversed(hashes))


def _split(size: int) -> int:
    """Returns the largest power of two below `size`, which is > 1."""
    return 1 << ((size - 1).bit_length() - 1)


def _trailing_ones(value: int) -> int:
    return (~value & (value + 1)).bit_length() - 1
